"""What is done to an index while faults happen, and how an index is described to be compared with another.

Images are noise of 8 x 8 pixels and the encoder is a matrix, so that a run takes a fraction of a second and is the same
each time.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.vectors import unit
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.engine.search import SearchIndex
from llm2clip_search.indexers import IndexConfig, build_ann, index_folder
from llm2clip_search.indexers.publish import publish_index
from llm2clip_search.indexers.sources import move_source
from llm2clip_search.store import Manifest, Row, Snapshot, Writer
from llm2clip_search.store.compaction import compact
from llm2clip_search.store.manifest import MANIFEST
from llm2clip_search.vectorindex.policy import AnnConfig

DIM = 32
IMAGES = 24
INDEX = ".llm2clip"


class NoiseEncoder(Encoder):
    """Embeds 4 x 4 pixels by a random matrix, and a caption as random numbers that its bytes are the seed of."""

    def __init__(self) -> None:
        self.identity = ModelIdentity.from_name("noise")
        self.dim, self.max_tokens = DIM, 24
        self.preprocess = PreprocessConfig(height=4, width=4)
        self._matrix = np.random.default_rng(0).standard_normal((48, DIM), dtype=np.float32)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return unit((pixels.reshape(len(pixels), 48).astype(np.float32) - 127.3) @ self._matrix)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        drawn = [np.random.default_rng(list(text.encode())).standard_normal(DIM, dtype=np.float32) for text in texts]
        return unit(np.array(drawn, dtype=np.float32).reshape(-1, DIM))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A change of an index that may be interrupted anywhere, and done again."""

    name: str
    prepare: Callable[[Path], None]
    """Makes a folder with what there is before."""
    act: Callable[[Path], None]
    """Changes it; after an interruption the rest is done."""


def save_images(folder: Path, numbers: Sequence[int]) -> None:
    """Write images, each of its own content, under their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def index_images(base: Path, *, name: str = "photos", ann: AnnConfig | None = None) -> None:
    """Index a folder below ``base``, with a commit for every four images."""
    config = IndexConfig(batch_size=4, threads=2, rows_per_commit=4, seconds_per_commit=1e9, ann=ann)
    index_folder(base / name, encoder=NoiseEncoder(), index=base / INDEX, config=config)


def _indexed(base: Path) -> None:
    save_images(base / "photos", range(IMAGES // 2))
    index_images(base)


def _changed(base: Path) -> None:
    """New, changed, renamed, deleted and unreadable images."""
    _indexed(base)
    photos = base / "photos"
    save_images(photos, range(IMAGES // 2, IMAGES))
    (photos / "000.png").rename(photos / "renamed.png")
    (photos / "001.png").unlink()
    shutil.copyfile(photos / "020.png", photos / "002.png")
    (photos / "broken.jpg").write_bytes(b"nothing")


def _many_shards(base: Path) -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((60, DIM), dtype=np.float32))
    with _writer(base) as writer:
        for start in range(0, 60, 10):
            writer.commit([_row(number) for number in range(start, start + 10)], vectors[start : start + 10])
        writer.commit([_row(7, "moved.png")], vectors[7:8], removed=[*range(20, 30), 33, 45])


def _compact(base: Path) -> None:
    with _writer(base) as writer:
        compact(writer, everything=True)


def _old_schema(base: Path) -> None:
    """The manifest as schema 4 wrote it."""
    _changed(base)
    path = base / INDEX / MANIFEST
    raw = json.loads(path.read_text())
    sources = [{name: each[name] for name in ("uri", "exclude", "everything", "mounts")} for each in raw["sources"]]
    del raw["checksum"]
    path.write_text(json.dumps({**raw, "schema_version": 4, "sources": sources}))


def _with_graph(base: Path) -> None:
    """A graph, and rows that it does not have."""
    vectors = unit(np.random.default_rng(2).standard_normal((160, DIM), dtype=np.float32))
    with _writer(base) as writer:
        writer.commit([_row(number) for number in range(100)], vectors[:100])
        build_ann(writer, AnnConfig(kind="hnsw", tail_rows=0))
        writer.commit([_row(number) for number in range(100, 160)], vectors[100:], removed=range(5))


def _swap(base: Path) -> None:
    """More rows for the graph; then lists take its place."""
    with _writer(base) as writer:
        if writer.manifest.ann_config == AnnConfig(kind="hnsw", tail_rows=0):
            build_ann(writer, AnnConfig(kind="hnsw", tail_rows=0))
        build_ann(writer, AnnConfig(kind="ivf", tail_rows=0))


def _moved(base: Path) -> None:
    _indexed(base)
    (base / "photos").rename(base / "pictures")


def _move(base: Path) -> None:
    snapshot = Snapshot(base / INDEX)
    if any(source.uri == "photos" for source in snapshot.manifest.sources):
        move_source(base / INDEX, str(base / "photos"), str(base / "pictures"))


def _publish(base: Path) -> None:
    publish_index(base / INDEX, f"lance:{base / 'engine'}")


def scenarios() -> tuple[Scenario, ...]:
    """All of them; publishing needs LanceDB."""
    always = (
        Scenario(
            name="first index", prepare=lambda base: save_images(base / "photos", range(IMAGES)), act=index_images
        ),
        Scenario(name="index", prepare=_changed, act=index_images),
        Scenario(name="compact", prepare=_many_shards, act=_compact),
        Scenario(name="migrate", prepare=_old_schema, act=index_images),
        Scenario(name="ann swap", prepare=_with_graph, act=_swap),
        Scenario(name="sources move", prepare=_moved, act=_move),
    )
    publish = Scenario(name="publish", prepare=_changed_and_indexed, act=_publish)
    return (*always, publish) if find_spec("lancedb") else always


def _changed_and_indexed(base: Path) -> None:
    _changed(base)
    index_images(base)


def _row(number: int, path: str = "") -> Row:
    return Row(id=number, path=path or f"{number}.png", content_hash=str(number), size=number, mtime_ns=0)


def _writer(base: Path) -> Any:
    return Writer.open(base / INDEX, model=ModelIdentity.from_name("noise"), dim=DIM)


def described(base: Path) -> dict[str, Any]:
    """What an index holds, as JSON: rows with their vectors, sources, what search is, and what was published."""
    snapshot = Snapshot(base / INDEX)
    manifest = snapshot.manifest
    ann = None
    if manifest.ann is not None:
        ann = {"factory": manifest.ann.factory, "rows": manifest.ann.rows, "tail": len(_tail(snapshot))}
    return {
        "rows": described_rows(snapshot),
        "live": manifest.live,
        "sources": sorted(source.uri for source in manifest.sources),
        "failures": sorted(row["path"] for row in snapshot.failures()),
        "ann": ann,
        "engine": _published(base),
    }


def described_rows(snapshot: Snapshot) -> dict[str, Any]:
    """Id, content and vector of each live row by its path, as JSON."""
    rows = snapshot.metadata().to_pylist()
    vectors = snapshot.vectors([row["id"] for row in rows])
    return {
        row["path"]: [row["id"], row["content_hash"], sha256(vector.tobytes()).hexdigest()[:16]]
        for row, vector in sorted(zip(rows, vectors, strict=True), key=lambda each: str(each[0]["path"]))
    }


def _tail(snapshot: Snapshot) -> list[str]:
    """Shards that the approximate index does not cover."""
    assert snapshot.manifest.ann is not None, "the caller has asked"
    return sorted(snapshot.names - set(snapshot.manifest.ann.shards))


def _published(base: Path) -> Any:
    if not (base / "engine").exists():
        return None
    from llm2clip_search.vectorindex.serving.opening import open_engine

    engine = open_engine(f"lance:{base / 'engine'}")
    try:
        state = engine.state()
        ids = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *engine.ids()]))
        found, vectors = engine.vectors(ids)
        return {
            "is_complete": state is not None and state.is_complete,
            "ids": found.tolist(),
            "vectors": sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()[:16],
        }
    finally:
        engine.close()


def build_searched(base: Path) -> None:
    """An index with all kinds of files: dead rows, failures, and an approximate index that searches use."""
    base.mkdir(exist_ok=True)
    _changed(base)
    index_images(base, ann=AnnConfig(kind="hnsw", tail_rows=2))
    prefer_approximate(base / INDEX)


def answers(index: Path) -> dict[str, Any]:
    """What searches give: exactly, by a condition and approximately, with the metadata of each hit, as JSON."""
    search = SearchIndex(Snapshot(index), NoiseEncoder())
    found = {
        "exact": search.query("a dog", k=100),
        "condition": search.query("a cat", k=100, where="size > 3 AND path LIKE '%png'"),
        "few": search.query("a bird", k=3),
    }
    return {name: [hit.to_dict() for hit in result.hits] for name, result in found.items()}


def prefer_approximate(index: Path) -> None:
    """Say that exact search is slow: in an index this small it is faster than any other."""
    manifest = Manifest.read(index)
    with Writer.open(index, model=manifest.model, dim=manifest.dim) as writer:
        entry, config = writer.manifest.ann, writer.manifest.ann_config
        assert entry is not None, "it has an approximate index"
        assert config is not None, "which was configured"
        writer.set_ann(replace(entry, exact_ms=1e9, filtered_ms=1e9), config)
