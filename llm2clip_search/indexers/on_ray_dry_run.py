"""What indexing a corpus on a cluster would take; nothing is committed."""

import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from llm2clip_search.base.files import user_path
from llm2clip_search.cluster.dry_run import Estimate, measure
from llm2clip_search.cluster.pipeline import Usage, embed_units
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.cluster.work import EncoderSource
from llm2clip_search.corpora import Corpus
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError
from llm2clip_search.indexers.corpus import IndexConfig
from llm2clip_search.indexers.on_ray import STAGING, CorpusWork, together, units_of
from llm2clip_search.indexers.plan import IndexPlan, plan_update
from llm2clip_search.store import Snapshot, Writer, has_index

SAMPLE_BATCHES = 8
"""Batches of the sample for each encoder."""


def estimate_on_ray(
    corpus: Corpus,
    *,
    encoder: Encoder,
    index: str | os.PathLike[str],
    config: IndexConfig = IndexConfig(),
    cluster: ClusterConfig = ClusterConfig(),
    node_price: float | None = None,
) -> Estimate:
    """Embed a sample of what a run would embed, on all nodes, and say what the whole takes.

    Args:
        index: as for `index_corpus`; it is read if it exists, and not created.
        node_price: of a node for an hour, in any currency.

    Raises:
        CorpusError: there is nothing to embed.
        ClusterError: as `embed_units`.
    """
    folder, batch_size = user_path(index), config.images_at_once(encoder)
    with tempfile.TemporaryDirectory() as scratch:
        if not has_index(folder):
            with Writer.open(Path(scratch) / "empty", model=encoder.identity, dim=encoder.dim):
                pass
        snapshot = Snapshot(folder if has_index(folder) else Path(scratch) / "empty")
        plan = plan_update(snapshot, corpus, rehash=config.rehash, forget=config.forget)
        if not plan.changed:
            raise CorpusError(f"Nothing in {corpus.uri} is new or changed.")
        usage = Usage()
        staging = cluster.staging or str(folder / STAGING)
        results = embed_units(
            CorpusWork.of(corpus, plan, snapshot, config),
            islice(units_of(plan, snapshot, most=batch_size), 4096),
            EncoderSource.of(encoder),
            replace(cluster, staging=staging),
            owner=f"{folder} (dry run)",
            batch_size=batch_size,
            together=together(corpus, batch_size),
            known=plan.known.sorted_contents,
            usage=usage,
        )
        try:
            return measure(
                results,
                usage,
                wanted=SAMPLE_BATCHES * batch_size * max(1, cluster.encoders or 4),
                total=lambda mean: _items(plan, mean),
                node_price=node_price,
            )
        finally:
            for made in (folder / STAGING, folder):  # as long as there is nothing else in them
                with suppress(OSError):
                    made.rmdir()


def _items(plan: IndexPlan, mean: float) -> int:
    """About how many items a plan has, if the parts of its containers have ``mean`` bytes."""
    plain, held = 0, 0
    for item in plan.items:
        plain += not item.is_container
        held += item.size if item.is_container else 0
    return max(1, plain + round(held / max(mean, 1.0)))
