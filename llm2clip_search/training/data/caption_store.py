"""The caption store: a folder of caption embeddings that stage 2 reads instead of running the LLM.

* ``store.json``: schema version, fingerprint and folder of the LLM, width, dtype, and the shards' names.
* ``NNNNNN.arrow``: columns ``caption_id`` (int64, see `caption_table.caption_id`) and ``embedding`` (fixed-size list
  of float16 or float32), uncompressed, so that it can be memory-mapped. If a recipe needs them, the L2-normalised
  embeddings of a CLIP text tower are the last columns.

float16 takes half the space of the original's float32: for 60 million captions of an 8B LLM, 0.5 TB instead of 1.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.progress import Progress
from llm2clip_search.base.vectors import batches_by_length
from llm2clip_search.errors import StoreError, first_line
from llm2clip_search.store.lock import writer_lock

SCHEMA_VERSION = 1
SHARD_ROWS = 65_536
EMBED_ROWS = 2048
"""Captions embedded between two progress reports."""

StoredDtype = Literal["float16", "float32"]
ANOTHER_FOLDER = "Name another folder with --out."
Embed = Callable[[Sequence[str]], np.ndarray]
"""Embeds captions: float32 ``[n, width]``."""
EmbedParts = Callable[[Iterable[Sequence[str]]], Iterator[np.ndarray]]
"""The same of parts, one after the other."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """Contents of ``store.json``."""

    schema_version: int = SCHEMA_VERSION
    llm: str
    """Fingerprint of the LLM that made the embeddings."""
    llm_folder: str
    """Folder of that LLM, for messages."""
    width: int
    clip: str = ""
    """Name and fingerprint of the CLIP text tower whose embeddings are the last columns; empty for none."""
    clip_width: int = 0
    """Number of those columns, which ``width`` includes."""
    dtype: StoredDtype = "float16"
    shards: tuple[str, ...] = ()
    rows: int = 0


class CaptionStore:
    """A caption store opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Memory-map all shards.

        Raises:
            StoreError: there is no store or it is empty, its schema is newer, or a shard is missing or damaged.
        """
        self.folder = folder
        self.info = read_store_info(folder)
        parts = [_read_shard(folder / name, self.info) for name in self.info.shards]
        if not parts:
            raise StoreError(f"{folder} holds no caption embeddings yet.", hint="Run train embed to its end.")
        self._parts = [vectors for _, vectors in parts]
        ids = np.concatenate([shard_ids for shard_ids, _ in parts])
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def __len__(self) -> int:
        return len(self._sorted)

    def require_models(self, llm: str, folder: Path, *, clip: str = "") -> None:
        """Check that the given models made the embeddings.

        Args:
            llm: fingerprint of the LLM in ``folder``.
            clip: name and fingerprint of the CLIP text tower; empty if none is needed.

        Raises:
            StoreError: another model made them; the message names both.
        """
        if self.info.llm != llm:
            raise StoreError(
                f"{self.folder} was embedded by LLM {self.info.llm} ({self.info.llm_folder}), but {folder} is"
                f" LLM {llm}.",
                hint=f"Run train embed with {folder} into another folder.",
            )
        if clip and self.info.clip != clip:
            raise StoreError(
                f"{self.folder} holds text embeddings of {self.info.clip or 'no CLIP'}, but the recipe needs those of"
                f" {clip}.",
                hint="Run train embed with this recipe into another folder.",
            )

    def positions(self, caption_ids: np.ndarray) -> np.ndarray:
        """Positions of captions in the store, int64 ``[n]``, to pass to `embeddings`.

        Raises:
            StoreError: some captions are not in the store; the message has their number.
        """
        found = np.minimum(np.searchsorted(self._sorted, caption_ids), len(self._sorted) - 1)
        missing = self._sorted[found] != caption_ids
        if missing.any():
            raise StoreError(
                f"{self.folder} lacks {int(missing.sum()):,} of {len(caption_ids):,} captions.",
                hint="Run train embed again with the same recipe and --data.",
            )
        positions: np.ndarray = self._order[found]
        return positions

    def embeddings(self, positions: np.ndarray) -> np.ndarray:
        """Embeddings ``[n, width]`` at the given positions, in the store's dtype."""
        out = np.empty((len(positions), self.info.width), dtype=self.info.dtype)
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        for shard in np.unique(shards):
            mine = shards == shard
            out[mine] = self._parts[shard][positions[mine] - self._starts[shard]]
        return out


def fill_caption_store(
    captions: pa.Table,
    embed: Embed,
    *,
    out: Path,
    llm: str,
    llm_folder: Path,
    width: int,
    clip: str = "",
    clip_width: int = 0,
    progress: Progress,
    shard_rows: int = SHARD_ROWS,
    dtype: StoredDtype = "float16",
    embed_parts: EmbedParts | None = None,
) -> int:
    """Embed the captions that the store does not hold yet, shard by shard; returns their number.

    If the process is killed, only the unfinished shard is lost, and the next call continues after the last complete
    one.

    Args:
        embed_parts: embeds all parts elsewhere, in place of ``embed``.
        width: width of the embeddings, including the ``clip_width`` columns of ``clip``; see `StoreInfo`.

    Raises:
        StoreError: the folder holds a store of another LLM, CLIP, width or dtype, another process is writing it, a
            shard is damaged, or an embedding exceeds the range of the dtype.
    """
    out.mkdir(parents=True, exist_ok=True)
    with writer_lock(out):
        for left_over in out.glob(".*.tmp"):
            left_over.unlink()
        info = StoreInfo(
            llm=llm, llm_folder=str(llm_folder), width=width, clip=clip, clip_width=clip_width, dtype=dtype
        )
        if (out / "store.json").exists():
            info = _existing_info(out, info)
        have = [_read_shard(out / name, info)[0] for name in info.shards]
        ids = captions["caption_id"].to_numpy()
        _, first = np.unique(ids, return_index=True)
        todo = np.sort(first)
        if have:
            todo = todo[~np.isin(ids[todo], np.concatenate(have))]
        texts = captions["caption"].to_pylist()
        done = 0
        batches = [todo[batch] for batch in batches_by_length([len(texts[row]) for row in todo], shard_rows)]
        parts = ([texts[row] for row in part] for rows in batches for part in _parts(rows))
        embedded = map(embed, parts) if embed_parts is None else embed_parts(parts)
        for rows in batches:
            vectors = np.empty((len(rows), width), dtype=dtype)
            for start, row_numbers in zip(range(0, len(rows), EMBED_ROWS), _parts(rows), strict=True):
                part = [texts[row] for row in row_numbers]
                vectors[start : start + len(part)] = _stored(next(embedded), part, width, dtype)
                done += len(part)
                progress("captions", done, len(todo), {})
            name = f"{len(info.shards):06d}.arrow"
            _write_shard(out / name, ids[rows], vectors)
            info = replace(info, shards=(*info.shards, name), rows=info.rows + len(rows))
            replace_file(out / "store.json", json.dumps(asdict(info), indent=1).encode() + b"\n")
    return len(todo)


def read_store_info(folder: Path) -> StoreInfo:
    """Read ``store.json``.

    Raises:
        StoreError: it is missing, invalid, or of another schema version.
    """
    path = folder / "store.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
        if version != SCHEMA_VERSION:
            raise StoreError(f"{path} has schema version {version}; this version reads {SCHEMA_VERSION}.")
        return StoreInfo(**{**raw, "shards": tuple(raw["shards"])})
    except OSError as error:
        raise StoreError(
            f"{folder} is not a caption store: it has no readable store.json.", hint="Create one with train embed."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} does not describe a caption store: {error!r}.") from error


def _existing_info(folder: Path, wanted: StoreInfo) -> StoreInfo:
    """The info of an existing store, which has to hold embeddings of the wanted kind."""
    info = read_store_info(folder)
    if info.clip != wanted.clip:
        raise StoreError(
            f"{folder} holds text embeddings of {info.clip or 'no CLIP'}, but the recipe needs"
            f" {f'those of {wanted.clip}' if wanted.clip else 'none'}.",
            hint=ANOTHER_FOLDER,
        )
    if (info.llm, info.width) != (wanted.llm, wanted.width):
        raise StoreError(
            f"{folder} holds embeddings of LLM {info.llm} ({info.llm_folder}, {info.width} wide), but"
            f" {wanted.llm_folder} is LLM {wanted.llm} ({wanted.width} wide).",
            hint=ANOTHER_FOLDER,
        )
    if info.dtype != wanted.dtype:
        raise StoreError(
            f"{folder} holds {info.dtype} embeddings, not {wanted.dtype}.",
            hint=f"Continue with --dtype {info.dtype}, or name another folder with --out.",
        )
    return info


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that are embedded between two progress reports."""
    return (rows[start : start + EMBED_ROWS] for start in range(0, len(rows), EMBED_ROWS))


def _stored(exact: np.ndarray, texts: list[str], width: int, dtype: StoredDtype) -> np.ndarray:
    assert exact.shape == (len(texts), width), f"{len(texts)} captions and width {width}, but shape {exact.shape}"
    with np.errstate(over="ignore"):  # reported below, with the caption
        vectors: np.ndarray = exact.astype(dtype)
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        largest = float(np.abs(exact[bad[0]]).max())
        raise StoreError(
            f"The embedding of caption {texts[bad[0]]!r} has a value of {largest:,.0f}, but the largest {dtype} is"
            f" {np.finfo(dtype).max:,.0f}.",
            hint="Use --dtype float32." if np.isfinite(largest) and dtype == "float16" else "",
        )
    return vectors


def _schema(info: StoreInfo) -> pa.Schema:
    value = pa.from_numpy_dtype(np.dtype(info.dtype))
    return pa.schema([("caption_id", pa.int64()), ("embedding", pa.list_(value, info.width))])


def _write_shard(path: Path, ids: np.ndarray, vectors: np.ndarray) -> None:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"caption_id": pa.array(ids), "embedding": flat})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    replace_file(path, sink.getvalue())


def _read_shard(path: Path, info: StoreInfo) -> tuple[np.ndarray, np.ndarray]:
    """Caption ids int64 ``[n]``, and embeddings ``[n, width]`` as a view of the memory-mapped file."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if table.schema != _schema(info):
            raise ValueError(f"its columns are {', '.join(map(str, table.schema.types))}")
        flat = table["embedding"].chunk(0).flatten().to_numpy(zero_copy_only=True)
        return table["caption_id"].to_numpy(), flat.reshape(-1, info.width)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} is not a readable shard of a caption store ({first_line(error)}).",
            hint="Run train embed into another folder.",
        ) from error
