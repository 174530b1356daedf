"""Flickr30k and Flickr8k, in English and with the Chinese captions of Flickr30k-CN and Flickr8k-CN.

Each comes in several authors' files; the first that is there is read. An image's id is its file name in all of them.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import DatasetInfo, RetrievalSet
from llm2clip_search.benchmarks.datasets.clip_benchmark_layout import COUNT, is_clip_benchmark, read_clip_benchmark
from llm2clip_search.benchmarks.datasets.folders import first_existing, read_ids, read_lines, read_text
from llm2clip_search.benchmarks.datasets.karpathy import ALL, Annotations, read_karpathy, read_numbered
from llm2clip_search.benchmarks.datasets.multilingual_flickr8k import CAPTION_FILE, read_multilingual_flickr8k
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
"""Lists of a split's images, beside caption files that tell of no split. The authors of Flickr8k call val dev."""

_KAGGLE_ROW = re.compile(r"(?P<image>[^|]+\.jpg)\s*\|\s*\d+\s*\|?(?:\s+(?P<caption>.*))?")
"""``image_name| comment_number| comment``; one row, of 2199200615.jpg, lacks its second bar in every copy."""

_NEVER_RELEASED = "2258277193_586949ec62.jpg"
"""Flickr8k.token.txt has captions of it, once as ``.jpg.1``; it is in no split and in no copy of the images."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One data set and the caption files that it comes in."""

    name: str
    title: str
    lang: str
    folders: tuple[str, ...]
    """What its images' folder is called; root itself is tried last."""
    files: Mapping[str, Callable[[Path, str], Annotations]]
    """By caption file, ``{split}`` in its name for the split, what reads that split of it; the preferred first."""
    counts: Mapping[str, int]
    """Images of a split that the published figures are over."""
    notes: tuple[str, ...] = ()

    def read(self, root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
        """That split, from the first of ``files`` that is there, or from CLIP_benchmark's shards.

        Raises:
            CorpusError: none is there, or it is broken, has no such split, or tells of images that are missing.
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
        raise CorpusError(f"{root} holds none of {', '.join(names)}, {split}/{COUNT}.")


def read_flickr8k(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Flickr8k in five languages where ``captions.csv.gz`` lies, and otherwise in English; dev and val are one split.

    Raises:
        CorpusError: as `Family.read`, and for a split or language that this copy lacks.
    """
    if (root / CAPTION_FILE).is_file():
        return read_multilingual_flickr8k(root, "dev" if split in ("", "val") else split, langs)
    split = {"": TEST, "dev": "val"}.get(split, split)
    if split not in SPLITS:
        raise CorpusError(f"Flickr8k has no split {split!r}; it has {', '.join(SPLITS)}.")
    return FLICKR8K.read(root, split, langs)


def read_comma_list(path: Path, split: str) -> Annotations:
    """CLIP_benchmark's list of one split: a header, then ``IMAGE.jpg,caption`` as it reads them, no CSV.

    Raises:
        CorpusError: the file is no UTF-8, or a line has another form.
    """
    pairs = []
    for number, line in enumerate(read_lines(path)[1:], 2):
        if line:
            stem, found, caption = line.partition(".jpg,")
            if not found:
                raise CorpusError(f"{path}, line {number:,}, is no 'IMAGE.jpg,caption': {line[:60]!r}.")
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
                raise CorpusError(f"{path}, line {number:,}, is no 'IMAGE.jpg| n| caption': {line[:60]!r}.")
            pairs.append((match["image"].strip(), match["caption"] or ""))
    return _of_split(Annotations.of_pairs(pairs), path, split)


def _read_captions_txt(path: Path, split: str) -> Annotations:
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise CorpusError(f"{path} cannot be read as CSV: {error}.") from error
    if not rows or rows[0] != ["image", "caption"]:
        raise CorpusError(f"{path} does not begin with 'image,caption': it is another file, or of another version.")
    if odd := [number for number, row in enumerate(rows[1:], 2) if len(row) not in (0, 2)]:
        raise CorpusError(f"{path}, row {odd[0]:,}, has {len(rows[odd[0] - 1])} columns and not 2.")
    return _of_split(Annotations.of_pairs([(row[0], row[1]) for row in rows[1:] if row]), path, split)


def _read_chinese(path: Path, split: str) -> Annotations:
    """Flickr30k-CN's files, one a split; images are named with and without their suffix."""
    return read_numbered(path, _with_suffix)


def _read_flickr8k_cn(path: Path, split: str) -> Annotations:
    return _of_split(_read_chinese(path, split), path, split)


def _of_split(found: Annotations, path: Path, split: str) -> Annotations:
    """The images of a list beside the caption file."""
    if split == ALL:
        return found
    names = [name.format(split=split, dev="dev" if split == "val" else split) for name in _LISTS]
    try:
        names_file = first_existing(path.parent, *dict.fromkeys(names))
    except CorpusError as error:
        raise CorpusError(f"{path} tells of no split, and {error} --split {ALL} reads all.") from error
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
    notes=("Captions are people's translations: of test those of Flickr30k-CN, else those of Flickr30k-CNA.",),
)

FLICKR8K = Family(
    name="flickr8k",
    title="Flickr8k",
    lang="en",
    folders=("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images"),  # the first is the authors' own spelling
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
    notes=("Captions are those that people wrote in Chinese, not the translations.",),
)

_IMAGES_30K = (
    "Flickr30k's images are sent by shannon.cs.illinois.edu/DenotationGraph after its form, or lie at "
    "kaggle.com/datasets/hsankesara/flickr-image-dataset; put them into ROOT/flickr30k-images"
)
_IMAGES_8K = "Flickr8k's images, at kaggle.com/datasets/adityajn105/flickr8k, go into ROOT/Images"
_KARPATHY = "cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"

DATASETS = (
    DatasetInfo(
        name="flickr30k",
        title="Flickr30k",
        langs=("en",),
        splits=SPLITS,
        fetch=(
            f"{_IMAGES_30K}, and beside it dataset_flickr30k.json from {_KARPATHY}; flickr30k_test_karpathy.txt, "
            "results_20130124.token or results.csv with a list flickr30k_test.txt, and the shards of "
            "huggingface.co/datasets/clip-benchmark/wds_flickr30k are read too."
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
            f"{_IMAGES_8K}, and beside it dataset_flickr8k.json from {_KARPATHY}; Flickr8k.token.txt or captions.txt "
            "with lists Flickr_8k.testImages.txt, the shards of huggingface.co/datasets/clip-benchmark/wds_flickr8k, "
            "and shards flickr8k-dev-000.tar beside captions.csv.gz are read too."
        ),
        read=read_flickr8k,
    ),
    DatasetInfo(
        name="flickr30k-cn",
        title="Flickr30k-CN",
        langs=("zh",),
        splits=(TEST, "val", "train"),
        fetch=(
            "Flickr30k-CNA.zip from zero.so.com/download.html, unpacked to ROOT, gives test/flickr30k_cn_test.txt. "
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
