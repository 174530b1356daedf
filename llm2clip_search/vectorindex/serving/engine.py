"""What a serving engine is: one collection of rows that is written, counted and searched."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llm2clip_search.base.progress import Progress
from llm2clip_search.vectorindex.conditions import Compared, Condition
from llm2clip_search.vectorindex.serving.payload import DIGEST, digest_of, payload_of, stored_name
from llm2clip_search.vectorindex.serving.state import Published

SAMPLE = "_sample"
"""Own column of each row: an integer below `SAMPLES` that depends on the id alone, for filters of a known share."""
SAMPLES = 1000


def samples_of(ids: np.ndarray) -> np.ndarray:
    """The value of `SAMPLE` for some ids, int64 ``[n]``: Fibonacci hashing of their bits."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(ids, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(32)) % np.uint64(SAMPLES)).astype(np.int64)


@dataclass(frozen=True)
class TypedCondition:
    """A condition, and the types of the columns that it may name."""

    condition: Condition
    types: Mapping[str, pa.DataType]


def sample_below(limit: int) -> TypedCondition:
    """The rows whose `SAMPLE` is less than a limit: the share ``limit / SAMPLES`` of all."""
    return TypedCondition(Compared(column=SAMPLE, how="<", value=limit), {SAMPLE: pa.int64()})


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Some rows as they are published, in one order."""

    table: pa.Table
    """Columns of the collection's schema, ``id`` among them."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 ``[n]``."""
        ids: np.ndarray = self.table.column("id").to_numpy()
        return ids

    @cached_property
    def payloads(self) -> list[dict[str, Any]]:
        """What Qdrant stores of each row, digest included."""
        payloads = [payload_of(row) for row in self.table.to_pylist()]
        for payload, sample in zip(payloads, samples_of(self.ids).tolist(), strict=True):
            payload |= {DIGEST: digest_of(payload), SAMPLE: sample}
        return payloads

    @cached_property
    def digests(self) -> np.ndarray:
        """int64 ``[n]``."""
        return np.array([payload[DIGEST] for payload in self.payloads], dtype=np.int64)

    def take(self, rows: np.ndarray) -> "RowBatch":
        """Some of the rows, by their places."""
        part = RowBatch(self.table.take(pa.array(rows)))
        part.__dict__["payloads"] = [self.payloads[row] for row in rows.tolist()]
        return part

    @property
    def columns(self) -> dict[str, pa.ChunkedArray]:
        """The columns under their stored names, digest and sample included."""
        own = {DIGEST: pa.array(self.digests), SAMPLE: pa.array(samples_of(self.ids))}
        return {stored_name(name): self.table.column(name) for name in self.table.column_names} | own


class ServingEngine(Protocol):
    """One collection of a serving engine.

    Scores are inner products of unit vectors. Ids are int64. Every method raises `EngineError` if the engine cannot be
    reached, refuses, or fails; what was sent before that stays.
    """

    @property
    def name(self) -> str:
        """Its URL, which opens it again; it never holds a secret."""

    @property
    def efforts(self) -> Sequence[int]:
        """Efforts worth measuring, ascending."""

    @property
    def most_ids(self) -> int:
        """Ids that ``allowed`` may have at most."""

    @property
    def ms_per_id(self) -> float:
        """Milliseconds that each id of ``allowed`` takes, as measured on two cores."""

    def state(self) -> Published | None:
        """The record of what was published; None if there is no such collection.

        Raises:
            EngineError: the collection is there, but has no record: it is not one of ours.
        """

    def create(self, schema: pa.Schema, *, dim: int, dtype: str) -> None:
        """Make the collection, with the indices of its columns, which have to be there before that of the vectors.

        Args:
            schema: of the rows.
            dtype: of the vectors: float16 or float32.
        """

    def extend(self, schema: pa.Schema) -> None:
        """Make room for the columns of a schema that the collection lacks."""

    def write_state(self, state: Published) -> None:
        """Replace the record; what was written before is durable when it returns."""

    def add(self, rows: RowBatch, vectors: np.ndarray) -> None:
        """Add rows whose ids are not there, with their vectors, float16 or float32 ``[n, dim]``."""

    def describe(self, rows: RowBatch) -> None:
        """Replace the columns of rows that are there."""

    def delete(self, ids: np.ndarray) -> None:
        """Delete rows; ids that are not there do not matter."""

    def check(self, condition: TypedCondition) -> None:
        """Refuse a condition that `count` and `search` would refuse; nothing is sent.

        Raises:
            UntranslatableError: the engine lacks a part of it.
        """

    def count(self, condition: TypedCondition | None = None) -> int:
        """Rows that meet a condition, exactly; all without one.

        Raises:
            UntranslatableError: the engine lacks a part of the condition.
        """

    def ids(self) -> Iterator[np.ndarray]:
        """All ids, int64, block by block."""

    def digests(self, ids: np.ndarray) -> Mapping[int, int]:
        """The digests of those of some ids that are there."""

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        condition: TypedCondition | None = None,
        allowed: np.ndarray | None = None,
        effort: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the ``k`` nearest rows of each query.

        Args:
            queries: float32 ``[n, dim]``, unit length.
            condition: rows that do not meet it are not found.
            allowed: ids that may be found; None allows all.
            effort: one of `efforts`, or any number; None is exact search.

        Returns:
            float32 scores and int64 ids, each ``[n, k]``, best first; a place without a result has id -1.

        Raises:
            UntranslatableError: the engine lacks a part of the condition.
        """

    def vectors(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored vectors of those of some ids that are there: int64 ``[m]`` ascending and float32 ``[m, dim]``."""

    def rows(self, ids: Sequence[int], schema: pa.Schema) -> dict[int, dict[str, Any]]:
        """The rows of those of some ids that are there, with the columns of a schema."""

    def finish(self, progress: Progress) -> None:
        """Build the index of the vectors, or bring it in step, and wait for it.

        Args:
            progress: called with ``vectors`` as they are indexed, if the engine says how many are.
        """

    def close(self) -> None:
        """Let go of connections and files."""
