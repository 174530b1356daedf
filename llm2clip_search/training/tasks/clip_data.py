"""What stage 2 is trained on and evaluated on: read, matched and checked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_store import CaptionStore
from llm2clip_search.training.data.caption_table import read_caption_table
from llm2clip_search.training.data.image_captions import CaptionedImages, match_captions
from llm2clip_search.training.data.recipe import DataRecipe
from llm2clip_search.training.data.training_captions import held_out_by, read_stage2_captions
from llm2clip_search.training.tasks.llm_folder import LLMFolder, clip_identity


@dataclass(frozen=True, kw_only=True)
class Dev:
    """What checkpoints are judged by."""

    files: ImageFiles
    image_ids: list[str]
    captions: dict[str, tuple[np.ndarray, np.ndarray]]
    """By language: float16 embeddings ``[n, width]``, and int64 ``[n]`` places in ``image_ids``. The first
    language decides."""


@dataclass(frozen=True, kw_only=True)
class ClipData:
    """What is trained on, and what by."""

    files: ImageFiles
    captioned: CaptionedImages
    captions: pa.Table
    """See `caption_table.CAPTION_SCHEMA`; the table that ``captioned`` counts the rows of."""
    store: CaptionStore
    dev: Dev | None


def read_clip_data(
    data: DataRecipe, *, root: Path, llm: LLMFolder, store: Path, clip: TextConfig | None, max_missing: float
) -> tuple[ClipData, dict[str, int]]:
    """Everything that stage 2 is given, checked, and what was counted.

    Raises:
        CorpusError: images or captions that are not there, or do not belong together.
        StoreError: a store of another LLM, or without some of dev's captions.
    """
    opened = CaptionStore(store)
    opened.require_models(llm.fingerprint, llm.folder, clip=clip_identity(clip))
    captions, counts = read_stage2_captions(data, root)
    files = ImageFiles.scan(root, data.images)
    dev = _dev(data, root, opened)
    captioned = match_captions(
        files,
        captions,
        max_missing=max_missing,
        held_out_hashes=frozenset(dev.files.content_hashes.values()) if dev is not None else frozenset(),
        held_out_photos=held_out_by(data, root),
    )
    return ClipData(
        files=files, captioned=captioned, captions=captions, store=opened, dev=dev
    ), counts | captioned.counts


def _dev(data: DataRecipe, root: Path, store: CaptionStore) -> Dev | None:
    if data.dev is None or not data.dev_images:
        return None
    files = ImageFiles.scan(root, data.dev_images)
    ids = list(files)
    place = {image: row for row, image in enumerate(ids)}
    table, _ = read_caption_table(root, [data.dev])
    found = [files.find(image) for image in table["image_id"].to_pylist()]
    if None in found:
        raise CorpusError(f"{found.count(None):,} dev captions are of images that {', '.join(data.dev_images)} lacks.")
    image_of = np.array([place[str(image)] for image in found], dtype=np.int64)
    embedded = store.embeddings(store.positions(table["caption_id"].to_numpy()))
    langs = np.array(table["lang"].to_pylist())
    order = data.dev.langs or tuple(dict.fromkeys(langs.tolist()))
    captions = {lang: (embedded[langs == lang], image_of[langs == lang]) for lang in order}
    return Dev(files=files, image_ids=ids, captions=captions)
