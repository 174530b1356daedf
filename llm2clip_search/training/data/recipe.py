"""The data part of a recipe."""

from dataclasses import dataclass

from llm2clip_search.training.data.caption_table import CaptionSource, HeldOutSplit
from llm2clip_search.training.data.long_captions import LongCaptions
from llm2clip_search.training.runtime.allowed_values import require_values


@dataclass(frozen=True, kw_only=True)
class DevSplit:
    """Captioned images that checkpoints are evaluated on; never trained on."""

    name: str
    """Names the split in logs and on the model card."""
    captions: CaptionSource
    """The first of its ``langs`` counts when the best checkpoint is selected."""
    images: tuple[str, ...]
    """Webdataset shards or folders; may contain braces and ``*``."""
    joined: int = 0
    """Join the first so many captions of an image in a language to one long caption; images with one caption are left
    out. 0 takes every caption by itself."""
    selects: bool = True
    """Whether it counts when the best checkpoint is selected; if not, it is only evaluated."""

    def __post_init__(self) -> None:
        require_values(self, {"joined": (self.joined == 0 or self.joined >= 2, "0, or at least 2")})


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What is trained on and what is held out; all paths are relative to the data folder."""

    captions: tuple[CaptionSource, ...]
    """Captions for stage 1."""
    images: tuple[str, ...]
    """Images for stage 2: webdataset shards or folders; may contain braces and ``*``."""
    image_captions: tuple[CaptionSource, ...]
    """Captions for stage 2."""
    long: LongCaptions | None = None
    """Makes long captions for stage 2 from short ones; None for data that has long captions."""
    held_out: tuple[HeldOutSplit, ...] = ()
    """Benchmark splits whose photographs neither stage trains on."""
    dev: tuple[DevSplit, ...] = ()
    """Stage 2 selects the checkpoint with the best mean over these splits; stage 1 uses the captions of the first."""


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """Size of the data, which `dry_run` needs because it reads nothing."""

    photographs: int
    """Photographs that stage 1 draws caption pairs from."""
    images: int
    """Images of stage 2."""
    captions: int
    """Different captions of stage 2 and of dev, each stored once in the caption store."""
    tokens: int
    """Mean number of tokens in a caption."""
