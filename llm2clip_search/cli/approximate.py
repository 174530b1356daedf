"""What commands that build or measure approximate indices share."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from llm2clip_search.cli.sizes import to_bytes

if TYPE_CHECKING:
    import numpy as np

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


def captions_of(model: str) -> "Callable[[int], np.ndarray | None]":
    """The captions that a model brings along, if it is on this machine; its towers are not loaded."""

    def sample(count: int) -> "np.ndarray | None":
        from llm2clip_search.encoders import load_encoder
        from llm2clip_search.errors import ModelError

        try:
            return load_encoder(model).caption_sample(count)
        except ModelError:
            return None

    return sample
