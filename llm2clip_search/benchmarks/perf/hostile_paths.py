"""Names that want to lead out of the folder or archive that holds them; and what became of them."""

import hashlib
import http.client
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llm2clip_search.benchmarks.perf.hostile_seeds import picture
from llm2clip_search.benchmarks.perf.serving import running
from llm2clip_search.corpora import FolderCorpus, SourceOptions
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.weights import weight_files
from llm2clip_search.errors import Llm2ClipError
from llm2clip_search.indexers import IndexConfig, index_corpus
from llm2clip_search.store import Snapshot

_UP = (
    *("../", "../../../../", "a/../../", "./../", "..\\", "a\\..\\..\\", "//", "/", "C:\\", "file:///", "~/"),
    "%2e%2e/../",
)
_TARGETS = (
    *("etc/passwd", "model.safetensors", "*", "x\0.safetensors", "x\n", ".ssh/id_rsa", "", "dev/zero", "a b/../.."),
)
ESCAPING = tuple(f"{up}{target}" for up, target in product(_UP, _TARGETS))
"""Names that no file of a folder has: each goes up, begins at a root, or holds what no name holds."""
CLIMBS = (
    *("../secret", "..%2fsecret", "..%2Fsecret", "%2e%2e/secret", "%2e%2e%2fsecret", ".%2e/secret"),
    *("%252e%252e%252fsecret", "..\\secret", "..%5csecret", "%c0%ae%c0%ae/secret", "%c0%ae%c0%ae%c0%afsecret"),
    *("..%c0%afsecret", "%e0%80%ae%e0%80%ae/secret", "..%00/secret", "../secret%00", "page.js%00"),
    *("page.js/../../secret", "./../secret", "....//secret", "..;/secret", "%uff0e%uff0e/secret", "/etc/passwd"),
    *("//etc/passwd", "%2fetc%2fpasswd", "..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "link", "x" * 5000),
    *("%ff", "C:%5cWindows%5cwin.ini"),
)
"""Ends of addresses that want ``secret`` beside a folder that is served, or files of the machine."""
CLIMB_PREFIXES = ("/static/", "/static//", "/")


@dataclass(kw_only=True)
class AttackedPaths:
    """What became of such names."""

    attacks: int = 0
    refused: int = 0
    """A sentence, a failure, or an answer without content."""
    contained: int = 0
    """Rows of a tar, under the name that the member has: its own bytes are read, and nothing else."""
    escaped: int = 0
    """A name was taken for a file elsewhere."""
    read: int = 0
    """Answers and rows with the content of a file elsewhere."""
    written: int = 0
    """Files that are there afterwards and were not before."""
    crashes: int = 0
    """Other errors than a sentence."""

    @property
    def got_through(self) -> int:
        """Attacks that did something."""
        return self.escaped + self.read + self.written + self.crashes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def attack_paths(folder: Path, encoder: Encoder) -> AttackedPaths:
    """Name files elsewhere in the index of a model's weights, in a tar, in the manifest of an index, and to a server.

    Args:
        folder: an empty one.
    """
    outcome = AttackedPaths()
    pictures, index = folder / "pictures", folder / "index"
    pictures.mkdir()
    picture(0).save(pictures / "0.png")
    index_corpus(FolderCorpus(pictures), encoder=encoder, index=index, config=IndexConfig(threads=1))
    before = _files(folder)
    _attack_server(outcome, index)
    _attack_model(outcome, folder / "model")
    _attack_tar(outcome, folder / "tars", encoder)
    _attack_manifest(outcome, index, folder / "elsewhere")
    made = {folder / name for name in ("model", "tars", "elsewhere", "model.safetensors", "secret.png")}
    outcome.written += sum(made.isdisjoint([path, *path.parents]) for path in _files(folder) - before)
    return outcome


def _files(folder: Path) -> set[Path]:
    """All files below a folder."""
    return {Path(top, file) for top, _, files in os.walk(folder) for file in files}


def _attempt(outcome: AttackedPaths, do: Callable[[], bool]) -> None:
    """Count one attack; ``do`` says whether a name was taken for a file elsewhere."""
    outcome.attacks += 1
    try:
        if do():
            outcome.escaped += 1
        else:
            outcome.refused += 1
    except Llm2ClipError:
        outcome.refused += 1
    except Exception:
        outcome.crashes += 1


def _attack_model(outcome: AttackedPaths, folder: Path) -> None:
    """Name parts of a model's weights."""
    folder.mkdir()
    outside = folder.with_name("model.safetensors")
    outside.write_bytes(b"")
    for name in (*ESCAPING, f"../{outside.name}", str(outside)):
        weights = {"weight_map": {"a": "model-1.safetensors", "b": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
        _attempt(outcome, lambda: bool(weight_files(folder)))


def _attack_tar(outcome: AttackedPaths, folder: Path, encoder: Encoder) -> None:
    """Index a tar whose members are called so, or are links to such names."""
    folder.mkdir()
    secret = folder.with_name("secret.png")
    picture(1).save(secret)
    content = io.BytesIO()
    picture(2).save(content, "PNG")
    members = list(_members((*ESCAPING, f"../{secret.name}", str(secret))))
    outcome.attacks += len(members)
    with tarfile.open(folder / "hostile.tar", "w") as tar:
        for info in members:
            info.size = len(content.getvalue()) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content.getvalue()) if info.isreg() else None)
    before = _files(folder.parent)
    corpus = FolderCorpus(folder, options=SourceOptions(kind="tar", everything=True))
    index = folder / "index"
    try:
        index_corpus(corpus, encoder=encoder, index=index, config=IndexConfig(threads=1))
    except Exception:
        outcome.crashes += 1
        return
    own = hashlib.blake2b(content.getvalue(), digest_size=16).hexdigest()
    hashes = Snapshot(index).metadata().column("content_hash").to_pylist()
    outcome.contained += hashes.count(own)
    outcome.read += len(hashes) - hashes.count(own)
    outcome.refused += len(members) - len(hashes)
    outcome.written += sum(index not in path.parents for path in _files(folder.parent) - before)


def _members(names: Sequence[str]) -> Iterator[tarfile.TarInfo]:
    """Members of a tar that are called so, and links to what is."""
    for number, name in enumerate(names):
        yield tarfile.TarInfo(name if name.endswith(".png") else f"{name}.png")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"{number}-{kind.decode()}.png")
            link.type, link.linkname = kind, name
            yield link


def _attack_manifest(outcome: AttackedPaths, index: Path, elsewhere: Path) -> None:
    """Name shards, tombstones and the approximate index of somebody's index."""
    shutil.copytree(index / "shards", elsewhere)
    path = index / "manifest.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["checksum"]
    shard = raw["shards"][0]["name"]
    ann = {"factory": "Flat", "rows": 1, "trained_on": 1, "shards": [shard], "queries": "midpoints", "points": []}
    for name in (*ESCAPING, f"../../{elsewhere.name}/{shard}", str(elsewhere / shard)):
        for changes in (
            {"shards": [{**raw["shards"][0], "name": name}]},
            {"ann": {**ann, "name": name, "sha256": None, "exact_ms": 0.0, "filtered_ms": 0.0}},
            {"tombstones": name},
        ):
            path.write_text(json.dumps(raw | changes), encoding="utf-8")
            _attempt(outcome, lambda: Snapshot(index).manifest is not None)


def _attack_server(outcome: AttackedPaths, index: Path) -> None:
    """Ask a server for files beside those that it serves."""
    beside = (Path(__file__).parents[2] / "server" / "app.py").read_bytes()
    with running(index) as (address, _):
        host = urlsplit(address).netloc
        for prefix, path in product(CLIMB_PREFIXES, CLIMBS):
            outcome.attacks += 1
            connection = http.client.HTTPConnection(host, timeout=20)
            try:
                connection.request("GET", prefix + path.replace("secret", "app.py"))
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                outcome.crashes += 1
                continue
            finally:
                connection.close()
            is_read = answer.status == 200 or b"root:" in body or beside[:100] in body
            outcome.read += is_read
            outcome.refused += not is_read
