"""The captions that the stages train on, without those of held-out photographs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import (
    CaptionSource,
    Report,
    captions_of_images,
    held_out_photos,
    read_caption_table,
    without_photos,
)
from llm2clip_search.training.data.long_captions import with_long_captions
from llm2clip_search.training.data.recipe import DataRecipe


def read_stage2_captions(
    data: DataRecipe, root: Path, report: Report = lambda reason, where, text: None
) -> tuple[pa.Table, dict[str, int]]:
    """Read the captions of stage 2's images and add long ones if the recipe says so.

    Args:
        report: see `read_caption_table`.

    Returns:
        The caption table, and its counts by name.

    Raises:
        CorpusError: captions cannot be read, or all are held out.
    """
    captions, counts = read_training_captions(data.image_captions, data, root, report)
    captions = captions_of_images(captions)
    if data.long is not None:
        captions = with_long_captions(captions, data.long)
        counts["long captions made"] = len(captions) - counts["captions"]
    return captions, counts


def read_training_captions(
    sources: Sequence[CaptionSource],
    data: DataRecipe,
    root: Path,
    report: Report = lambda reason, where, text: None,
) -> tuple[pa.Table, dict[str, int]]:
    """Read captions and leave out those of held-out photographs.

    Args:
        report: see `read_caption_table`.

    Returns:
        The caption table, and its counts by name.

    Raises:
        CorpusError: captions cannot be read, or all are held out.
    """
    captions, counts = read_caption_table(root, sources, report)
    kept = without_photos(captions, held_out_by(data, root))
    left_out = len(captions) - len(kept)
    if not len(kept):
        raise CorpusError(f"All {left_out:,} captions belong to held-out photographs; none are left to train on.")
    return kept, {"captions": len(kept), **counts, "held out": left_out}


def held_out_by(data: DataRecipe, root: Path) -> set[str]:
    """Keys of the photographs that are not trained on: those of benchmark splits, and always those of dev."""
    photos = held_out_photos(root, data.held_out)
    for split in data.dev:
        photos |= set(read_caption_table(root, [replace(split.captions, langs=())])[0]["photo"].to_pylist())
    return photos
