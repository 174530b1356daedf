"""Repairing an index: its files first, then what was lost with them is embedded again from its sources."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.corpora import Item
from llm2clip_search.corpora.corpus import Modality
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers.ann import build_ann, no_captions
from llm2clip_search.indexers.commit import Committer
from llm2clip_search.indexers.corpus import IndexConfig, embed_and_commit
from llm2clip_search.indexers.known import Completed, KnownRows
from llm2clip_search.indexers.listing import Judge
from llm2clip_search.indexers.plan import IndexPlan
from llm2clip_search.indexers.sources import follow_base, open_sources
from llm2clip_search.store import Manifest, Writer
from llm2clip_search.store.lost import lost_images, write_lost_images
from llm2clip_search.store.names import decode
from llm2clip_search.store.repair import FileRepair, repair_files
from llm2clip_search.store.schema import CONTAINER_SCHEMA
from llm2clip_search.store.snapshot import check_model
from llm2clip_search.vectorindex.policy import AnnConfig


@dataclass(kw_only=True)
class RepairSummary(FileRepair):
    """What was damaged, what became of it, and which lost images are back."""

    index: str
    embedded: int = 0
    """Lost images that were embedded again; they have new ids."""
    reused: int = 0
    """Lost images whose content the index still had elsewhere."""
    missing: list[str] = field(default_factory=list)
    """Lost images that their source does not list any more, by path or URI as in the metadata."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Lost images that could not be embedded."""
    total: int = 0
    """Live rows of the index afterwards."""
    elapsed: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def repair_index(
    index: str | os.PathLike[str],
    *,
    encoder: Callable[[], Encoder],
    model: ModelIdentity | None = None,
    captions: Callable[[int], np.ndarray | None] = no_captions,
    config: IndexConfig | None = None,
    progress: Progress = no_progress,
) -> RepairSummary:
    """Set damaged files of an index aside, rebuild what other files allow, and embed again what is lost.

    Damaged files are moved to ``damaged/`` in the index folder, nothing is deleted, and rows of sound shards are not
    touched. Lost images that are not found now are tried again by the next repair.

    Args:
        encoder: loads the model that made the index; called only if there is something to embed.
        model, progress: as for `repair_files`; then ``images`` as they are embedded.
        captions: as for `build_ann`.

    Raises:
        StoreError: there is no index, another process writes it, it cannot be written, nothing of it can be read, or
            the encoder is not the one that made it.
    """
    started = time.perf_counter()
    config = config or IndexConfig()
    folder = Path(index)
    files = repair_files(folder, model=model, progress=progress)
    done = RepairSummary(index=str(folder), **vars(files))
    manifest = Manifest.read(folder)
    with Writer.open(folder, model=manifest.model, dim=manifest.dim) as writer:
        if len(lost_images(folder)):
            follow_base(writer)  # an index that has moved away from its images finds them where they were
        lost = _absent(writer, lost_images(folder))
        if len(lost):
            loaded = encoder()
            check_model(writer.snapshot, loaded.identity)
            captions = loaded.caption_sample
            for (root, modality), paths in _by_source(writer, lost).items():
                _embed(writer, root, modality, paths, loaded, config, progress, done)
        write_lost_images(folder, _absent(writer, lost))
        if done.damaged or len(lost):
            build_ann(writer, manifest.ann_config or AnnConfig(), captions=captions, progress=progress)
        done.total = writer.manifest.live
    done.elapsed = time.perf_counter() - started
    return done


def _absent(writer: Writer, lost: pa.Table) -> pa.Table:
    """Those lost images that the index has not got again."""
    if not len(lost):
        return lost
    known = KnownRows(writer.snapshot)
    return lost.filter(pa.array([known.find(path) < 0 for path in lost.column("path").to_pylist()]))


def _by_source(writer: Writer, lost: pa.Table) -> dict[tuple[str, Modality], set[str]]:
    """Paths of lost images and texts by the corpus that they came from, and by what it was read as."""
    snapshot = writer.snapshot
    by_source: dict[tuple[str, Modality], set[str]] = {}
    for row in lost.to_pylist():
        path, corpus = row["path"], row["corpus"]
        if corpus is None:  # schema 1
            corpus = next((s.uri for s in snapshot.manifest.sources if snapshot.is_under(path, s.uri)), path)
        by_source.setdefault((corpus, row["modality"] or "image"), set()).add(path)
    return by_source


@dataclass
class _Lost(Judge):
    """Has lost images read, and nothing else."""

    lost: frozenset[str] = frozenset()
    """Stored paths."""
    found: set[str] = field(default_factory=set)
    """Those that their source has listed."""

    def __post_init__(self) -> None:
        # Every beginning that may name a container; a corpus lists those that are one.
        self._containers = {path[:at] for path in self.lost for at, letter in enumerate(path) if letter == "#"}

    def unchanged(self, item: Item) -> np.ndarray | None:
        path = self.stored(item.uri)
        if path in self.lost:
            self.found.add(path)
            return None
        return None if item.is_container and path in self._containers else np.empty(0, dtype=np.int64)

    def redescribed(self, item: Item) -> int | None:
        return None


def _embed(
    writer: Writer,
    root: str,
    modality: Modality,
    paths: set[str],
    encoder: Encoder,
    config: IndexConfig,
    progress: Progress,
    done: RepairSummary,
) -> None:
    """Embed lost images of one corpus, and nothing else of it."""
    snapshot = writer.snapshot
    known = KnownRows(snapshot)
    known.present[:] = True  # a repair says nothing about rows that are there, wherever their files are now
    judge = _Lost(snapshot.stored, known, Completed(CONTAINER_SCHEMA.empty_table()), modality, lost=frozenset(paths))
    try:
        options = SourceOptions(modality=modality)
        [corpus] = open_sources([snapshot.located(root)], snapshot, options, given=["modality"])
        items = [item for item in corpus.items() if judge.unchanged(item) is None]
    except CorpusError:  # the whole of it is out of reach
        done.missing += sorted(map(decode, paths))
        return
    # Nothing is gone in this plan: it says nothing of other items of the corpus.
    plan = IndexPlan(
        root=root,
        owner=root,
        source=None,
        judge=judge,
        modality=modality,
        items=items,
        changed=len(items),
        is_partial=True,
    )
    committer = Committer(
        writer, plan, rows_per_commit=config.rows_per_commit, seconds_per_commit=config.seconds_per_commit
    )
    embed_and_commit(corpus, committer, encoder, config, progress)
    committer.commit()
    done.missing += sorted(map(decode, paths - judge.found))
    done.embedded += committer.indexed
    done.reused += committer.reused
    done.failures += [{**failure.to_dict(), "path": decode(failure.path)} for failure in committer.failures]
