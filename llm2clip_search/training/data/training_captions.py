"""The captions that a data recipe trains on, without those of held-out photographs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import (
    CaptionSource,
    captions_of_images,
    held_out_photos,
    read_caption_table,
    without_photos,
)
from llm2clip_search.training.data.long_captions import with_long_captions
from llm2clip_search.training.data.recipe import DataRecipe


def read_stage2_captions(data: DataRecipe, root: Path) -> tuple[pa.Table, dict[str, int]]:
    """The captions of stage 2's images, made long ones included, and what was counted."""
    captions, counts = read_training_captions(data.image_captions, data, root)
    captions = captions_of_images(captions)
    if data.long is not None:
        captions = with_long_captions(captions, data.long)
        counts["long captions made"] = len(captions) - counts["captions"]
    return captions, counts


def read_training_captions(
    sources: Sequence[CaptionSource], data: DataRecipe, root: Path
) -> tuple[pa.Table, dict[str, int]]:
    captions, empty = read_caption_table(root, sources)
    kept = without_photos(captions, held_out_by(data, root))
    left_out = len(captions) - len(kept)
    if not len(kept):
        raise CorpusError(f"All {left_out:,} captions are of held-out photographs: nothing is left to train on.")
    return kept, {"captions": len(kept), "empty": empty, "held out": left_out}


def held_out_by(data: DataRecipe, root: Path) -> set[str]:
    """Photographs that are not trained on: those of benchmark splits, and of dev even where no one says so."""
    photos = held_out_photos(root, data.held_out)
    if data.dev is not None:
        photos |= set(read_caption_table(root, [replace(data.dev, langs=())])[0]["photo"].to_pylist())
    return photos
