"""Flickr30k and Flickr8k in English, and the Chinese captions of Flickr30k-CN and Flickr8k-CN.

Each is distributed in several layouts; the first one found is read. Image ids are file names in all of them.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import DatasetInfo, RetrievalSet
from llm2clip_search.benchmarks.datasets.captioned_shards import CAPTION_FILE, read_captioned_shards
from llm2clip_search.benchmarks.datasets.clip_benchmark_layout import (
    SHARD_COUNT_FILE,
    is_clip_benchmark,
    read_clip_benchmark,
)
from llm2clip_search.benchmarks.datasets.folders import first_existing, read_ids, read_lines, read_text
from llm2clip_search.benchmarks.datasets.karpathy import ALL, Annotations, read_karpathy, read_numbered
from llm2clip_search.errors import CorpusError

TEST = "test"
SPLITS = (TEST, "val", "train", ALL)
_COUNTS_30K = {TEST: 1000, "val": 1014, "train": 29000}
_COUNTS_8K = {TEST: 1000, "val": 1000, "train": 6000}

_LISTS = (
    "flickr30k_{split}.txt",
    "flickr8k{split}.txt",
    "Flickr_8k.{split}Images.txt",
    "Flickr_8k.{dev}Images.txt",
    "{split}.txt",
)
"""Lists of the images of a split, for caption files without splits. The authors of Flickr8k call val "dev"."""

_KAGGLE_ROW = re.compile(r"(?P<image>[^|]+\.jpg)\s*\|\s*\d+\s*\|?(?:\s+(?P<caption>.*))?")
"""``image_name| comment_number| comment``; a row of 2199200615.jpg lacks its second bar in every copy."""

_NEVER_RELEASED = "2258277193_586949ec62.jpg"
"""An image with captions in Flickr8k.token.txt, once as ``.jpg.1``, but in no split and in no copy of the images."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One data set and the layouts that it is distributed in."""

    name: str
    title: str
    lang: str
    folders: tuple[str, ...]
    """Possible names of the folder of images; the root itself is tried last."""
    files: Mapping[str, Callable[[Path, str], Annotations]]
    """Functions that read a split, by caption file (``{split}`` stands for the split); preferred files first."""
    counts: Mapping[str, int]
    """Number of images behind published results, by split."""
    notes: tuple[str, ...] = ()

    def read(self, root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
        """Read a split from the first of ``files`` that exists, or from CLIP_benchmark's shards.

        Raises:
            CorpusError: there is no such file, it is broken or has no such split, or images are missing.
        """
        if other := [lang for lang in langs if lang != self.lang]:
            raise CorpusError(f"This copy of {self.title} has no captions in {other[0]!r}; it has {self.lang}.")
        names = {name.format(split=split): reader for name, reader in self.files.items()}
        for name, reader in names.items():
            if (root / name).is_file():
                folders = [root / folder for folder in self.folders]
                return reader(root / name, split).as_set(
                    [*folders, root] if any(root.glob("*.jpg")) else folders,
                    name=self.name,
                    title=self.title,
                    split=split,
                    lang=self.lang,
                    source=name,
                    expected_images=self.counts.get(split, 0),
                    notes=self.notes,
                )
        if is_clip_benchmark(root, split):
            return read_clip_benchmark(root, name=self.name, split=split, lang=self.lang)
        raise CorpusError(f"{root} contains none of {', '.join(names)}, {split}/{SHARD_COUNT_FILE}.")


def read_flickr8k(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Flickr8k in five languages if ``captions.csv.gz`` exists, otherwise in English; dev and val are the same split.

    Raises:
        CorpusError: as for `Family.read`, or this copy does not have the split or language.
    """
    if (root / CAPTION_FILE).is_file():
        return read_captioned_shards(root, "dev" if split in ("", "val") else split, langs, name="flickr8k")
    split = {"": TEST, "dev": "val"}.get(split, split)
    if split not in SPLITS:
        raise CorpusError(f"Flickr8k has no split {split!r}; it has {', '.join(SPLITS)}.")
    return FLICKR8K.read(root, split, langs)


def read_comma_list(path: Path, split: str) -> Annotations:
    """CLIP_benchmark's list of one split: a header, then lines of ``IMAGE.jpg,caption`` without CSV quoting.

    Raises:
        CorpusError: the file is not UTF-8, or a line has another form.
    """
    pairs = []
    for number, line in enumerate(read_lines(path)[1:], 2):
        if line:
            stem, found, caption = line.partition(".jpg,")
            if not found:
                raise CorpusError(f"{path}, line {number:,}, is not 'IMAGE.jpg,caption': {line[:60]!r}.")
            pairs.append((f"{stem}.jpg", caption))
    return Annotations.of_pairs(pairs)


def _read_tokens(path: Path, split: str) -> Annotations:
    found = read_numbered(path, str)
    return _of_split(found.only([image for image in found.files if not image.startswith(_NEVER_RELEASED)]), path, split)


def _read_results_csv(path: Path, split: str) -> Annotations:
    pairs = []
    for number, line in enumerate(read_lines(path)[1:], 2):
        if line:
            match = _KAGGLE_ROW.fullmatch(line)
            if match is None:
                raise CorpusError(f"{path}, line {number:,}, is not 'IMAGE.jpg| n| caption': {line[:60]!r}.")
            pairs.append((match["image"].strip(), match["caption"] or ""))
    return _of_split(Annotations.of_pairs(pairs), path, split)


def _read_captions_txt(path: Path, split: str) -> Annotations:
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise CorpusError(f"{path} cannot be read as CSV: {error}.") from error
    if not rows or rows[0] != ["image", "caption"]:
        raise CorpusError(f"{path} does not begin with 'image,caption': it is another file or of another version.")
    if odd := [number for number, row in enumerate(rows[1:], 2) if len(row) not in (0, 2)]:
        raise CorpusError(f"{path}, row {odd[0]:,}, has {len(rows[odd[0] - 1])} columns instead of 2.")
    return _of_split(Annotations.of_pairs([(row[0], row[1]) for row in rows[1:] if row]), path, split)


def _read_chinese(path: Path, split: str) -> Annotations:
    """Flickr30k-CN's files, one per split; images are named with or without their suffix."""
    return read_numbered(path, _with_suffix)


def _read_flickr8k_cn(path: Path, split: str) -> Annotations:
    return _of_split(_read_chinese(path, split), path, split)


def _of_split(found: Annotations, path: Path, split: str) -> Annotations:
    """Keep the images that are listed in a file next to the caption file."""
    if split == ALL:
        return found
    names = [name.format(split=split, dev="dev" if split == "val" else split) for name in _LISTS]
    try:
        names_file = first_existing(path.parent, *dict.fromkeys(names))
    except CorpusError as error:
        raise CorpusError(
            f"{path} does not say which images are in which split, and {error}", hint=f"--split {ALL} reads all images."
        ) from error
    return found.only([_with_suffix(image) for image in read_ids(names_file)])


def _with_suffix(image: str) -> str:
    return image if image.endswith(".jpg") else f"{image}.jpg"


FLICKR30K = Family(
    name="flickr30k",
    title="Flickr30k",
    lang="en",
    folders=("flickr30k-images", "flickr30k_images", "images", "Images"),
    files={
        "dataset_flickr30k.json": read_karpathy,
        "flickr30k_{split}_karpathy.txt": read_comma_list,
        "results_20130124.token": _read_tokens,
        "results.csv": _read_results_csv,
    },
    counts=_COUNTS_30K,
)

FLICKR30K_CN = replace(
    FLICKR30K,
    name="flickr30k-cn",
    title="Flickr30k-CN",
    lang="zh",
    files={
        "{split}/flickr30k_cn_{split}.txt": _read_chinese,
        "{split}/flickr30k_cna_{split}.txt": _read_chinese,
        "flickr30k_cn_{split}.txt": _read_chinese,
        "flickr30k_cna_{split}.txt": _read_chinese,
        "flickr30k_{split}_zh.txt": read_comma_list,
    },
    notes=("Captions are human translations: those of Flickr30k-CN for test, otherwise those of Flickr30k-CNA.",),
)

FLICKR8K = Family(
    name="flickr8k",
    title="Flickr8k",
    lang="en",
    folders=("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images"),  # the first is the authors' spelling
    files={
        "dataset_flickr8k.json": read_karpathy,
        "flickr8k_{split}_karpathy.txt": read_comma_list,
        "Flickr8k.token.txt": _read_tokens,
        "captions.txt": _read_captions_txt,
    },
    counts=_COUNTS_8K,
)

FLICKR8K_CN = replace(
    FLICKR8K,
    name="flickr8k-cn",
    title="Flickr8k-CN",
    lang="zh",
    files={
        "flickr8kzhc.caption.txt": _read_flickr8k_cn,
        "data/flickr8kzhc.caption.txt": _read_flickr8k_cn,
        "flickr8k_{split}_zh.txt": read_comma_list,
    },
    notes=("Captions were written in Chinese by people; the translations are not used.",),
)

_IMAGES_30K = (
    "Get Flickr30k's images by the form at shannon.cs.illinois.edu/DenotationGraph or from "
    "kaggle.com/datasets/hsankesara/flickr-image-dataset and put them into ROOT/flickr30k-images"
)
_IMAGES_8K = "Put Flickr8k's images from kaggle.com/datasets/adityajn105/flickr8k into ROOT/Images"
_KARPATHY = "cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"

DATASETS = (
    DatasetInfo(
        name="flickr30k",
        title="Flickr30k",
        langs=("en",),
        splits=SPLITS,
        fetch=(
            f"{_IMAGES_30K}, and put dataset_flickr30k.json from {_KARPATHY} into ROOT. Also supported are "
            "flickr30k_test_karpathy.txt, results_20130124.token or results.csv with a list flickr30k_test.txt, and "
            "the shards of huggingface.co/datasets/clip-benchmark/wds_flickr30k."
        ),
        read=FLICKR30K.read,
        also_called=("multi30k",),
    ),
    DatasetInfo(
        name="flickr8k",
        title="Flickr8k",
        langs=("en", "de", "zh", "fr", "cs"),
        splits=(),
        fetch=(
            f"{_IMAGES_8K}, and put dataset_flickr8k.json from {_KARPATHY} into ROOT. Also supported are "
            "Flickr8k.token.txt or captions.txt with lists such as Flickr_8k.testImages.txt, the shards of "
            "huggingface.co/datasets/clip-benchmark/wds_flickr8k, and captions.csv.gz with shards such as "
            "flickr8k-dev-000.tar."
        ),
        read=read_flickr8k,
    ),
    DatasetInfo(
        name="flickr30k-cn",
        title="Flickr30k-CN",
        langs=("zh",),
        splits=(TEST, "val", "train"),
        fetch=(
            "Unpack Flickr30k-CNA.zip from zero.so.com/download.html to ROOT; it contains test/flickr30k_cn_test.txt. "
            f"{_IMAGES_30K}."
        ),
        read=FLICKR30K_CN.read,
        also_called=("flickr30k", "flickr30k-cna", "multi30k"),
    ),
    DatasetInfo(
        name="flickr8k-cn",
        title="Flickr8k-CN",
        langs=("zh",),
        splits=SPLITS,
        fetch=f"Clone github.com/li-xirong/flickr8kcn to ROOT. {_IMAGES_8K}.",
        read=FLICKR8K_CN.read,
        also_called=("flickr8k",),
    ),
)
