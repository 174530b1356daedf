"""Reads, matches and checks the data that stage 2 is trained and evaluated on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_store import CaptionStore
from llm2clip_search.training.data.dev_captions import read_dev_captions
from llm2clip_search.training.data.image_captions import CaptionedImages, match_captions
from llm2clip_search.training.data.image_set import ImageSet, open_images
from llm2clip_search.training.data.recipe import DataRecipe, DevSplit
from llm2clip_search.training.data.training_captions import held_out_by, read_stage2_captions
from llm2clip_search.training.runtime.plots import Similarities
from llm2clip_search.training.tasks.llm_folder import LLMFolder, clip_identity

Check = Callable[[ImageSet, Sequence[str]], Mapping[str, str]]
"""Returns why images of a set cannot be read, by id; see `image_check.ImageCheck`."""


@dataclass(frozen=True, kw_only=True)
class Dev:
    """A dev split, which checkpoints are evaluated on."""

    name: str
    files: ImageSet
    image_ids: list[str]
    captions: dict[str, tuple[np.ndarray, np.ndarray]]
    """By language: stored embeddings ``[n, width]``, and the index of each caption's image in ``image_ids``, int64
    ``[n]``. The first language counts when the best checkpoint is selected:
    the first that the recipe names, otherwise that of the most captions."""
    texts: dict[str, list[str]]
    """The captions by language, in the same order."""
    selects: bool = True
    """See `DevSplit`."""
    broken: Sequence[tuple[str, str]] = ()
    """Ids of images that cannot be read and are left out with their captions, and why."""


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
    left_out: Sequence[tuple[str, str, str]] = ()
    """Reason, name, and details of the captions and images that are not used; see `left_out.write_left_out`."""


def read_clip_data(
    data: DataRecipe,
    *,
    root: Path,
    llm: LLMFolder,
    store: Path,
    clip: TextConfig | None,
    max_missing: float,
    check: Check = lambda files, image_ids: {},
) -> tuple[ClipData, dict[str, int]]:
    """Read the data of stage 2.

    Args:
        root: the folder that paths in ``data`` are relative to.
        store: folder of the caption store.
        clip: the CLIP text tower whose embeddings the store has to hold; None if none is needed.
        max_missing: see `image_captions.match_captions`.
        check: returns why images of a set cannot be read, by id; these are left out. By default, none is checked.

    Returns:
        The data, and its counts by name.

    Raises:
        CorpusError: images or captions are missing or do not match.
        StoreError: the store was made by another LLM or CLIP, or lacks some of dev's captions.
    """
    opened = CaptionStore(store)
    opened.require_models(llm.fingerprint, llm.folder, clip=clip_identity(clip))
    found: list[tuple[str, str, str]] = []
    captions, counts = read_stage2_captions(data, root, lambda *row: found.append(row))
    files = open_images(root, data.images)
    dev = tuple(_dev(split, root, opened, check) for split in data.dev)
    held_out = frozenset(digest for split in dev for digest in split.files.content_hashes.values())
    captioned = match_captions(
        files,
        captions,
        source_weights=[source.weight for source in data.image_captions],
        max_missing=max_missing,
        held_out_hashes=held_out,
        held_out_photos=held_out_by(data, root),
        finds_copies=bool(held_out) or len(data.images) > 1,  # a single source of millions is not read for it
    )
    if broken := check(files, captioned.image_ids):
        captioned = captioned.without(broken.keys(), "broken images")
    left_out = found + [
        (reason, image_id, broken.get(image_id, "")) for reason, ids in captioned.skipped.items() for image_id in ids
    ]
    left_out += [("broken dev images", f"{split.name}: {name}", why) for split in dev for name, why in split.broken]
    if in_dev := sum(len(split.broken) for split in dev):
        counts["broken dev images"] = in_dev
    read = ClipData(files=files, captioned=captioned, captions=captions, store=opened, dev=dev, left_out=left_out)
    return read, counts | captioned.counts


def _dev(split: DevSplit, root: Path, store: CaptionStore, check: Check) -> Dev:
    files = open_images(root, split.images)
    broken = check(files, list(files))
    ids = [image_id for image_id in files if image_id not in broken]
    index_of = {image: index for index, image in enumerate(ids)}
    table = read_dev_captions(root, split)
    found = [files.find(image) for image in table["image_id"].to_pylist()]
    if None in found:
        raise CorpusError(f"The images of {found.count(None):,} dev captions are not in {', '.join(split.images)}.")
    readable = [image not in broken for image in found]
    table = table.filter(pa.array(readable))
    image_of = np.array([index_of[str(image)] for image, kept in zip(found, readable, strict=True) if kept], np.int64)
    embedded = store.embeddings(store.positions(table["caption_id"].to_numpy()))
    langs = np.array(table["lang"].to_pylist())
    # The first one selects checkpoints. That of the first row would be a matter of chance: own data is in hash order.
    order = split.captions.langs or sorted(count := Counter(langs.tolist()), key=lambda lang: (-count[lang], lang))
    captions = {lang: (embedded[langs == lang], image_of[langs == lang]) for lang in order}
    written = np.array(table["caption"].to_pylist(), dtype=object)
    texts = {lang: written[langs == lang].tolist() for lang in order}
    return Dev(
        name=split.name,
        files=files,
        image_ids=ids,
        captions=captions,
        texts=texts,
        selects=split.selects,
        broken=sorted(broken.items()),
    )
