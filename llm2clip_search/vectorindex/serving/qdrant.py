"""A collection of a Qdrant server, or of the client's own memory for tests."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from llm2clip_search.base.progress import Progress
from llm2clip_search.errors import EngineError, first_line
from llm2clip_search.vectorindex.serving.engine import SAMPLE, RowBatch, TypedCondition
from llm2clip_search.vectorindex.serving.payload import DIGEST, MARKS, indexed_columns, qdrant_key, row_of
from llm2clip_search.vectorindex.serving.qdrant_filter import qdrant_filter
from llm2clip_search.vectorindex.serving.results import as_arrays, by_id
from llm2clip_search.vectorindex.serving.state import Published

logger = logging.getLogger(__name__)

RECORD = "llm2clip_search"
"""Key of the record in the metadata of a collection."""
BATCH = 500
"""Points per request: 5 MB of JSON at 512 dimensions, where servers take 32 MB."""
LISTED = 5_000
"""Points per request that asks for ids or digests only."""
INDEX_OPTIONS: Mapping[str, Any] = {"enable_hnsw": False}
"""Of every payload index. By default the graph gets further links for each of them, so that building it takes several
times as long: 22 s instead of 3.4 s of processor time for 16,000 rows with 8 indices. Searches with a condition look at
neighbours of neighbours instead (ACORN, arXiv 2403.04871); with neither, recall over a tenth of the rows was 0.17."""
FURTHER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "keyword": {"prefix": True},
    "integer": {"lookup": True, "range": True},
}
WAITS = (0.2, 1.0, 4.0)
"""Seconds before a request that failed on its way is sent again. All requests may be repeated."""
TIMEOUT_S = 60
POLL_S = 0.5
CALM = 4
"""Polls in a row that find nothing to do, after which the server is done: optimisers start with a delay."""
INDEXED_FROM_KB = 10_000
"""Size of a segment from which the server builds a graph, Qdrant's own default."""


class QdrantEngine:
    """A `ServingEngine` over HTTP."""

    efforts: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048, 4096)
    most_ids = 10_000
    ms_per_id = 0.0005  # of which the client takes 0.0002

    def __init__(self, name: str, collection: str, client: Any) -> None:
        """Nothing is sent yet.

        Args:
            name: what messages and results call it.
            client: a ``qdrant_client.QdrantClient``.
        """
        from qdrant_client import models

        self._name, self._collection, self._client, self._models = name, collection, client, models

    @classmethod
    def connect(cls, url: str, collection: str, token: str | None) -> "QdrantEngine":
        """A collection of the server at ``http(s)://HOST[:PORT][/PREFIX]``.

        Raises:
            EngineError: the client is not installed.
        """
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise EngineError(
                "Qdrant's client is not installed.", hint="Install it with pip install 'llm2clip-search[qdrant]'."
            ) from error
        parts = urlsplit(url)
        if token is not None and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            logger.warning("The token is sent to %s without encryption; https protects it", parts.hostname)
        import warnings

        with warnings.catch_warnings():  # what it says of such tokens is said above
            warnings.simplefilter("ignore")
            client = QdrantClient(url=url, api_key=token, timeout=TIMEOUT_S, check_compatibility=False)
        return cls(f"qdrant:{url.rstrip('/')}/{collection}", collection, client)

    @property
    def name(self) -> str:
        return self._name

    def state(self) -> Published | None:
        if not self._call("collection_exists"):
            return None
        found = self._call("get_collection")
        record = (found.config.metadata or {}).get(RECORD)
        if record is None:
            raise EngineError(
                f"The collection {self._name} exists, but no index was published to it.",
                hint="Name another collection at the end of the URL, or delete this one.",
            )
        # A process that was killed while it made the collection left an empty one.
        return Published.from_dict(record, self._name) if record else None

    def create(self, schema: pa.Schema, *, dim: int, dtype: str) -> None:
        models = self._models
        stored = models.Datatype.FLOAT16 if dtype == "float16" else models.Datatype.FLOAT32
        # Cosine would scale the vectors; they have unit length but for rounding, and stay as they are.
        vectors = models.VectorParams(size=dim, distance=models.Distance.DOT, datatype=stored, on_disk=True)
        if self._call("collection_exists"):
            self._call("delete_collection")
        # The graph is built once all rows are there: `finish` sets the threshold.
        optimizers = models.OptimizersConfigDiff(indexing_threshold=0)
        self._call(
            "create_collection",
            vectors_config=vectors,
            optimizers_config=optimizers,
            on_disk_payload=True,
            metadata={RECORD: {}},
        )
        self._index(SAMPLE, "integer")
        self._index(MARKS, "keyword")
        self.extend(schema)

    def extend(self, schema: pa.Schema) -> None:
        found = self._call("get_collection")
        there = {key.strip('"') for key in found.payload_schema}
        for column, kind in indexed_columns(schema).items():
            if qdrant_key(column).strip('"') not in there:
                self._index(column, kind)

    def _index(self, column: str, kind: str) -> None:
        made = getattr(self._models, f"{kind.capitalize()}IndexParams")
        schema = made(type=kind, **INDEX_OPTIONS, **FURTHER_OPTIONS.get(kind, {}), on_disk=kind == "keyword")
        self._call("create_payload_index", qdrant_key(column), schema, wait=True)

    def write_state(self, state: Published) -> None:
        record = {RECORD: state.to_dict()}
        self._call("update_collection", metadata=record)
        found = self._call("get_collection")
        if (found.config.metadata or {}).get(RECORD) is None:
            raise EngineError(
                f"The server of {self._name} keeps no metadata of collections; Qdrant 1.16 or newer does."
            )

    def add(self, rows: RowBatch, vectors: np.ndarray) -> None:
        ids, payloads = rows.ids.tolist(), rows.payloads
        for start in range(0, len(ids), BATCH):
            part = slice(start, start + BATCH)
            lists = vectors[part].astype(np.float32).tolist()
            points = self._models.Batch(ids=ids[part], vectors=lists, payloads=payloads[part])
            self._call("upsert", points, wait=True)

    def describe(self, rows: RowBatch) -> None:
        models, ids, payloads = self._models, rows.ids.tolist(), rows.payloads
        for start in range(0, len(ids), BATCH):
            changes = [
                models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload=payload, points=[each]))
                for each, payload in zip(ids[start : start + BATCH], payloads[start : start + BATCH], strict=True)
            ]
            self._call("batch_update_points", changes, wait=True)

    def delete(self, ids: np.ndarray) -> None:
        for start in range(0, len(ids), LISTED):
            chosen = self._models.PointIdsList(points=ids[start : start + LISTED].tolist())
            self._call("delete", chosen, wait=True)

    def check(self, condition: TypedCondition) -> None:
        self._filter(condition, None)

    def count(self, condition: TypedCondition | None = None) -> int:
        chosen = self._filter(condition, None)
        return int(self._call("count", chosen, exact=True).count)

    def ids(self) -> Iterator[np.ndarray]:
        offset = None
        while True:
            records, offset = self._call("scroll", limit=LISTED, offset=offset, with_payload=False, with_vectors=False)
            yield np.array([record.id for record in records], dtype=np.int64)
            if offset is None:
                return

    def digests(self, ids: np.ndarray) -> Mapping[int, int]:
        found = self._retrieved(ids, LISTED, with_payload=[DIGEST])
        return {record.id: int(record.payload[DIGEST]) for record in found}

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        condition: TypedCondition | None = None,
        allowed: np.ndarray | None = None,
        effort: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        models = self._models
        chosen = self._filter(condition, allowed)
        acorn = models.AcornSearchParams(enable=chosen is not None)
        params = models.SearchParams(exact=True) if effort is None else models.SearchParams(hnsw_ef=effort, acorn=acorn)
        requests = [
            models.QueryRequest(query=query, filter=chosen, params=params, limit=k, with_payload=False)
            for query in queries.astype(np.float32).tolist()
        ]
        if not requests:
            return as_arrays([], k)
        found = self._call("query_batch_points", requests)
        return as_arrays([[(point.id, point.score) for point in answer.points] for answer in found], k)

    def vectors(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = list(self._retrieved(ids, BATCH, with_payload=False, with_vectors=True))
        dim = len(found[0].vector) if found else 0
        return by_id([(record.id, record.vector) for record in found], dim)

    def rows(self, ids: Sequence[int], schema: pa.Schema) -> dict[int, dict[str, Any]]:
        found = self._retrieved(np.asarray(ids, dtype=np.int64), BATCH, with_payload=True)
        return {record.id: row_of(record.payload or {}, schema) for record in found}

    def _retrieved(self, ids: np.ndarray, size: int, **wanted: Any) -> Iterator[Any]:
        for start in range(0, len(ids), size):
            part = ids[start : start + size].tolist()
            yield from self._call("retrieve", part, **wanted)

    def finish(self, progress: Progress) -> None:
        """Errors as of the others, and a server whose optimiser failed."""
        threshold = self._models.OptimizersConfigDiff(indexing_threshold=INDEXED_FROM_KB)
        self._call("update_collection", optimizers_config=threshold)
        calm = 0
        while calm < CALM:
            found = self._call("get_collection")
            if found.optimizer_status != "ok" and getattr(found.optimizer_status, "error", None):
                raise EngineError(f"{self._name} cannot build its index: {found.optimizer_status.error}.")
            done, total = found.indexed_vectors_count or 0, found.points_count or 0
            is_green = found.status == self._models.CollectionStatus.GREEN
            # Segments below the threshold stay without a graph.
            calm = CALM if is_green and done >= 0.95 * total else calm + 1 if is_green else 0
            if calm < CALM:
                progress("vectors", min(done, total), total, {})
                time.sleep(POLL_S if self._is_remote else 0)
        progress("vectors", total, total, {})

    @property
    def _is_remote(self) -> bool:
        return hasattr(self._client, "_client") and type(self._client._client).__name__ == "QdrantRemote"

    def close(self) -> None:
        self._client.close()

    def _filter(self, condition: TypedCondition | None, allowed: np.ndarray | None) -> Any:
        """Both as the client's own type; None if all rows may be found."""
        must = [] if condition is None else [qdrant_filter(condition.condition, condition.types)]
        if allowed is not None:
            must.append({"has_id": allowed.tolist()})
        return self._models.Filter.model_validate({"must": must}) if must else None

    def _call(self, method: str, *given: Any, **named: Any) -> Any:
        """Call a method of the client for the collection; what fails on its way is sent again.

        Raises:
            EngineError: as `ServingEngine` says.
        """
        from pydantic import ValidationError
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        for wait in (*WAITS, None):
            try:
                return getattr(self._client, method)(self._collection, *given, **named)
            except UnexpectedResponse as error:
                if wait is None or error.status_code not in (429, 500, 502, 503, 504):
                    raise self._refused(error) from error
            except AssertionError as error:  # the client's, of an answer without a result
                raise self._no_qdrant() from error
            except (ResponseHandlingException, OSError) as error:
                source = getattr(error, "source", error)
                if isinstance(source, ValidationError):
                    raise self._no_qdrant() from error
                if wait is None:
                    raise EngineError(
                        f"{self._name} cannot be reached: {first_line(source)}.",
                        hint="Start Qdrant with docker run -p 6333:6333 qdrant/qdrant, or correct the address.",
                    ) from error
            except ValueError as error:  # of the client in memory
                raise EngineError(f"{self._name} refuses: {first_line(error)}.") from error
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _no_qdrant(self) -> EngineError:
        return EngineError(f"What answers at {self._name} is not a Qdrant server that this version knows.")

    def _refused(self, error: Any) -> EngineError:
        if error.status_code in (401, 403):
            return EngineError(
                f"{self._name} refuses the token (HTTP {error.status_code}).",
                hint="Put the right one into the environment variable QDRANT_API_KEY.",
            )
        if error.status_code == 404:
            return EngineError(f"{self._name} does not exist.", hint="'llm2clip-search publish' creates it.")
        said = bytes(error.content or b"").decode("utf-8", "replace")[:300].strip()
        return EngineError(f"{self._name} answered HTTP {error.status_code}: {said or error.reason_phrase}.")
