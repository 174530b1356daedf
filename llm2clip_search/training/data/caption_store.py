"""Every caption through the LLM once: a folder of Arrow files that stage 2 reads instead of running it.

* ``store.json``: schema version, the LLM's fingerprint and where it lay, width, type, and the shards' names.
* ``NNNNNN.arrow``: columns ``caption_id`` (int64, see `caption_table.caption_id`) and ``embedding`` (fixed-size
  list of float16 or float32), uncompressed, so that reading maps it into memory. Where a recipe needs them,
  unit vectors of a CLIP text tower stand behind the LLM's in every row.

Half precision halves what the original keeps; over 60 million captions of an 8B LLM it is 0.5 TB, not 1.
"""

import json
from collections.abc import Callable, Sequence
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
"""Captions between two reports."""

StoredDtype = Literal["float16", "float32"]
Embed = Callable[[Sequence[str]], np.ndarray]
"""Captions to float32 ``[n, width]``."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What ``store.json`` says."""

    schema_version: int = SCHEMA_VERSION
    llm: str
    """Fingerprint of the LLM that made the embeddings."""
    llm_folder: str
    width: int
    clip: str = ""
    """Name and fingerprint of the CLIP text tower whose unit vectors are the last columns."""
    clip_width: int = 0
    """How many of the ``width`` columns those are."""
    dtype: StoredDtype = "float16"
    shards: tuple[str, ...] = ()
    rows: int = 0


class CaptionStore:
    """Embeddings by caption id, open for reading."""

    def __init__(self, folder: Path) -> None:
        """Map every shard.

        Raises:
            StoreError: no store, a newer schema, or a shard that is missing or damaged.
        """
        self.folder = folder
        self.info = read_store_info(folder)
        parts = [_read_shard(folder / name, self.info) for name in self.info.shards]
        if not parts:
            raise StoreError(f"{folder} holds no caption embeddings yet; run train embed to the end.")
        self._parts = [vectors for _, vectors in parts]
        ids = np.concatenate([shard_ids for shard_ids, _ in parts])
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def __len__(self) -> int:
        return len(self._sorted)

    def demand(self, fingerprint: str, folder: Path, *, clip: str = "") -> None:
        """Refuse to serve another LLM than the one that made the store, or another CLIP where one is needed.

        Raises:
            StoreError: naming both.
        """
        if self.info.llm != fingerprint:
            raise StoreError(
                f"{self.folder} was embedded by LLM {self.info.llm} ({self.info.llm_folder}), but {folder} is"
                f" LLM {fingerprint}; run train embed with it into another folder."
            )
        if clip and self.info.clip != clip:
            raise StoreError(
                f"{self.folder} holds text embeddings of {self.info.clip or 'no CLIP'}, but the recipe needs those of"
                f" {clip}; run train embed with the recipe into another folder."
            )

    def positions(self, caption_ids: np.ndarray) -> np.ndarray:
        """Where captions lie, int64 ``[n]``, for `rows`.

        Raises:
            StoreError: captions that are not in the store, with their count.
        """
        found = np.minimum(np.searchsorted(self._sorted, caption_ids), len(self._sorted) - 1)
        missing = self._sorted[found] != caption_ids
        if missing.any():
            raise StoreError(
                f"{self.folder} lacks {int(missing.sum()):,} of {len(caption_ids):,} captions; run train embed again"
                " with the data of this run."
            )
        positions: np.ndarray = self._order[found]
        return positions

    def embeddings(self, positions: np.ndarray) -> np.ndarray:
        """Embeddings ``[n, width]`` in the store's precision."""
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
) -> int:
    """Embed the captions that the store lacks, a shard at a time; returns how many there were.

    A kill loses the shard in flight; the next call goes on behind the last whole one.

    Args:
        width: of what ``embed`` gives, the ``clip_width`` columns of ``clip`` among them; see `StoreInfo`.

    Raises:
        StoreError: a store of another LLM, CLIP, width or precision in the folder, another process that writes
            it, a damaged shard, or an embedding that its numbers cannot hold.
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
        for batch in batches_by_length([len(texts[row]) for row in todo], shard_rows):
            rows = todo[batch]
            vectors = np.empty((len(rows), width), dtype=dtype)
            for start in range(0, len(rows), EMBED_ROWS):
                part = [texts[row] for row in rows[start : start + EMBED_ROWS]]
                vectors[start : start + len(part)] = _embed(embed, part, width, dtype)
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
        StoreError: none, or not one of this version.
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
            f"{folder} is no caption store: it has no readable store.json; train embed makes one."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} does not describe a caption store: {error!r}.") from error


def _existing_info(folder: Path, wanted: StoreInfo) -> StoreInfo:
    """What a store holds, if more of the wanted embeddings may go into it."""
    info = read_store_info(folder)
    if info.clip != wanted.clip:
        raise StoreError(
            f"{folder} holds text embeddings of {info.clip or 'no CLIP'}, but the recipe asks for"
            f" {f'those of {wanted.clip}' if wanted.clip else 'none'}; name another folder with --out."
        )
    if (info.llm, info.width) != (wanted.llm, wanted.width):
        raise StoreError(
            f"{folder} holds embeddings of LLM {info.llm} ({info.llm_folder}, {info.width} wide), but"
            f" {wanted.llm_folder} is LLM {wanted.llm} ({wanted.width} wide); name another folder with --out."
        )
    if info.dtype != wanted.dtype:
        raise StoreError(
            f"{folder} holds {info.dtype}, not {wanted.dtype}; go on with dtype {info.dtype}, or name another"
            " folder with --out."
        )
    return info


def _embed(embed: Embed, texts: list[str], width: int, dtype: StoredDtype) -> np.ndarray:
    exact = embed(texts)
    assert exact.shape == (len(texts), width), f"an LLM {width} wide gave {exact.shape} for {len(texts)} captions"
    with np.errstate(over="ignore"):  # told below, with the caption
        vectors: np.ndarray = exact.astype(dtype)
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        largest = float(np.abs(exact[bad[0]]).max())
        advice = " (dtype float32 holds it)" if np.isfinite(largest) and dtype == "float16" else ""
        raise StoreError(
            f"The LLM's state of caption {texts[bad[0]]!r} reaches {largest:,.0f}, but {dtype} ends at"
            f" {np.finfo(dtype).max:,.0f}{advice}."
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
    """Caption ids int64 ``[n]`` and a view of embeddings ``[n, width]`` in the mapped file."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if table.schema != _schema(info):
            raise ValueError(f"it holds {', '.join(map(str, table.schema.types))}")
        flat = table["embedding"].chunk(0).flatten().to_numpy(zero_copy_only=True)
        return table["caption_id"].to_numpy(), flat.reshape(-1, info.width)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} is no readable shard of a caption store ({first_line(error)});"
            " run train embed into another folder."
        ) from error
