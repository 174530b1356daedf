"""A folder of images into an index, and the same index again after the folder has changed."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.corpora.decode import Decoded, ImageFacts, decode_file
from llm2clip_search.corpora.folder import FoundFile, Walk, image_extensions, walk_images
from llm2clip_search.corpora.lookahead import map_ahead
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.images import MAX_PIXELS
from llm2clip_search.errors import CorpusError, ImageError, Llm2ClipError
from llm2clip_search.indexers.ann import AnnConfig, build_ann
from llm2clip_search.store import METADATA_SCHEMA, Row, Snapshot, Writer, default_index
from llm2clip_search.store.schema import Failure


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """How a folder is read and how often the index is committed."""

    batch_size: int = 32
    """Images a call of the vision tower."""
    threads: int = field(default_factory=lambda: min(16, os.cpu_count() or 1))
    """Threads that read and decode ahead of the tower."""
    ahead_batches: int = 4
    """Decoded batches that may wait: the bound on memory."""
    max_pixels: int = MAX_PIXELS
    """Larger images are failures, told from their header."""
    exclude: Sequence[str] = ()
    """gitignore patterns, relative to the folder."""
    rows_per_commit: int = 8192
    seconds_per_commit: float = 60.0
    """A commit comes after this time or that many rows: what a kill can cost."""
    ann: AnnConfig = field(default_factory=AnnConfig)


@dataclass(kw_only=True)
class IndexSummary:
    """What an `index_folder` run did, in files and in seconds."""

    root: str
    index: str
    indexed: int = 0
    """Embedded in this run."""
    reused: int = 0
    """New paths whose content was known: renamed, copied, or touched without change."""
    unchanged: int = 0
    removed: int = 0
    failed: int = 0
    total: int = 0
    """Live rows of the index afterwards, all corpora together."""
    unreadable: list[str] = field(default_factory=list)
    """Folders that could not be looked into; rows below them were kept."""
    failures: list[dict[str, str]] = field(default_factory=list)
    ann: str | None = None
    """FAISS factory string of the approximate index; None when search is exact."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "decode", "encode", "write"), 0.0))
    """read and decode are summed over threads, which work beside encode."""
    elapsed: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def index_folder(
    root: str | os.PathLike[str],
    *,
    encoder: Encoder,
    index: str | os.PathLike[str] | None = None,
    config: FolderConfig | None = None,
    progress: Progress = no_progress,
) -> IndexSummary:
    """Bring an index up to date with a folder: embed new and changed images, forget deleted ones.

    A file of known size and time is unchanged; else its content hash decides, so renamed, copied and
    touched files keep their vector. Images that fail are rows of ``failures.parquet``.

    Args:
        index: the index folder, by default the nearest ``.llm2clip`` upward, else a new one here.
        progress: called as files are done.

    Raises:
        CorpusError: no such folder, or no image in it.
        StoreError: another model made the index, or another process is writing it.
    """
    config = config or FolderConfig()
    started = time.perf_counter()
    folder = Path(index) if index is not None else default_index()
    root = Path(root).expanduser()
    walk = walk_images(root, exclude=config.exclude)
    if not walk.files:
        _refuse_empty(root, folder, walk)
    with Writer.open(folder, model=encoder.identity, dim=encoder.dim) as writer:
        run = _Run(writer, encoder, config, root, walk)
        summary = run.execute(progress)
        written = time.perf_counter()
        entry = build_ann(writer, config.ann)
        summary.ann = entry.factory if entry else None
        summary.seconds["write"] += time.perf_counter() - written
        summary.total = writer.manifest.live
    summary.elapsed = time.perf_counter() - started
    return summary


def _refuse_empty(root: Path, folder: Path, walk: Walk) -> None:
    some = ", ".join(ext for ext in (".jpg", ".png", ".webp", ".heic", ".avif") if ext in image_extensions())
    why = f"; {len(walk.unreadable)} folders could not be read" if walk.unreadable else ""
    kept = ""
    if (folder / "manifest.json").exists():
        snapshot = Snapshot(folder)
        rows = sum(snapshot.is_under(path, snapshot.relative(root)) for path in _columns(snapshot)["path"])
        # An unmounted disk looks like an emptied folder: forgetting its images would be a costly guess.
        kept = f"; the index keeps the {rows} it knows from there" if rows else ""
    raise CorpusError(f"There are no images in {root} (looked for {some} and others{why}){kept}.")


def _columns(snapshot: Snapshot) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = snapshot.metadata().to_pydict()
    return columns


@dataclass(slots=True)
class _Ready:
    """A row waiting for its commit: with a fresh vector, or with the id whose vector it keeps."""

    path: str
    decoded: Decoded
    facts: ImageFacts
    id: int | None = None
    vector: np.ndarray | None = None
    vector_of: int | None = None


class _Run:
    """One pass over a walked folder."""

    def __init__(self, writer: Writer, encoder: Encoder, config: FolderConfig, root: Path, walk: Walk) -> None:
        self.writer, self.encoder, self.config, self.walk = writer, encoder, config, walk
        snapshot = writer.snapshot
        self.root = snapshot.relative(root)
        self.summary = IndexSummary(root=str(root), index=str(snapshot.folder))
        rows = [
            dict(zip(METADATA_SCHEMA.names, values, strict=True))
            for values in zip(*_columns(snapshot).values(), strict=True)
        ]
        self.known: dict[str, dict[str, Any]] = {row["path"]: row for row in rows}
        self.by_hash: dict[str, dict[str, Any]] = {row["content_hash"]: row for row in rows}
        self.gone: dict[int, dict[str, Any]] = {}
        """Rows of this corpus whose file is no longer there, by id."""
        self.gone_by_hash: dict[str, int] = {}
        self.batch: list[Decoded] = []
        self.ready: list[_Ready] = []
        self.removed: set[int] = set()
        self.failures: list[Failure] = []
        self.committed = time.monotonic()

    def execute(self, progress: Progress) -> IndexSummary:
        summary, config = self.summary, self.config
        todo = self._changed()
        for folder, reason in self.walk.unreadable:
            summary.unreadable.append(f"{folder}: {reason}")
        results = map_ahead(
            lambda file: decode_file(
                file, self.encoder.preprocess, max_pixels=config.max_pixels, known=self.by_hash.__contains__
            ),
            todo,
            threads=config.threads,
            ahead=config.ahead_batches * config.batch_size,
        )
        progress("images", 0, len(todo), {})
        try:
            for done, decoded in enumerate(results, start=1):
                self._take(decoded)
                if len(self.batch) == config.batch_size:
                    self._encode()
                if self._commit_is_due():
                    self._commit()
                progress("images", done, len(todo), {})
            self._encode()
        except BaseException:
            self._commit()  # interrupted, or the model failed: what is embedded already is kept
            raise
        self.removed |= self.gone.keys()
        summary.removed = len(self.gone)
        self._commit(final=True)
        summary.failed = len(self.failures)
        summary.failures = [failure.to_dict() for failure in self.failures]
        return summary

    def _changed(self) -> list[FoundFile]:
        """Files to look into; notes on the way what is unchanged and what is gone."""
        snapshot = self.writer.snapshot
        present: set[str] = set()
        todo: list[FoundFile] = []
        for file in self.walk.files:
            path = snapshot.relative(file.path)
            present.add(path)
            row = self.known.get(path)
            if row is not None and (row["size"], row["mtime_ns"]) == (file.size, file.mtime_ns):
                self.summary.unchanged += 1
            else:
                todo.append(file)
        hidden = [snapshot.relative(folder) for folder, _ in self.walk.unreadable]
        for path, row in self.known.items():
            if path in present or not snapshot.is_under(path, self.root):
                continue
            if any(snapshot.is_under(path, folder) for folder in hidden):
                continue
            self.gone[row["id"]] = row
            self.gone_by_hash[row["content_hash"]] = row["id"]
        return todo

    def _take(self, decoded: Decoded) -> None:
        """Sort one decoded file: failed, known content, or pixels for the tower."""
        path = self.writer.snapshot.relative(decoded.file.path)
        for stage, seconds in decoded.seconds.items():
            self.summary.seconds[stage] += seconds
        if decoded.error is not None or not _is_text(path):
            self._fail(decoded, decoded.error or ImageError("its name is not valid UTF-8", stage="read"))
            return
        before = self.known.get(path)
        if decoded.facts is not None:
            self.batch.append(decoded)
            return
        twin = self.by_hash[decoded.content_hash]
        facts = ImageFacts(**{name: twin[name] for name in ImageFacts.__dataclass_fields__})
        keeps: int | None = None
        if before is not None and before["content_hash"] == decoded.content_hash:
            keeps = before["id"]
        elif (moved := self.gone_by_hash.pop(decoded.content_hash, None)) is not None:
            keeps = moved
            del self.gone[moved]
        if before is not None and keeps != before["id"]:
            self.removed.add(before["id"])
        self.ready.append(_Ready(path, decoded, facts, id=keeps, vector_of=twin["id"] if keeps is None else keeps))
        self.summary.reused += 1

    def _fail(self, decoded: Decoded, error: ImageError) -> None:
        path = self.writer.snapshot.relative(decoded.file.path)
        printable = path.encode("utf-8", "backslashreplace").decode("utf-8")
        self.failures.append(Failure(path=printable, stage=error.stage, reason=str(error)))
        before = self.known.get(path)
        if before is not None and error.stage != "read":
            # The file now holds something else, which is broken; the old vector describes nothing there.
            self.removed.add(before["id"])

    def _encode(self) -> None:
        if not self.batch:
            return
        batch, self.batch = self.batch, []
        started = time.perf_counter()
        pixels = np.stack([decoded.pixels for decoded in batch if decoded.pixels is not None])
        try:
            vectors = self.encoder.encode_pixels(pixels)
        except Llm2ClipError:
            raise  # the model itself is at fault, not one image
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], ImageError(f"{type(error).__name__}: {error}", stage="encode"))
                return
            for decoded in batch:  # find the one that fails, keep the others
                self.batch = [decoded]
                self._encode()
            return
        self.summary.seconds["encode"] += time.perf_counter() - started
        for decoded, vector in zip(batch, vectors, strict=True):
            assert decoded.facts is not None, "only decoded files are batched"
            decoded.pixels = None
            path = self.writer.snapshot.relative(decoded.file.path)
            if not np.isfinite(vector).all():
                self._fail(decoded, ImageError("the vision tower gave a vector that is not finite", stage="encode"))
                continue
            if path in self.known:  # a changed file's old row goes in the commit that brings its new one
                self.removed.add(self.known[path]["id"])
            self.ready.append(_Ready(path, decoded, decoded.facts, vector=vector))
            self.summary.indexed += 1

    def _commit_is_due(self) -> bool:
        waited = time.monotonic() - self.committed > self.config.seconds_per_commit
        return len(self.ready) >= self.config.rows_per_commit or (waited and bool(self.ready))

    def _commit(self, *, final: bool = False) -> None:
        started = time.perf_counter()
        ready, self.ready = self.ready, []
        removed, self.removed = self.removed, set()
        if ready or removed or (final and self.root not in self.writer.manifest.roots):
            rows, vectors = self._assemble(ready)
            self.writer.commit(rows, vectors, removed=removed, root=self.root if final else None)
        if final:
            self.writer.record_failures(self.failures, under=self.root)
        self.committed = time.monotonic()
        self.summary.seconds["write"] += time.perf_counter() - started

    def _assemble(self, ready: Sequence[_Ready]) -> tuple[list[Row], np.ndarray]:
        fresh = iter(self.writer.allocate(sum(item.id is None for item in ready)))
        vectors = np.empty((len(ready), self.encoder.dim), dtype=np.float32)
        kept = sorted({item.vector_of for item in ready if item.vector_of is not None})
        stored = dict(zip(kept, self.writer.snapshot.vectors(kept), strict=True))
        rows: list[Row] = []
        for place, item in enumerate(ready):
            vectors[place] = item.vector if item.vector_of is None else stored[item.vector_of]
            facts = {name: getattr(item.facts, name) for name in ImageFacts.__dataclass_fields__}
            rows.append(
                Row(
                    id=next(fresh) if item.id is None else item.id,
                    path=item.path,
                    content_hash=item.decoded.content_hash,
                    size=item.decoded.file.size,
                    mtime_ns=item.decoded.file.mtime_ns,
                    **facts,
                )
            )
        return rows, vectors


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
