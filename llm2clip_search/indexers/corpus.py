"""Indexing a corpus: plan what changed, embed it, commit it, and bring the approximate index up to date."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.corpora import Corpus, FolderCorpus
from llm2clip_search.corpora.corpus import ItemReader
from llm2clip_search.encoders import Encoder
from llm2clip_search.encoders.images import MAX_PIXELS
from llm2clip_search.errors import StoreError
from llm2clip_search.indexers.ann import build_ann
from llm2clip_search.indexers.commit import Committer
from llm2clip_search.indexers.embed import embed_ahead
from llm2clip_search.indexers.plan import plan_update, refuse_empty
from llm2clip_search.store import Snapshot, Writer, default_index, has_index
from llm2clip_search.vectorindex.policy import AnnConfig


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How a corpus is read and how often the index is committed."""

    batch_size: int = 32
    """Images per call of the vision tower."""
    threads: int = field(default_factory=lambda: min(16, os.cpu_count() or 1))
    """Threads that read and decode ahead of the tower."""
    ahead_batches: int = 4
    """Decoded batches that may wait: the bound on memory."""
    max_pixels: int = MAX_PIXELS
    """Larger images fail, judged by their header."""
    rows_per_commit: int = 8192
    seconds_per_commit: float = 60.0
    """A commit is made after this time or that many rows: what a kill can lose."""
    ann: AnnConfig | None = None
    """When and how search becomes approximate; None keeps the index's own configuration."""


@dataclass(kw_only=True)
class IndexSummary:
    """What a run did, in items and seconds."""

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
    """Parts of the corpus that could not be looked into; rows below them were kept."""
    failures: list[dict[str, str]] = field(default_factory=list)
    ann: str | None = None
    """FAISS factory string of the approximate index; None when search is exact."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage; ``read`` and ``decode`` are summed over threads, which work beside ``encode``."""
    elapsed: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def index_corpus(
    corpus: Corpus,
    *,
    encoder: Encoder,
    index: str | os.PathLike[str] | None = None,
    config: IndexConfig | None = None,
    progress: Progress = no_progress,
) -> IndexSummary:
    """Bring an index up to date with a corpus: embed new and changed items, forget those that are gone.

    An item of known version is unchanged; otherwise its content hash decides, so renamed, copied and touched items
    keep their vector. Items that fail are rows of ``failures.parquet``.

    Args:
        index: the index folder, by default the nearest ``.llm2clip`` upward, else a new one here.
        progress: called with ``images`` as items are done.

    Raises:
        CorpusError: no such corpus, or nothing in it.
        StoreError: another model made the index, another process is writing it, or it cannot be written; what was
            committed until then is kept, and the next run goes on from there.
    """
    config = config or IndexConfig()
    started = time.perf_counter()
    folder = Path(index) if index is not None else default_index()
    if next(iter(corpus.items()), None) is None:  # no index is created for an empty folder
        refuse_empty(corpus, Snapshot(folder) if has_index(folder) else None)
    with Writer.open(folder, model=encoder.identity, dim=encoder.dim) as writer:
        plan = plan_update(writer.snapshot, corpus)
        if plan.is_empty:  # it was emptied, or unmounted, a moment ago
            refuse_empty(corpus, writer.snapshot)
        committer = Committer(
            writer, plan, rows_per_commit=config.rows_per_commit, seconds_per_commit=config.seconds_per_commit
        )
        seconds = embed_and_commit(corpus, committer, encoder, config, progress)
        committer.finish()
        building = time.perf_counter()
        ann = config.ann or writer.manifest.ann_config or AnnConfig()
        entry = build_ann(writer, ann, captions=encoder.caption_sample, progress=progress)
        seconds["write"] += committer.seconds
        if entry is not None:
            seconds["ann"] = time.perf_counter() - building
        return IndexSummary(
            root=corpus.uri,
            index=str(writer.snapshot.folder),
            indexed=committer.indexed,
            reused=committer.reused,
            unchanged=committer.unchanged,
            removed=committer.removed,
            failed=len(committer.failures),
            total=writer.manifest.live,
            unreadable=[f"{part}: {reason}" for part, reason in corpus.unreadable().items()],
            failures=[failure.to_dict() for failure in committer.failures],
            ann=entry.factory if entry else None,
            seconds=seconds,
            elapsed=time.perf_counter() - started,
        )


def embed_and_commit(
    reader: ItemReader, committer: Committer, encoder: Encoder, config: IndexConfig, progress: Progress
) -> dict[str, float]:
    """Embed the items of a committer's plan and commit them from time to time; the last ones wait for the caller.

    Returns:
        Seconds by stage.
    """
    plan = committer.plan
    seconds = dict.fromkeys(("read", "decode", "encode", "write"), 0.0)
    results = embed_ahead(
        reader,
        plan.items,
        encoder,
        batch_size=config.batch_size,
        threads=config.threads,
        ahead=config.ahead_batches * config.batch_size,
        max_pixels=config.max_pixels,
        known=lambda content_hash: plan.known.find_content(content_hash) >= 0,
    )
    progress("images", 0, plan.changed, {})
    try:
        for done, decoded in enumerate(results, start=1):
            for stage, spent in decoded.seconds.items():
                seconds[stage] += spent
            committer.take(decoded)
            progress("images", done, plan.changed, {})
    except StoreError:
        raise  # the commit itself: a second one would fail as well
    except BaseException:
        committer.commit()  # interrupted, or the model failed: what is embedded already is kept
        raise
    return seconds


def index_folder(
    root: str | os.PathLike[str],
    *,
    encoder: Encoder,
    index: str | os.PathLike[str] | None = None,
    exclude: Sequence[str] = (),
    config: IndexConfig | None = None,
    progress: Progress = no_progress,
) -> IndexSummary:
    """`index_corpus` of a folder of image files; ``exclude`` holds gitignore patterns."""
    corpus = FolderCorpus(root, exclude=exclude)
    return index_corpus(corpus, encoder=encoder, index=index, config=config, progress=progress)
