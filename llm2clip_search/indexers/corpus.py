"""Indexing a corpus: plan what changed, embed it, commit it, and bring the approximate index up to date."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from llm2clip_search.base.files import user_path
from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.corpora import Corpus, Skipped
from llm2clip_search.corpora.columns import column_name
from llm2clip_search.corpora.decode import Decoded, held_bytes
from llm2clip_search.corpora.lookahead import list_ahead
from llm2clip_search.corpora.passages import Passages
from llm2clip_search.encoders import Encoder, as_encoder
from llm2clip_search.encoders.images import MAX_PIXELS
from llm2clip_search.errors import CorpusError, InputError, StoreError
from llm2clip_search.indexers.ann import build_ann
from llm2clip_search.indexers.commit import Committer
from llm2clip_search.indexers.embed import embed_ahead
from llm2clip_search.indexers.listing import items_to_read
from llm2clip_search.indexers.plan import plan_update, refuse_empty
from llm2clip_search.indexers.sources import check_missing, follow_base, open_source
from llm2clip_search.store import Snapshot, Writer, default_index, has_index
from llm2clip_search.store.names import decode, json_path
from llm2clip_search.vectorindex.policy import AnnConfig


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How a corpus is read and how often the index is committed."""

    batch_size: int | None = None
    """Images per call of the vision tower; None for as many as suit the encoder."""
    threads: int = field(default_factory=lambda: min(16, os.cpu_count() or 1))
    """Threads that read and decode ahead of the tower."""
    ahead_batches: int = 4
    """Decoded batches that may wait: the bound on memory."""
    max_pixels: int = MAX_PIXELS
    """Larger images fail, judged by their header."""
    isolate: bool | None = None
    """Images are decoded in processes that can be killed, with limits of time and memory for each file; None for those
    that have an address, as files of strangers have, and for all where the encoder runs on a GPU."""
    rows_per_commit: int = 8192
    seconds_per_commit: float = 60.0
    """A commit is made after this time or that many rows: what a kill can lose."""
    rehash: bool = False
    """Read every item and compare contents, whatever size and version say."""
    forget: bool = False
    """Remove rows below parts of the corpus that hold nothing any more, which otherwise are kept: an unmounted disk
    looks like an emptied folder."""
    ann: AnnConfig | None = None
    """When and how search becomes approximate; None keeps the index's own configuration."""

    def images_at_once(self, encoder: Encoder) -> int:
        """Images per call of this encoder's vision tower."""
        return self.batch_size or encoder.batch_size


@dataclass(kw_only=True)
class IndexSummary:
    """What a run did, in items and seconds."""

    root: str
    index: str
    indexed: int = 0
    """Embedded in this run."""
    damaged: int = 0
    """Of those, images whose file is damaged; the column ``damage`` says how."""
    reused: int = 0
    """New paths whose content was known: renamed, copied, or touched without change."""
    redescribed: int = 0
    """Rows that got other columns of their source; nothing of them was read."""
    unchanged: int = 0
    removed: int = 0
    failed: int = 0
    total: int = 0
    """Live rows of the index afterwards, all corpora together."""
    modality: str = "image"
    """What was indexed: image or text."""
    holds: list[str] = field(default_factory=list)
    """What the index holds: image, text or both."""
    unreadable: list[str] = field(default_factory=list)
    """Parts of the corpus that could not be looked into; rows below them were kept."""
    vacant: dict[str, int] = field(default_factory=dict)
    """Parts that hold nothing any more, with the number of rows below them, which were kept."""
    missing: dict[str, int] = field(default_factory=dict)
    """Other sources whose folder is missing, with the number of rows that the index keeps of them."""
    skipped: Skipped = field(default_factory=Skipped)
    """Counts of what the corpus left out."""
    exclude: list[str] = field(default_factory=list)
    """Patterns of what was left out; the index remembers them."""
    everything: bool = False
    """Hidden files and system folders were read; the index remembers it."""
    followed: str = ""
    """Folder that the index lay in before, if it has moved without its images: paths lead there now."""
    untyped: dict[str, int] = field(default_factory=dict)
    """Values of the source that were left out because they do not have the type of their column, by column."""
    absent: list[str] = field(default_factory=list)
    """Columns that were asked for, but that nothing in the index has."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    ann: str | None = None
    """FAISS factory string of the approximate index; None when search is exact."""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    """What each node of a cluster has embedded: ``name``, ``embedded``, and ``rate`` in items/s."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage; ``read`` and ``decode`` are summed over threads, which work beside ``encode``."""
    elapsed: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; ``path_bytes`` of a failure is as of `Hit`."""
        failures = [{**each, **json_path(each["path"])} for each in self.failures]
        return {**asdict(replace(self, skipped=Skipped())), "skipped": self.skipped.to_dict(), "failures": failures}


class Embedding(Protocol):
    """How the items of a plan are embedded: the seam between planning and committing."""

    def embed(self, corpus: Corpus, committer: Committer, encoder: Encoder, config: IndexConfig) -> Iterator[Decoded]:
        """The items of the committer's plan, each once and in the plan's order, those of containers in place of these.

        Each is a result that `Committer.take` accepts. Types of columns are learned before the first of them.

        Raises:
            Llm2ClipError: the model itself fails, or what it runs on; what was yielded until then is committed.
        """

    def nodes(self) -> list[dict[str, Any]]:
        """What each machine has done: ``name``, ``embedded``, and ``rate`` in items/s; none for this process alone."""
        return []


class LocalEmbedding(Embedding):
    """Threads of this process read and decode, and its encoder embeds."""

    def embed(self, corpus: Corpus, committer: Committer, encoder: Encoder, config: IndexConfig) -> Iterator[Decoded]:
        plan, batch_size = committer.plan, config.images_at_once(encoder)
        ahead = config.ahead_batches * batch_size
        passages = Passages(encoder) if corpus.modality == "text" else None
        committer.columns.learn(corpus.schema())
        items = items_to_read(corpus, plan.items, plan.judge, learn=committer.columns.learn, passages=passages)
        return embed_ahead(
            corpus,
            list_ahead(items, ahead=ahead, weigh=held_bytes),
            encoder,
            modality=corpus.modality,
            batch_size=batch_size,
            threads=config.threads,
            ahead=ahead,
            max_pixels=config.max_pixels,
            isolate=config.isolate,
            known=committer.knows,
        )


def index_corpus(
    corpus: Corpus,
    *,
    encoder: Encoder | str,
    index: str | os.PathLike[str] | None = None,
    config: IndexConfig | None = None,
    embedding: Embedding = LocalEmbedding(),
    progress: Progress = no_progress,
) -> IndexSummary:
    """Bring an index up to date with a corpus: embed new and changed items, forget those that are gone.

    An item of known version is unchanged; otherwise its content hash decides, so renamed, copied and touched items
    keep their vector. Items that fail are rows of ``failures.parquet``.

    Args:
        encoder: an encoder, or the name of a model.
        index: the index folder, by default the nearest ``.llm2clip`` upward, else a new one here.
        embedding: where items are read and embedded; by default in this process.
        progress: called with ``images`` as items are done.

    Raises:
        CorpusError: no such corpus, or nothing in it.
        StoreError: another model made the index, another process is writing it, or it cannot be written; what was
            committed until then is kept, and the next run goes on from there.
    """
    encoder = as_encoder(encoder)
    config = config or IndexConfig()
    started = time.perf_counter()
    folder = user_path(index) if index is not None else default_index()
    _look_for_items(corpus, folder, forget=config.forget)  # no index is created for an empty folder
    with Writer.open(folder, model=encoder.identity, dim=encoder.dim) as writer:
        followed = follow_base(writer)
        plan = plan_update(writer.snapshot, corpus, rehash=config.rehash, forget=config.forget)
        if plan.is_empty and not config.forget:  # it was emptied, or unmounted, a moment ago
            refuse_empty(corpus, writer.snapshot)
        committer = Committer(
            writer, plan, rows_per_commit=config.rows_per_commit, seconds_per_commit=config.seconds_per_commit
        )
        seconds = embed_and_commit(corpus, committer, encoder, config, progress, embedding)
        committer.finish()
        missing = check_missing(writer)
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
            damaged=committer.damaged,
            reused=committer.reused,
            redescribed=committer.redescribed,
            unchanged=committer.unchanged,
            removed=committer.removed,
            failed=len(committer.failures),
            total=writer.manifest.live,
            modality=corpus.modality,
            holds=sorted({source.modality for source in writer.manifest.sources}),
            unreadable=[f"{part}: {reason}" for part, reason in corpus.unreadable().items()],
            vacant=committer.vacant,
            missing=missing,
            skipped=corpus.skipped(),
            exclude=list(corpus.exclude),
            everything=corpus.everything,
            followed=followed,
            untyped=committer.untyped,
            absent=_absent(corpus, writer.snapshot),
            failures=[{**failure.to_dict(), "path": decode(failure.path)} for failure in committer.failures],
            ann=entry.factory if entry else None,
            nodes=embedding.nodes(),
            seconds=seconds,
            elapsed=time.perf_counter() - started,
        )


def _absent(corpus: Corpus, snapshot: Snapshot) -> list[str]:
    """Columns that a source was asked for and that no row of the index has; of a table, that is a failure."""
    columns = {name.casefold() for name in snapshot.schema.names}
    asked = corpus.options.get("columns", ()) if snapshot.manifest.live else ()
    return [name for name in asked if column_name(name).casefold() not in columns]


def embed_and_commit(
    corpus: Corpus,
    committer: Committer,
    encoder: Encoder,
    config: IndexConfig,
    progress: Progress,
    embedding: Embedding = LocalEmbedding(),
) -> dict[str, float]:
    """Embed the items of a committer's plan and commit them from time to time; the last ones wait for the caller.

    Returns:
        Seconds by stage.
    """
    seconds = dict.fromkeys(("read", "decode", "encode", "write"), 0.0)
    results = embedding.embed(corpus, committer, encoder, config)
    total, done = committer.plan.changed, 0
    progress("images", 0, total, {})
    try:
        for decoded in results:
            for stage, spent in decoded.seconds.items():
                seconds[stage] += spent
            committer.take(decoded)
            done += 1
            # How many parts a container has is not known before its last one.
            progress("images", done, max(total, done), {})
    except StoreError:
        raise  # the commit itself: a second one would fail as well
    except BaseException:
        committer.commit()  # interrupted, or the model failed: what is embedded already is kept
        raise
    return seconds


def index_folder(
    root: str | os.PathLike[str],
    *,
    encoder: Encoder | str,
    index: str | os.PathLike[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    everything: bool | None = None,
    config: IndexConfig | None = None,
    progress: Progress = no_progress,
) -> IndexSummary:
    """`index_corpus` of a folder of image files.

    Args:
        exclude: gitignore patterns of what to leave out, or one of them; None for those that the index remembers.
        everything: read hidden files and system folders too; None for what the index remembers.

    Raises:
        InputError: several folders; each is indexed by a call of its own, into the same index.
    """
    if not isinstance(root, str | os.PathLike):
        raise InputError(f"A folder is one path, not {type(root).__name__}; index several by one call for each.")
    if isinstance(exclude, str):
        exclude = [exclude]
    target = user_path(index) if index is not None else default_index()
    known = Snapshot(target) if has_index(target) else None
    corpus = open_source(Path(root), known, exclude=exclude, everything=everything)
    del known  # its lease would keep the files that this run replaces
    return index_corpus(corpus, encoder=encoder, index=target, config=config, progress=progress)


def _look_for_items(corpus: Corpus, index: Path, *, forget: bool) -> None:
    """Refuse a corpus without items, unless those that an index knows shall be forgotten.

    Raises:
        CorpusError: it has none, or is not there; the hint says what to do about a source that the index knows.
    """
    snapshot = Snapshot(index) if has_index(index) else None
    try:
        is_empty = next(iter(corpus.items()), None) is None
    except CorpusError as error:
        root = snapshot.stored(corpus.uri) if snapshot is not None else ""
        if snapshot is not None and any(snapshot.is_under(root, each.uri) for each in snapshot.manifest.sources):
            error.hint = error.hint or (
                f"If it has moved, 'llm2clip-search sources move {corpus.uri} NEW' follows it;"
                f" 'llm2clip-search sources forget {corpus.uri}' removes its images from the index."
            )
        raise
    if is_empty and not (forget and snapshot is not None):
        refuse_empty(corpus, snapshot)
