"""Qdrant's own core in this process: one shard in a folder, without a server."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.progress import Progress
from llm2clip_search.errors import EngineError, first_line
from llm2clip_search.vectorindex.serving.edge_filter import edge_filter
from llm2clip_search.vectorindex.serving.engine import SAMPLE, RowBatch, TypedCondition
from llm2clip_search.vectorindex.serving.payload import DIGEST, MARKS, indexed_columns, qdrant_key, row_of
from llm2clip_search.vectorindex.serving.qdrant import FURTHER_OPTIONS, INDEX_OPTIONS
from llm2clip_search.vectorindex.serving.qdrant_filter import qdrant_filter
from llm2clip_search.vectorindex.serving.results import as_arrays, by_id
from llm2clip_search.vectorindex.serving.state import Published

Result = TypeVar("Result")

RECORD = "published.json"
SHARD = "shard"
BATCH = 1_000
LISTED = 10_000


class QdrantEdgeEngine:
    """A `ServingEngine` in a folder, which one process at a time may have open."""

    efforts: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048, 4096)
    most_ids = 100_000
    ms_per_id = 0.0002

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet.

        Raises:
            EngineError: the package is not installed.
        """
        try:
            import qdrant_edge
        except ImportError as error:
            raise EngineError(
                "Qdrant's core is not installed.", hint="Install it with pip install 'llm2clip-search[qdrant-edge]'."
            ) from error
        self._edge: Any = qdrant_edge
        self._folder = folder
        self._shard: Any = None

    @property
    def name(self) -> str:
        return f"qdrant-edge:{self._folder.as_posix()}"

    def state(self) -> Published | None:
        path = self._folder / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            # A process that was killed while it made the shard left this and nothing else.
            if not self._folder.exists() or {each.name for each in self._folder.iterdir()} <= {SHARD}:
                return None
            raise EngineError(
                f"The folder {self._folder} exists, but no index was published to it.", hint="Name another folder."
            ) from error
        except (OSError, ValueError) as error:
            raise EngineError(f"{path} cannot be read: {first_line(error)}.") from error
        return Published.from_dict(record, self.name)

    def create(self, schema: pa.Schema, *, dim: int, dtype: str) -> None:
        edge = self._edge
        stored = edge.VectorStorageDatatype.Float16 if dtype == "float16" else edge.VectorStorageDatatype.Float32
        vectors = edge.EdgeVectorParams(size=dim, distance=edge.Distance.Dot, datatype=stored)
        shutil.rmtree(self._folder / SHARD, ignore_errors=True)
        self._asked((self._folder / SHARD).mkdir, parents=True)
        config = edge.EdgeConfig(vectors=vectors)
        self._shard = self._asked(edge.EdgeShard.create, str(self._folder / SHARD), config)
        self._index(SAMPLE, "integer")
        self._index(MARKS, "keyword")
        self.extend(schema)

    def extend(self, schema: pa.Schema) -> None:
        there = {key.strip('"') for key in self._asked(self._opened.info).payload_schema}
        for column, kind in indexed_columns(schema).items():
            if qdrant_key(column).strip('"') not in there:
                self._index(column, kind)

    def _index(self, column: str, kind: str) -> None:
        made = getattr(self._edge, f"{kind.capitalize()}IndexParams")
        schema = made(**INDEX_OPTIONS, **FURTHER_OPTIONS.get(kind, {}))
        self._update(self._edge.UpdateOperation.create_field_index(qdrant_key(column), schema))

    def write_state(self, state: Published) -> None:
        self._asked(self._opened.flush)
        self._asked(replace_file, self._folder / RECORD, json.dumps(state.to_dict()).encode())

    def add(self, rows: RowBatch, vectors: np.ndarray) -> None:
        edge, ids, payloads = self._edge, rows.ids.tolist(), rows.payloads
        for start in range(0, len(ids), BATCH):
            part = slice(start, start + BATCH)
            lists = vectors[part].astype(np.float32).tolist()
            points = [edge.Point(*each) for each in zip(ids[part], lists, payloads[part], strict=True)]
            self._update(edge.UpdateOperation.upsert_points(points))

    def describe(self, rows: RowBatch) -> None:
        for identifier, payload in zip(rows.ids.tolist(), rows.payloads, strict=True):
            self._update(self._edge.UpdateOperation.overwrite_payload([identifier], payload))

    def delete(self, ids: np.ndarray) -> None:
        for start in range(0, len(ids), LISTED):
            self._update(self._edge.UpdateOperation.delete_points(ids[start : start + LISTED].tolist()))

    def check(self, condition: TypedCondition) -> None:
        self._filter(condition, None)

    def count(self, condition: TypedCondition | None = None) -> int:
        request = self._edge.CountRequest(exact=True, filter=self._filter(condition, None))
        return int(self._asked(self._opened.count, request))

    def ids(self) -> Iterator[np.ndarray]:
        offset = None
        while True:
            request = self._edge.ScrollRequest(limit=LISTED, offset=offset, with_payload=False, with_vector=False)
            records, offset = self._asked(self._opened.scroll, request)
            yield np.array([record.id for record in records], dtype=np.int64)
            if offset is None:
                return

    def digests(self, ids: np.ndarray) -> Mapping[int, int]:
        return {record.id: int(record.payload[DIGEST]) for record in self._retrieved(ids, [DIGEST], False)}

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        condition: TypedCondition | None = None,
        allowed: np.ndarray | None = None,
        effort: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        edge = self._edge
        chosen = self._filter(condition, allowed)
        acorn = None if chosen is None else edge.AcornSearchParams(enable=True)
        params = edge.SearchParams(exact=True) if effort is None else edge.SearchParams(hnsw_ef=effort, acorn=acorn)
        answers = []
        for query in queries.astype(np.float32).tolist():
            request = edge.SearchRequest(limit=k, query=edge.Query.Nearest(query), params=params, filter=chosen)
            found = self._asked(self._opened.search, request)
            answers.append([(point.id, point.score) for point in found])
        return as_arrays(answers, k)

    def vectors(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self._retrieved(ids, False, True)
        return by_id([(record.id, record.vector) for record in found], len(found[0].vector) if found else 0)

    def rows(self, ids: Sequence[int], schema: pa.Schema) -> dict[int, dict[str, Any]]:
        found = self._retrieved(np.asarray(ids, dtype=np.int64), True, False)
        return {record.id: row_of(record.payload or {}, schema) for record in found}

    def _retrieved(self, ids: np.ndarray, payload: bool | list[str], vector: bool) -> list[Any]:
        return list(self._asked(self._opened.retrieve, ids.tolist(), payload, vector))

    def finish(self, progress: Progress) -> None:
        total = self.count()
        progress("vectors", 0, total, {})
        self._asked(self._opened.optimize)
        self._asked(self._opened.flush)
        progress("vectors", total, total, {})

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    @property
    def _opened(self) -> Any:
        if self._shard is None:
            self._shard = self._asked(self._edge.EdgeShard.load, str(self._folder / SHARD))
        return self._shard

    def _update(self, operation: Any) -> None:
        self._asked(self._opened.update, operation)

    def _filter(self, condition: TypedCondition | None, allowed: np.ndarray | None) -> Any:
        must = [] if condition is None else [edge_filter(qdrant_filter(condition.condition, condition.types))]
        if allowed is not None:
            must.append(self._edge.HasIdCondition(set(allowed.tolist())))
        return self._edge.Filter(must=must) if must else None

    def _asked(self, request: Callable[..., Result], *given: Any, **named: Any) -> Result:
        try:
            return request(*given, **named)
        except EngineError:
            raise
        except Exception as error:  # the core raises plain exceptions
            said = first_line(error)
            if "WouldBlock" in str(error):
                raise EngineError(
                    f"Another process has {self.name} open.", hint="Stop it first; a Qdrant server takes several."
                ) from error
            raise EngineError(f"{self.name} failed: {said}.") from error
