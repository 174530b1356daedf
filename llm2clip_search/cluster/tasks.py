"""What runs on the nodes: reading and decoding a unit, encoding a block, storing it."""

import os
import pickle
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.base.memory import resident_bytes
from llm2clip_search.cluster.connection import nodes
from llm2clip_search.cluster.staging import Staging
from llm2clip_search.cluster.work import BLOCK_BYTES, BLOCK_ROWS, Block, EncoderSource, Note, Outcome, Work
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.decode import Decoded, content_key, decode_ahead, held_bytes
from llm2clip_search.corpora.encode import encode_decoded
from llm2clip_search.corpora.lookahead import list_ahead

MOST_BYTES = 256 << 20
"""Of a block whose batch is larger than that, such as one of long texts."""
AHEAD = 64
"""Items that a reader lists ahead of decoding them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the tasks of one run share."""

    work: Work
    encoder: EncoderSource
    staging: Staging
    batch_size: int
    together: int
    """Rows that an encoder gets at once."""
    reader_threads: int
    folder: str
    """The driver's working folder."""
    divisible: bool
    """Units may give many blocks each."""
    known: np.ndarray
    """First halves of the content hashes that are not to be embedded, uint64 ascending."""

    def knows(self, content_hash: str) -> bool:
        """True if a content is not to be embedded."""
        key = content_key(content_hash)
        at = int(np.searchsorted(self.known, key))
        return at < len(self.known) and bool(self.known[at] == key)


def unit_name(number: int) -> str:
    """Name of the file of a unit in the staging place."""
    return f"unit-{number:08d}"


@lru_cache(maxsize=1)
def _run(reference: Any) -> Run:
    """A run by its reference in Ray's object store, once per process."""
    import ray

    run: Run = ray.get(reference)
    enter(run.folder)
    return run


def enter(folder: str) -> None:
    """Go to the driver's folder, if there is one here: sources may be named relative to it."""
    with suppress(OSError):
        os.chdir(folder)


def read_unit(reference: Any, number: int) -> Iterator[pa.Table]:
    """The items of a unit, decoded, in blocks of bounded size: a table of one row for each, which Ray cannot divide."""
    run = _run(reference)
    unit = pickle.loads(run.staging.get(unit_name(number)))
    block, held, ready = Block(unit=number, first=0), 0, 0
    for position, result in enumerate(decoded_items(run, unit)):
        size = _size(result)
        is_full = ready and ready % run.together == 0 and held + size * run.together > BLOCK_BYTES
        if is_full or held > MOST_BYTES or len(block.results) >= max(BLOCK_ROWS, run.together):
            yield row_of(block.with_pixels())
            block, held, ready = Block(unit=number, first=position), 0, 0
        block.results.append(result)
        held, ready = held + size, ready + (size > 0)
    block.is_last = True
    yield row_of(block.with_pixels())


def decoded_items(run: Run, unit: Any) -> Iterator[Decoded | Note]:
    """The items of a unit as one node reads and decodes them."""
    listed: Iterator[Any] = list_ahead(run.work.listed(unit, run.encoder), ahead=AHEAD, weigh=_weight)
    return decode_ahead(
        run.work,
        listed,
        run.encoder.preprocess,
        modality=run.work.modality,
        threads=run.reader_threads,
        ahead=AHEAD,
        max_pixels=run.work.max_pixels,
        drafts=run.work.drafts,
        isolate=run.work.isolate,
        known=run.knows,
    )


def _size(result: Decoded | Note) -> int:
    """Bytes that a result takes on its way to an encoder; 0 for one that is not to be encoded."""
    if not isinstance(result, Decoded) or not result.is_ready:
        return 0
    return len((result.text or "").encode()) if result.pixels is None else result.pixels.nbytes


def _weight(item: Any) -> int:
    return held_bytes(item) if isinstance(item, Item) else 0


class BlockEncoder:
    """Encodes blocks; an actor of Ray Data, one for each device or node."""

    def __init__(self, reference: Any) -> None:
        import ray

        context = ray.get_runtime_context()
        self._node = context.get_node_id()
        if not context.get_accelerator_ids().get("GPU"):
            # As many threads as the node offers to Ray: several nodes may share a machine.
            cores = next((node.cpus for node in nodes() if node.id == self._node), 1)
            os.environ["OMP_NUM_THREADS"] = str(max(1, int(cores)))
        self._run = _run(reference)
        self._encoder = self._run.encoder.load()

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """A row with the file of each block, and with its `Outcome`."""
        for row in rows.column("block"):
            yield self._encoded(row.as_buffer())

    def _encoded(self, data: pa.Buffer) -> pa.Table:
        size = self._run.encoder.preprocess
        block = Block.of(table_of(data), shape=(size.height, size.width, 3))
        started = time.perf_counter()
        ready = [each for each in block.results if isinstance(each, Decoded) and each.is_ready]
        for first in range(0, len(ready), self._run.together):
            encode_decoded(self._encoder, ready[first : first + self._run.together], self._run.batch_size)
        outcome = Outcome(
            unit=block.unit,
            first=block.first,
            rows=len(block.results),
            is_last=block.is_last,
            name=f"result-{block.unit:08d}-{uuid.uuid4().hex}",
            node=self._node,
            embedded=sum(each.vector is not None for each in ready),
            bytes=data.size,
            seconds=time.perf_counter() - started,
            memory=resident_bytes() or 0,
        )
        encoded = row_of(block.with_vectors(self._run.encoder.dim))
        return encoded.append_column("outcome", pa.array([pickle.dumps(outcome)], pa.large_binary()))


def store_blocks(rows: pa.Table, reference: Any) -> pa.Table:
    """Store the file of each encoded block, and return what remains of its row."""
    staging = _run(reference).staging
    for data, pickled in zip(rows.column("block"), rows.column("outcome"), strict=True):
        outcome: Outcome = pickle.loads(pickled.as_py())
        staging.put(outcome.name, data.as_buffer())
    return rows.select(["outcome"])


def row_of(table: pa.Table) -> pa.Table:
    """A table of one row with an Arrow file of a table, in the column ``block``."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    offsets = pa.array([0, (data := sink.getvalue()).size], pa.int64()).buffers()[1]
    block = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])
    return pa.table({"block": block})


def table_of(data: pa.Buffer) -> pa.Table:
    """The table of an Arrow file, in place."""
    return pa.ipc.open_file(data).read_all()
