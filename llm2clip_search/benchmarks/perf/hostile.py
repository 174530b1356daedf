"""Index tampered files of every format, and count what became of them.

``python -m llm2clip_search.benchmarks.perf.hostile --images 10000`` writes one line of JSON per kind of file. Each
batch is indexed by a process of its own with a bound on its memory, so that one that dies or does not end is counted.
Two more lines count hostile conditions and names that lead elsewhere. It exits with code 1 if anything got through, a
run died or did not end, or a file is neither row nor failure.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.benchmarks.perf.hostile_conditions import Attacked, attack_conditions
from llm2clip_search.benchmarks.perf.hostile_mutations import mutated
from llm2clip_search.benchmarks.perf.hostile_paths import attack_paths
from llm2clip_search.benchmarks.perf.hostile_seeds import container_seeds, image_seeds, picture
from llm2clip_search.corpora import FolderCorpus, SourceOptions
from llm2clip_search.corpora.containers import container_uri
from llm2clip_search.corpora.options import Kind
from llm2clip_search.encoders import Encoder, ModelIdentity
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.indexers import IndexConfig, index_corpus
from llm2clip_search.store import Snapshot

MEMORY = 6 << 30
"""Address space of a process, bytes."""
BATCH = 500
"""Files that one process indexes."""
SECONDS = 1800
"""A batch that takes longer does not end."""
_KINDS: dict[str, Kind | None] = {
    **dict.fromkeys(("pdf", "mp4"), None),
    "tar": "tar",
    **dict.fromkeys(("parquet", "arrow", "csv", "jsonl"), "table"),
    "txt": "text",
}
"""How a folder of such files is read."""


@dataclass(kw_only=True)
class Outcome:
    """What became of tampered files."""

    what: str
    files: int = 0
    rows: int = 0
    """Files that are a row, or have rows."""
    failures: int = 0
    """Files that are a failure, or of which a part is one, and that have no rows."""
    missing: int = 0
    """Files of which the index says nothing, although their format has no empty files."""
    crashes: int = 0
    """Runs that died."""
    hangs: int = 0
    """Runs that did not end."""
    ended_decoders: int = 0
    """Processes that decoded one file and were ended, or died, with ``isolate``: failures, too."""
    peak_bytes: int = 0
    """The most memory of a process that indexes, and with ``isolate`` of one that decodes."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why files failed, without numbers."""

    @property
    def got_through(self) -> int:
        """Files that are neither row nor failure, and runs that did not go to their end."""
        return self.missing + self.crashes + self.hangs

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": dict(self.reasons.most_common(12))}


class Means(Encoder):
    """Embeds an image as the mean colours of its four quarters, and a text as nothing: only reading is tested."""

    def __init__(self) -> None:
        self.identity = ModelIdentity.from_name("means")
        self.dim, self.max_tokens = 12, 77
        self.preprocess = PreprocessConfig(height=32, width=32)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        quarters = pixels.reshape(-1, 2, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(-1, self.dim) + 1.0
        unit: np.ndarray = (quarters / np.linalg.norm(quarters, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        return np.full((len(texts), self.dim), 1 / math.sqrt(self.dim), dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [1 + len(text.split()) for text in texts]


def hostile_files(count: int, seeds: Sequence[tuple[str, bytes]], *, seed: int) -> Iterator[tuple[str, bytes]]:
    """Tampered files by name, about as many of each seed."""
    by_extension: dict[str, list[bytes]] = {}
    for extension, data in seeds:
        by_extension.setdefault(extension, []).append(data)
    everything = [data for _, data in seeds]
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        extension, data = seeds[number % len(seeds)]
        others = by_extension[extension] if generator.random() < 0.7 else everything
        yield f"{number:06}.{extension}", mutated(data, extension, others, generator)


def index_hostile(
    what: str, files: Iterator[tuple[str, bytes]], *, kind: Kind | None = None, isolate: bool = True
) -> Outcome:
    """Index files in batches, each in a process of its own."""
    outcome = Outcome(what=what)
    batch: list[tuple[str, bytes]] = []
    for each in files:
        batch.append(each)
        if len(batch) == BATCH:
            _index_batch(outcome, batch, kind, isolate)
            batch = []
    if batch:
        _index_batch(outcome, batch, kind, isolate)
    return outcome


def _index_batch(outcome: Outcome, batch: Sequence[tuple[str, bytes]], kind: Kind | None, isolate: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="llm2clip-hostile-") as name:
        folder = Path(name) / "files"
        folder.mkdir()
        for file, data in batch:
            (folder / file).write_bytes(data)
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name if __spec__ else __name__, "--folder"]
        command += [str(folder), "--kind", kind or "", *(["--isolate"] if isolate else [])]
        outcome.files += len(batch)
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            outcome.hangs += 1
            return
        if done.returncode:
            outcome.crashes += 1
            outcome.reasons[f"a run ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}"] += 1
            return
        _count(outcome, json.loads(done.stdout), {file for file, _ in batch}, is_strict=kind is None)


def _count(outcome: Outcome, found: dict[str, Any], names: set[str], *, is_strict: bool) -> None:
    rows = {Path(path).name for path in found["rows"]}
    failed = {Path(container_uri(path)[0]).name: reason for path, reason in found["failures"]}
    outcome.rows += len(names & rows)
    outcome.failures += len(names & failed.keys() - rows)
    outcome.missing += len(names - rows - failed.keys()) if is_strict else 0
    outcome.peak_bytes = max(outcome.peak_bytes, found["peak"])
    for reason in failed.values():
        outcome.ended_decoders += any(words in reason for words in ("crash", "does not end", "processor time"))
        outcome.reasons["".join("#" if letter.isdigit() else letter for letter in reason)[:100]] += 1


def _index(folder: Path, kind: Kind | None, *, isolate: bool) -> dict[str, Any]:
    """Index a folder in this process: files that have rows, failures with their reasons, and the peak of memory."""
    import resource  # absent on Windows

    options = SourceOptions(kind=kind, modality="text" if kind == "text" else "image")
    index = folder.with_name("index")
    config = IndexConfig(isolate=isolate, threads=2)
    summary = index_corpus(FolderCorpus(folder, options=options), encoder=Means(), index=index, config=config)
    paths = Snapshot(index).metadata().column("path").to_pylist()
    rows = sorted({container_uri(path)[0] for path in paths})
    decoders = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 if isolate else 0
    failures = [(each["path"], each["reason"]) for each in summary.failures]
    return {"rows": rows, "failures": failures, "peak": max(peak_bytes(), decoders)}


def _limit_memory() -> None:
    """Bound this process and those that it starts: what gets through may read ``/dev/zero``."""
    import resource  # absent on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="tampered image files")
    parser.add_argument("--containers", type=int, default=2_000, help="tampered documents, videos, archives and tables")
    parser.add_argument("--no-conditions", action="store_true", help="leave hostile conditions out")
    parser.add_argument("--no-paths", action="store_true", help="leave names that lead elsewhere out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-isolate", action="store_true", help="decode in the process that indexes")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="", choices=("", *get_args(Kind)), help=argparse.SUPPRESS)
    parser.add_argument("--isolate", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    _limit_memory()
    if given.folder is not None:
        _write(_index(given.folder, given.kind or None, isolate=given.isolate))
        return
    isolate, got_through = not given.no_isolate, 0
    if given.images:
        seeds = list(image_seeds())
        outcome = index_hostile("images", hostile_files(given.images, seeds, seed=given.seed), isolate=isolate)
        _write(outcome.to_dict())
        got_through += outcome.got_through
    if given.containers:
        seeds = list(container_seeds())
        for extension in sorted({extension for extension, _ in seeds}):
            own = [seed for seed in seeds if seed[0] == extension]
            count = math.ceil(given.containers * len(own) / len(seeds))
            files = hostile_files(count, own, seed=given.seed)
            outcome = index_hostile(extension, files, kind=_KINDS[extension], isolate=isolate)
            _write(outcome.to_dict())
            got_through += outcome.got_through
    if not given.no_conditions:
        attacked = _attacked()
        _write({"what": "conditions", **attacked.to_dict()})
        got_through += attacked.got_through
    if not given.no_paths:
        with tempfile.TemporaryDirectory(prefix="llm2clip-hostile-") as name:
            paths = attack_paths(Path(name), Means())
        _write({"what": "paths", **paths.to_dict()})
        got_through += paths.got_through
    sys.exit(got_through > 0)


def _attacked() -> Attacked:
    """Hostile conditions on an index of some pictures."""
    with tempfile.TemporaryDirectory(prefix="llm2clip-hostile-") as name:
        images, index = Path(name) / "images", Path(name) / "index"
        images.mkdir()
        for number in range(20):
            picture(number).save(images / f"{number}.png")
        index_corpus(FolderCorpus(images), encoder=Means(), index=index, config=IndexConfig(threads=1))
        (folder := Path(name) / "empty").mkdir()
        with chdir(folder):
            return attack_conditions(Snapshot(index), folder)


def _write(value: dict[str, Any]) -> None:
    """A line of JSON on stdout."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        out.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
