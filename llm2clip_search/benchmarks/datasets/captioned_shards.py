"""Webdataset shards with a table of captions: ``NAME-SPLIT-NNN.tar`` and ``captions.csv.gz``.

Shards contain ``ID.jpg``; captions are rows of ``image_id, split, lang, caption, origin``. Several data sets are kept
in this form: Flickr8k in five languages, parts of COCO, ADE20K and RSICD, and the long captions of COCO's images.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llm2clip_search.benchmarks.datasets.base import Captions, DatasetInfo, RetrievalSet
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.corpora.tables import table_rows
from llm2clip_search.errors import CorpusError

CAPTION_FILE = "captions.csv.gz"
LONG_CAPTION_FILE = "long_captions.csv.gz"
_COCO = "coco"
"""Name of COCO's shards, and of the folder that also holds the long captions."""


def read_captioned_shards(root: Path, split: str, langs: Sequence[str], *, name: str) -> RetrievalSet:
    """Read a split of the data set ``name`` in the given languages.

    Raises:
        CorpusError: shards or captions are missing or damaged.
    """
    captions = {lang: read_shard_captions(root, split=split, lang=lang) for lang in langs}
    images = read_shard_images(root, name=name, split=split)
    return RetrievalSet(name=name, split=split, images=images, captions=captions)


def read_shard_captions(root: Path, *, split: str, lang: str) -> Captions:
    """Captions of a split in one language, in the order of the file; empty ones are left out.

    Raises:
        CorpusError: the file is missing, lacks a column or has no such captions.
    """
    rows = table_rows(root / CAPTION_FILE, ("image_id", "split", "lang", "caption"))
    found = _captions((row for _, row in rows if row["split"] == split), "image_id", lang)
    if not found:
        raise CorpusError(f"{root / CAPTION_FILE} has no captions of split {split!r} in language {lang!r}.")
    return found


def read_shard_images(root: Path, *, name: str, split: str) -> ImageFiles:
    """Images of a split, by the ids that the captions use.

    Raises:
        CorpusError: there is no shard of that split, or a shard is damaged.
    """
    pattern = f"{name}-{split}-*.tar"
    if not any(root.glob(pattern)):
        raise CorpusError(f"{root} does not contain {name}-{split}-NNN.tar.")
    return ImageFiles.scan(root, [pattern])


def read_comprecap(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """CompreCap's long captions, which models wrote (Lu et al., arXiv 2412.08614), of the images of a split.

    They are rows of ``image, caption, lang, source``; rows of other images do not count. Images without a long caption
    are left out, because text retrieval could only miss them.

    Raises:
        CorpusError: shards or captions are missing or damaged, or no caption is of an image of the split.
    """
    images, path = read_shard_images(root, name=_COCO, split=split), root / LONG_CAPTION_FILE
    known = set(images)
    rows = [row for _, row in table_rows(path, ("image", "caption", "lang")) if str(row["image"]) in known]
    captions = {lang: _captions(rows, "image", lang) for lang in langs}
    if empty := [lang for lang, found in captions.items() if not len(found)]:
        raise CorpusError(f"{path} has no captions in {empty[0]!r} of the images of split {split!r}.")
    described = {image for found in captions.values() for image in found.image_ids}
    return RetrievalSet(
        name="comprecap",
        split=split,
        images=images.only([image for image in images if image in described]),
        captions=captions,
        notes=(f"Only the {len(described):,} of {len(images):,} images that have long captions are in the gallery.",),
    )


def _captions(rows: Iterable[Mapping[str, Any]], image: str, lang: str) -> Captions:
    """Those of rows in one language that are not empty; ``image`` is the column of image ids."""
    pairs = [(str(row[image]), (row["caption"] or "").strip()) for row in rows if row["lang"] == lang]
    return Captions.of([(image_id, text) for image_id, text in pairs if text])


_LAYOUT = "ROOT contains {name}-SPLIT-NNN.tar with ID.jpg, and captions.csv.gz with image_id, split, lang, caption"

DATASETS = (
    DatasetInfo(
        name=_COCO,
        title="COCO in shards",
        langs=("en",),
        splits=("val", "restval", "test"),
        fetch=f"{_LAYOUT.format(name=_COCO)}; the splits are Karpathy's.",
        read=partial(read_captioned_shards, name=_COCO),
        also_called=("coco", "mscoco", "ms-coco", "coco captions"),
    ),
    DatasetInfo(
        name="comprecap",
        title="CompreCap",
        langs=("en",),
        splits=("val", "restval"),
        fetch=(
            f"ROOT contains COCO's images as {_COCO}-SPLIT-NNN.tar with ID.jpg, and the long "
            "captions of CompreCap (github.com/LuFan31/CompreCap) as long_captions.csv.gz with image, caption, lang."
        ),
        read=read_comprecap,
        also_called=("long captions of coco",),
        folder=_COCO,
    ),
    DatasetInfo(
        name="ade20k",
        title="ADE20K image descriptions",
        langs=("en",),
        splits=("dev", "test"),
        fetch=f"{_LAYOUT.format(name='ade20k')}; the sentences of a description are joined.",
        read=partial(read_captioned_shards, name="ade20k"),
        also_called=("ade20k",),
    ),
    DatasetInfo(
        name="rsicd",
        title="RSICD",
        langs=("en",),
        splits=("val", "train", "test"),
        fetch=f"{_LAYOUT.format(name='rsicd')}.",
        read=partial(read_captioned_shards, name="rsicd"),
    ),
)
