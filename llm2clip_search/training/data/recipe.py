"""What a recipe says about its data."""

from dataclasses import dataclass

from llm2clip_search.training.data.caption_table import CaptionSource, HeldOutSplit
from llm2clip_search.training.data.long_captions import LongCaptions


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What is trained on and what is not; all paths are relative to the data folder."""

    captions: tuple[CaptionSource, ...]
    """Stage 1 learns from all of them, stage 2 from those of its images."""
    images: tuple[str, ...]
    """Webdataset shards or folders; braces and ``*`` allowed."""
    image_captions: tuple[CaptionSource, ...]
    """Stage 2's captions."""
    long: LongCaptions | None = None
    """Long captions that stage 2 makes of short ones, for data that has none."""
    held_out: tuple[HeldOutSplit, ...] = ()
    """Benchmark splits whose photographs are left out of everything that is trained on."""
    dev: CaptionSource | None = None
    """Captions that checkpoints are judged by; of its ``langs`` the first decides."""
    dev_images: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What the data are known to hold: `dry_run` estimates by it before anything is read."""

    photographs: int
    """That stage 1 draws pairs of captions from."""
    images: int
    """Of stage 2."""
    captions: int
    """Different ones of stage 2 and of dev, each of which the caption store holds once."""
    tokens: int
    """Of a caption, mean."""
