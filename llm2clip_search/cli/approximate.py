"""What commands that build or measure approximate indices share."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from llm2clip_search.cli.sizes import to_bytes

if TYPE_CHECKING:
    import numpy as np

    from llm2clip_search.base.identity import ModelIdentity
    from llm2clip_search.vectorindex.policy import AnnConfig, AnnName


def ann_config(before: "AnnConfig", kind: "AnnName | None", recall: float | None, memory: str | None) -> "AnnConfig":
    """A configuration changed by the options that were given.

    Raises:
        StoreError: a recall or an amount of memory that cannot be.
    """
    return replace(
        before,
        kind=before.kind if kind is None else kind,
        recall=before.recall if recall is None else recall,
        memory=before.memory if memory is None else to_bytes(memory),
    )


def captions_of(model: "ModelIdentity") -> "Callable[[int], np.ndarray | None]":
    """The captions that an index's model brings along; None if it is not on this machine. Nothing is fetched, and its
    towers are not loaded."""

    def sample(count: int) -> "np.ndarray | None":
        from llm2clip_search.encoders import load_encoder
        from llm2clip_search.encoders.registry import is_at_hand
        from llm2clip_search.errors import ModelError

        try:
            if not is_at_hand(model.name):
                return None
            encoder = load_encoder(model.name)
        except ModelError:
            return None
        return encoder.caption_sample(count) if encoder.fingerprint == model.fingerprint else None

    return sample
