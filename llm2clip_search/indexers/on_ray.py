"""An index run whose items are embedded on a Ray cluster: plans become units of work, and their results rows."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.cluster.pipeline import Usage, embed_units
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.cluster.work import EncoderSource, Note, Work
from llm2clip_search.corpora import Corpus, Item
from llm2clip_search.corpora.columns import WELCOME
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.corpora.encode import TEXT_BATCHES
from llm2clip_search.corpora.files import files_of
from llm2clip_search.corpora.passages import Passages
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.images import MAX_PIXELS
from llm2clip_search.indexers.commit import Committer
from llm2clip_search.indexers.corpus import Embedding, IndexConfig
from llm2clip_search.indexers.known import KNOWN_COLUMNS, Completed, KnownRows
from llm2clip_search.indexers.listing import Judge, items_to_read
from llm2clip_search.indexers.plan import IndexPlan
from llm2clip_search.store import Snapshot
from llm2clip_search.store.schema import CONTAINER_SCHEMA
from llm2clip_search.store.snapshot import stored_path

STAGING = ".cluster"
"""Folder in an index folder that is the staging place if no other is named."""
UNIT_ITEMS = 256
"""Items of a unit of work, at least, if there are so many."""
UNITS = 20_000
"""Units of a run beyond which they get more items."""
UNIT_BYTES = 256 << 20
"""Of the files of a unit."""
CONTAINER_BYTES = 32 << 20
"""Of a unit with containers, which hold many images for their bytes; one container may have more."""


class RayEmbedding(Embedding):
    """Nodes of a cluster list, read, decode and encode; the driver holds the plan and commits."""

    def __init__(self, config: ClusterConfig = ClusterConfig()) -> None:
        """``config``: by default the cluster of this machine, with a staging place in the index folder."""
        self.config = config
        self.usage = Usage()

    def embed(self, corpus: Corpus, committer: Committer, encoder: Encoder, config: IndexConfig) -> Iterator[Decoded]:
        plan, snapshot = committer.plan, committer.writer.snapshot
        if not plan.changed:
            return
        committer.columns.learn(corpus.schema())
        results = embed_units(
            CorpusWork.of(corpus, plan, snapshot, config),
            units_of(plan, snapshot),
            EncoderSource.of(encoder),
            replace(self.config, staging=self.config.staging or str(snapshot.folder.absolute() / STAGING)),
            owner=str(snapshot.folder),
            batch_size=config.images_at_once(encoder),
            together=together(corpus, config.images_at_once(encoder)),
            known=plan.known.sorted_contents,
            usage=self.usage,
        )
        try:
            for result in results:
                match result:
                    case Learned():
                        committer.columns.learn(result.schema)
                    case Unchanged():
                        for item in result.items:
                            plan.judge.unchanged(item)  # marks its row
                    case Decoded():
                        yield _settled(result, committer)
        finally:
            with suppress(OSError):
                (snapshot.folder / STAGING).rmdir()

    def nodes(self) -> list[dict[str, Any]]:
        usage, found = self.usage, list[dict[str, Any]]()
        for identifier, node in usage.nodes.items():
            count = usage.embedded.get(identifier, 0)
            found.append({"name": node.name, "embedded": count, "rate": count / max(usage.elapsed, 1e-9)})
        return found


def together(corpus: Corpus, batch_size: int) -> int:
    """Items that an encoder gets at once, as in one process."""
    return batch_size * (TEXT_BATCHES if corpus.modality == "text" else 1)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Items of a plan that one task lists and reads."""

    items: Sequence[Item]
    known: pa.Table
    """Rows that the index has of the parts of its containers, and of items of which only columns have changed, with
    `KNOWN_COLUMNS`: unchanged parts are not read again."""


@dataclass(frozen=True, kw_only=True)
class Learned(Note):
    """Types of the columns that the parts of a container bring along."""

    schema: pa.Schema


@dataclass(frozen=True, kw_only=True)
class Unchanged(Note):
    """Parts of containers that were not read, because their version is known."""

    items: Sequence[Item]


@dataclass(frozen=True, kw_only=True)
class CorpusWork(Work):
    """A corpus as nodes read it."""

    corpus: Corpus
    modality: Modality = "image"
    base: str = ""
    """Folder that stored paths are relative to."""
    manner: dict[str, Any] = field(default_factory=dict)
    """How the plan's judge judges."""
    sample: Item | None = None
    """The first item of the plan."""
    max_pixels: int = MAX_PIXELS
    isolate: bool | None = None

    @classmethod
    def of(cls, corpus: Corpus, plan: IndexPlan, snapshot: Snapshot, config: IndexConfig) -> "CorpusWork":
        """How nodes read the corpus of a plan."""
        judge = plan.judge
        names = ("modality", "sees_sidecars", "sees_tables", "rehash", "manner")
        return cls(
            corpus=corpus,
            modality=corpus.modality,
            base=str(snapshot.base),
            manner={name: getattr(judge, name) for name in names},
            sample=next(iter(plan.items), None),
            max_pixels=config.max_pixels,
            isolate=config.isolate,
        )

    def open(self, item: Item) -> bytes:
        return self.corpus.open(item)

    def check(self) -> None:
        if self.sample is not None and self.sample.is_container:
            files_of(self.sample.uri).status(self.sample.uri)
        elif self.sample is not None:
            self.corpus.open(self.sample)

    def is_divisible(self, unit: Unit) -> bool:
        return any(item.is_container for item in unit.items)

    def listed(self, unit: Unit, encoder: EncoderSource) -> Iterator[Item | Decoded | Note]:
        judge = _NotingJudge(
            stored=partial(stored_path, base=self.base),
            known=KnownRows.of([unit.known]),
            completed=Completed(CONTAINER_SCHEMA.empty_table()),
            **self.manner,
        )
        schemas: list[pa.Schema] = []

        def learn(schema: pa.Schema | None) -> None:
            if schema is not None:
                schemas.append(schema)

        passages = Passages(encoder.load()) if self.modality == "text" else None
        for each in items_to_read(self.corpus, unit.items, judge, learn=learn, passages=passages):
            while schemas:
                yield Learned(schema=schemas.pop(0))
            if judge.same and (isinstance(each, Decoded) or len(judge.same) >= UNIT_ITEMS):
                yield judge.noted()
            yield each
        if judge.same:
            yield judge.noted()


@dataclass
class _NotingJudge(Judge):
    """Notes which parts are unchanged, for the judge of the driver."""

    same: list[Item] = field(default_factory=list)

    def unchanged(self, item: Item) -> np.ndarray | None:
        rows = super().unchanged(item)
        if rows is not None:
            self.same.append(replace(item, data=None, columns={}, address=""))
        return rows

    def noted(self) -> Unchanged:
        """What was noted since the last time."""
        noted, self.same = Unchanged(items=self.same), []
        return noted


def units_of(plan: IndexPlan, snapshot: Snapshot, *, most: int | None = None) -> Iterator[Unit]:
    """The items of a plan in units, in order; at most ``most`` items each, by default as `UNIT_ITEMS` says."""
    most = most or max(UNIT_ITEMS, -(-plan.changed // UNITS))
    items: list[Item] = []
    size = 0
    for item in plan.items:
        bound = CONTAINER_BYTES if item.is_container else UNIT_BYTES
        if items and (len(items) >= most or size + item.size > bound):
            yield _unit(items, plan, snapshot)
            items, size = [], 0
        items.append(item)
        size += item.size
    if items:
        yield _unit(items, plan, snapshot)


def _unit(items: Sequence[Item], plan: IndexPlan, snapshot: Snapshot) -> Unit:
    rows = [np.empty(0, dtype=np.int64)]
    for item in items:
        if item.is_container:
            rows.append(plan.known.parts_of(snapshot.stored(item.uri), plan.modality))
        elif (row := plan.judge.redescribed(item)) is not None:
            rows.append(np.array([row]))
    ids = np.sort(plan.known.ids[np.concatenate(rows)])
    return Unit(items=tuple(items), known=_known_rows(snapshot, ids))


def _known_rows(snapshot: Snapshot, ids: np.ndarray) -> pa.Table:
    """What a judge needs to know of some rows; only shards that hold one of them are read."""
    tables: list[pa.Table] = []
    for shard in snapshot.shards if len(ids) else ():
        _, rows = shard.find(ids)
        if len(rows):
            tables.append(shard.read(KNOWN_COLUMNS).take(pa.array(rows)))
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


def _settled(result: Decoded, committer: Committer) -> Decoded:
    """A result as the committer takes it: with the row that it has here, and without a vector that the run has already
    made of the same content."""
    judge = committer.plan.judge
    if result.item.is_container:
        return result
    judge.unchanged(result.item)  # marks the row of a part that is there
    if result.redescribed is not None:
        return replace(result, redescribed=judge.redescribed(result.item))
    if result.vector is not None and committer.knows(result.content_hash):
        own = None if result.facts is None else {name: getattr(result.facts, name) for name in WELCOME}
        return replace(result, vector=None, facts=None, own=own)
    return result
