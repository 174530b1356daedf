"""A LanceDB table in a folder or on an object store: no server at all."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from llm2clip_search.base.progress import Progress
from llm2clip_search.errors import EngineError, first_line
from llm2clip_search.vectorindex.serving.engine import SAMPLE, RowBatch, TypedCondition
from llm2clip_search.vectorindex.serving.lance_filter import lance_filter
from llm2clip_search.vectorindex.serving.payload import DIGEST, VECTOR, indexed_columns, stored_name
from llm2clip_search.vectorindex.serving.results import as_arrays, by_id
from llm2clip_search.vectorindex.serving.state import Published

Result = TypeVar("Result")

ROWS = "rows"
RECORD = "published"
INDEXED_FROM = 10_000
"""Rows below which comparing all is as fast as a graph."""
ROWS_PER_GRAPH = 1_000_000
"""Rows of each of the partitions that have a graph of their own."""
REFINE = 4
"""Candidates of the graph's one-byte codes that are compared again by their vectors, per result."""
SEEN = timedelta(seconds=5)
"""After so long a reader looks for a later version of the table."""
KEPT = timedelta(days=1)
"""Age until which earlier versions of the table stay, for readers that have them open."""


class LanceEngine:
    """A `ServingEngine` in a folder or bucket; any number of processes may read it."""

    efforts: Sequence[int] = (50, 100, 200, 400, 800, 1600, 3200)
    most_ids = 10_000
    ms_per_id = 0.003

    def __init__(self, location: str) -> None:
        """Nothing is read yet.

        Args:
            location: a path, or ``s3://BUCKET/PATH``, whose keys and region are those of the environment.

        Raises:
            EngineError: LanceDB is not installed.
        """
        os.environ.setdefault("LANCEDB_LOG", "error")  # or it writes warnings to stderr
        try:
            import lancedb
        except ImportError as error:
            raise EngineError(
                "LanceDB is not installed.", hint="Install it with pip install 'llm2clip-search[lance]'."
            ) from error
        self._lancedb: Any = lancedb
        self._location = location
        self._database: Any = None
        self._table: Any = None

    @property
    def name(self) -> str:
        return f"lance:{self._location}"

    @property
    def _opened(self) -> Any:
        if self._table is None:
            self._table = self._asked(self._connected.open_table, ROWS)
        return self._table

    @property
    def _connected(self) -> Any:
        if self._database is None:
            options = None
            if "://" in self._location:
                options = {"client_max_retries": "3", "timeout": "60s"}
                endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
                if endpoint:
                    options |= {"endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
            self._database = self._asked(
                self._lancedb.connect, self._location, storage_options=options, read_consistency_interval=SEEN
            )
        return self._database

    def _names(self) -> list[str]:
        return list(self._asked(self._connected.list_tables).tables)

    def state(self) -> Published | None:
        names = self._names()
        record = self._asked(self._record) if RECORD in names else None
        if record is not None:
            read = record.column("record").to_pylist() if "record" in record.column_names else []
            return Published.from_dict(json.loads(read[0]) if read else None, self.name)
        if set(names) <= {ROWS, RECORD} and not self._has_other_files():
            return None
        raise EngineError(
            f"{self.name} holds tables, but no index was published to it.", hint="Name another folder or prefix."
        )

    def _record(self) -> pa.Table | None:
        """The table of the record; None for a folder without any version, which a process leaves that was killed while
        it made the table."""
        try:
            return self._connected.open_table(RECORD).to_arrow()
        except ValueError as error:
            if _NOT_THERE not in str(error):
                raise
            return None

    def _has_other_files(self) -> bool:
        if "://" in self._location or not os.path.isdir(self._location):  # noqa: PTH112 - a location, not a path
            return False
        own = {f"{name}.lance" for name in (ROWS, RECORD)}
        return bool(set(os.listdir(self._location)) - own)  # noqa: PTH208

    def create(self, schema: pa.Schema, *, dim: int, dtype: str) -> None:
        stored = pa.float16() if dtype == "float16" else pa.float32()
        own = [(DIGEST, pa.int64()), (SAMPLE, pa.int64()), (VECTOR, pa.list_(stored, dim))]
        columns = [(stored_name(field.name), field.type) for field in schema]
        made = pa.schema([*columns, *own])
        self._table = self._asked(self._connected.create_table, ROWS, schema=made, mode="overwrite")

    def extend(self, schema: pa.Schema) -> None:
        there = set(self._opened.schema.names)
        new = [pa.field(stored_name(each.name), each.type) for each in schema if stored_name(each.name) not in there]
        if new:
            self._asked(self._opened.add_columns, new)

    def write_state(self, state: Published) -> None:
        record = pa.table({"record": [json.dumps(state.to_dict())]})
        table = self._asked(self._connected.create_table, RECORD, record, mode="overwrite")
        self._asked(table.optimize, cleanup_older_than=KEPT)

    def add(self, rows: RowBatch, vectors: np.ndarray) -> None:
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = pa.table({**rows.columns, VECTOR: lists})
        self._asked(self._opened.add, table)

    def describe(self, rows: RowBatch) -> None:
        table = pa.table(rows.columns)
        self._asked(self._opened.merge_insert("id").when_matched_update_all().execute, table)

    def delete(self, ids: np.ndarray) -> None:
        for start in range(0, len(ids), self.most_ids):
            chosen = _is_one_of(ids[start : start + self.most_ids])
            self._asked(self._opened.delete, chosen)

    def check(self, condition: TypedCondition) -> None:
        lance_filter(condition.condition, condition.types)

    def count(self, condition: TypedCondition | None = None) -> int:
        chosen = None if condition is None else lance_filter(condition.condition, condition.types)
        return int(self._asked(self._opened.count_rows, chosen))

    def ids(self) -> Iterator[np.ndarray]:
        for batch in self._asked(self._opened.search().select(["id"]).to_batches):
            yield batch.column("id").to_numpy()

    def digests(self, ids: np.ndarray) -> Mapping[int, int]:
        table = self._found(ids, ["id", DIGEST])
        return dict(zip(table.column("id").to_pylist(), table.column(DIGEST).to_pylist(), strict=True))

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        condition: TypedCondition | None = None,
        allowed: np.ndarray | None = None,
        effort: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        chosen = [] if condition is None else [lance_filter(condition.condition, condition.types)]
        if allowed is not None:
            chosen.append(_is_one_of(allowed))
        where = " AND ".join(f"({each})" for each in chosen)
        answers = []
        for query in queries.astype(np.float32):
            search = self._opened.search(query, vector_column_name=VECTOR).distance_type("dot").limit(k)
            search = search.bypass_vector_index() if effort is None else search.ef(max(effort, k)).refine_factor(REFINE)
            if where:
                search = search.where(where, prefilter=True)
            found = self._asked(search.select(["id", "_distance"]).to_arrow)
            scores = (1 - found.column("_distance").to_numpy()).tolist()
            answers.append(list(zip(found.column("id").to_pylist(), scores, strict=True)))
        return as_arrays(answers, k)

    def vectors(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table = self._found(ids, ["id", VECTOR])
        lists = table.column(VECTOR).combine_chunks()
        dim = lists.type.list_size
        flat = lists.flatten().to_numpy().reshape(-1, dim).astype(np.float32)
        return by_id(list(zip(table.column("id").to_pylist(), flat, strict=True)), dim)

    def rows(self, ids: Sequence[int], schema: pa.Schema) -> dict[int, dict[str, Any]]:
        names = {stored_name(name): name for name in schema.names}
        table = self._found(
            np.asarray(ids, dtype=np.int64), [each for each in names if each in self._opened.schema.names]
        )
        rows = [{names[name]: value for name, value in row.items()} for row in table.to_pylist()]
        return {row["id"]: {name: row.get(name) for name in schema.names} for row in rows}

    def _found(self, ids: np.ndarray, columns: list[str]) -> pa.Table:
        parts = [self._opened.schema.empty_table().select(columns)]
        for start in range(0, len(ids), self.most_ids):
            part = ids[start : start + self.most_ids]
            search = self._opened.search().where(_is_one_of(part)).select(columns).limit(len(part))
            parts.append(self._asked(search.to_arrow))
        return pa.concat_tables(parts)

    def finish(self, progress: Progress) -> None:
        from lancedb.index import BTree, HnswSq, LabelList

        table, total = self._opened, self.count()
        names = {tuple(index.columns) for index in self._asked(table.list_indices)}
        if total >= INDEXED_FROM:
            for name, kind in indexed_columns(_plain(table.schema)).items():
                is_list = pa.types.is_list(table.schema.field(name).type)
                if (name,) not in names and not (is_list and kind in ("float", "datetime")):  # which have no index
                    self._asked(table.create_index, name, config=LabelList() if is_list else BTree())
            if (VECTOR,) not in names:
                progress("vectors", 0, total, {})
                graphs = HnswSq(distance_type="dot", num_partitions=max(1, total // ROWS_PER_GRAPH))
                self._asked(table.create_index, VECTOR, config=graphs)
        self._asked(table.optimize, cleanup_older_than=KEPT)
        progress("vectors", total, total, {})

    def close(self) -> None:
        self._table = self._database = None

    def _asked(self, request: Callable[..., Result], *given: Any, **named: Any) -> Result:
        try:
            return request(*given, **named)
        except EngineError:
            raise
        except Exception as error:  # LanceDB raises ValueError, RuntimeError and OSError for all kinds of faults
            raise EngineError(f"{self.name} failed: {_reason(error)}.") from error


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in (VECTOR, DIGEST)])


def _is_one_of(ids: np.ndarray) -> str:
    return f"id IN ({', '.join(map(str, ids.tolist()))})" if len(ids) else "false"


def _reason(error: Exception) -> str:
    """What went wrong, without the addresses of the requests that were tried."""
    said = first_line(error)
    for sign, reason in _REASONS.items():
        if sign in str(error):
            return reason
    return said if len(said) <= 300 else f"{said[:297]}..."


_NOT_THERE = "was not found"
_REASONS = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "access is denied",
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "Connection refused": "nothing listens there",
    "resolve region": "the bucket does not exist, or cannot be seen with these keys",
    "dns error": "the host does not exist",
    _NOT_THERE: "no index was published to it",
}
"""What the errors of object stores contain, and what that means."""
