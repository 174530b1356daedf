"""Reads, matches and checks the data that stage 2 is trained and evaluated on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_store import CaptionStore
from llm2clip_search.training.data.caption_table import read_caption_table
from llm2clip_search.training.data.image_captions import CaptionedImages, match_captions
from llm2clip_search.training.data.image_set import ImageSet, open_images
from llm2clip_search.training.data.recipe import DataRecipe, DevSplit
from llm2clip_search.training.data.training_captions import held_out_by, read_stage2_captions
from llm2clip_search.training.runtime.plots import Similarities
from llm2clip_search.training.tasks.llm_folder import LLMFolder, clip_identity


@dataclass(frozen=True, kw_only=True)
class Dev:
    """A dev split, which checkpoints are evaluated on."""

    name: str
    files: ImageSet
    image_ids: list[str]
    captions: dict[str, tuple[np.ndarray, np.ndarray]]
    """By language: stored embeddings ``[n, width]``, and the index of each caption's image in ``image_ids``, int64
    ``[n]``. The first language counts when the best checkpoint is selected."""
    texts: dict[str, list[str]]
    """The captions by language, in the same order."""
    selects: bool = True
    """See `DevSplit`."""


@dataclass(frozen=True, kw_only=True)
class DevVectors:
    """Vectors of a dev split in one language, as the finished encoder returns them."""

    dev: Dev
    lang: str
    images: np.ndarray
    """float32 ``[n_images, dim]``, L2-normalised."""
    captions: np.ndarray
    """float32 ``[n_captions, dim]``, L2-normalised."""
    image_of: np.ndarray
    """int64 ``[n_captions]``, the index of each caption's image."""

    def similarities(self) -> Similarities:
        """Similarities of captions with images."""
        return Similarities.between(self.captions, self.images, self.image_of, np.arange(len(self.images)))


@dataclass(frozen=True, kw_only=True)
class ClipData:
    """Images, captions, caption embeddings and dev splits of stage 2."""

    files: ImageSet
    captioned: CaptionedImages
    captions: pa.Table
    """The table with `caption_table.CAPTION_SCHEMA` whose rows ``captioned`` refers to."""
    store: CaptionStore
    dev: tuple[Dev, ...]


def read_clip_data(
    data: DataRecipe, *, root: Path, llm: LLMFolder, store: Path, clip: TextConfig | None, max_missing: float
) -> tuple[ClipData, dict[str, int]]:
    """Read the data of stage 2.

    Args:
        root: the folder that paths in ``data`` are relative to.
        store: folder of the caption store.
        clip: the CLIP text tower whose embeddings the store has to hold; None if none is needed.
        max_missing: see `image_captions.match_captions`.

    Returns:
        The data, and its counts by name.

    Raises:
        CorpusError: images or captions are missing or do not match.
        StoreError: the store was made by another LLM or CLIP, or lacks some of dev's captions.
    """
    opened = CaptionStore(store)
    opened.require_models(llm.fingerprint, llm.folder, clip=clip_identity(clip))
    captions, counts = read_stage2_captions(data, root)
    files = open_images(root, data.images)
    dev = tuple(_dev(split, root, opened) for split in data.dev)
    captioned = match_captions(
        files,
        captions,
        source_weights=[source.weight for source in data.image_captions],
        max_missing=max_missing,
        held_out_hashes=frozenset(digest for split in dev for digest in split.files.content_hashes.values()),
        held_out_photos=held_out_by(data, root),
    )
    read = ClipData(files=files, captioned=captioned, captions=captions, store=opened, dev=dev)
    return read, counts | captioned.counts


def _dev(split: DevSplit, root: Path, store: CaptionStore) -> Dev:
    files = open_images(root, split.images)
    ids = list(files)
    index_of = {image: index for index, image in enumerate(ids)}
    table, _ = read_caption_table(root, [split.captions])
    found = [files.find(image) for image in table["image_id"].to_pylist()]
    if None in found:
        raise CorpusError(f"The images of {found.count(None):,} dev captions are not in {', '.join(split.images)}.")
    image_of = np.array([index_of[str(image)] for image in found], dtype=np.int64)
    embedded = store.embeddings(store.positions(table["caption_id"].to_numpy()))
    langs = np.array(table["lang"].to_pylist())
    order = split.captions.langs or tuple(dict.fromkeys(langs.tolist()))
    captions = {lang: (embedded[langs == lang], image_of[langs == lang]) for lang in order}
    written = np.array(table["caption"].to_pylist(), dtype=object)
    texts = {lang: written[langs == lang].tolist() for lang in order}
    return Dev(name=split.name, files=files, image_ids=ids, captions=captions, texts=texts, selects=split.selects)
