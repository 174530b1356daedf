"""Data sets in many languages: Multi30k, XTD10, XTD200 and Crossmodal-3600, in their authors' layouts.

The captions of Multi30k and XTD have no ids: the n-th line describes the n-th image of a list. Only here are captions
matched to images by position, and the two lengths must be equal.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import ALL_LANGS, DatasetInfo, RetrievalSet
from llm2clip_search.benchmarks.datasets.folders import (
    captions_by_line,
    first_existing,
    images_in,
    read_ids,
    retrieval_set,
    unique_ids,
)
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.corpora.tables import table_rows
from llm2clip_search.errors import CorpusError

XTD10_LANGS = ("en", "de", "fr", "es", "it", "jp", "ko", "pl", "ru", "tr", "zh")
"""Language codes as used by the authors; Japanese is ``jp``."""

# fmt: off
CROSSMODAL_LANGS = (
    "en", "ar", "bn", "cs", "da", "de", "el", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it",
    "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
)
# fmt: on

_XTD_NOTE = "The images are 800 of COCO's train2014 and 200 of its val2014, so models trained on COCO have seen them."
_XTD_IMAGES = "and put its images, from COCO 2014, into ROOT/images, or into ROOT/train2014 and ROOT/val2014."

_TASK2 = "test_2016"
_TASK2_LANGS = ("en", "de")
_MULTI30K_COUNTS = {"test_2016_flickr": 1000, _TASK2: 1000, "val": 1014, "train": 29000}


def read_multi30k(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Multi30k: one caption per image and its translations (task 1), or for ``test_2016`` five captions (task 2).

    Raises:
        CorpusError: files are missing, differ in length or are not UTF-8, or images are missing.
    """
    data = (
        first_existing(root, "data/task2", "task2") if split == _TASK2 else first_existing(root, "data/task1", "task1")
    )
    if split == _TASK2:
        if other := [lang for lang in langs if lang not in _TASK2_LANGS]:
            raise CorpusError(f"Task 2 of Multi30k has no captions in {other[0]!r}; it has {', '.join(_TASK2_LANGS)}.")
        ids = read_ids(data / "image_splits" / f"{split}_images.txt")
        stems = {lang: [f"raw/{split}.{number}.{lang}" for number in range(1, 6)] for lang in langs}
        note = "Captions are the five of task 2, written for the image independently in each language."
    else:
        ids = read_ids(data / "image_splits" / f"{split}.txt")
        stems = {lang: [f"raw/{split}.{lang}"] for lang in langs}
        note = "Captions are those of task 1: one per image in English, and its translations."
    captions = {
        lang: [pair for stem in found for pair in captions_by_line(ids, first_existing(data, f"{stem}.gz", stem))]
        for lang, found in stems.items()
    }
    folder = first_existing(root, "flickr30k-images", "flickr30k_images", "images")
    return retrieval_set(
        name="multi30k",
        split=split,
        images=images_in(folder, {name: name for name in ids}, what="Multi30k"),
        captions=captions,
        expected_images=_MULTI30K_COUNTS[split],
        notes=(note,),
    )


def read_xtd10(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """XTD10: 1,000 images of COCO with one caption in each of eleven languages.

    Raises:
        CorpusError: files are missing, differ in length or are not UTF-8, or images are missing.
    """
    names = read_ids(root / "XTD10" / "test_image_names.txt")
    captions = {}
    for lang in langs:
        # German and French come from MIC and Japanese from STAIR, two older data sets with the same images.
        path = first_existing(root, *(f"{source}/test_1kcaptions_{lang}.txt" for source in ("XTD10", "MIC", "STAIR")))
        captions[lang] = captions_by_line(names, path)
    return retrieval_set(
        name="xtd10",
        split=split,
        images=_xtd_images(root, names),
        captions=captions,
        expected_images=1000,
        notes=(_XTD_NOTE,),
    )


def read_xtd200(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """XTD200: the images of XTD10 with machine translations into the languages of FLORES-200, one file per language.

    Raises:
        CorpusError: files are missing, differ in length or are not UTF-8, or images are missing.
    """
    data = root / "data" / "xtd200" if (root / "data" / "xtd200").is_dir() else root
    names = read_ids(data / "test_image_names.txt")
    captions = {}
    available = sorted(file.stem for file in data.glob("*_*.txt") if file.name != "test_image_names.txt")
    for lang in available if langs == (ALL_LANGS,) else langs or ("eng_Latn",):
        path = data / f"{lang}.txt"
        if not path.is_file():
            near = get_close_matches(lang, available, n=3, cutoff=0.4) or available[:3]
            raise CorpusError(
                f"{data} has captions in {len(available)} languages but not in {lang!r}; "
                f"it has {', '.join(near)} and others."
            )
        captions[lang] = captions_by_line(names, path)
    return retrieval_set(
        name="xtd200",
        split=split,
        images=_xtd_images(root, names),
        captions=captions,
        expected_images=1000,
        notes=("Captions are machine translations by NLLB.", _XTD_NOTE),
    )


def _xtd_images(root: Path, names: Sequence[str]) -> ImageFiles:
    """Images in one folder, or in COCO's folders: 800 are in train2014 and 200 in val2014."""
    if (root / "images").is_dir():
        return images_in(root / "images", {name: name for name in names}, what="XTD")
    files = {name: f"{name.removeprefix('COCO_').partition('_')[0]}/{name}" for name in names}
    return images_in(root, files, what="XTD")


def read_crossmodal3600(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Crossmodal-3600: all captions of ``captions.jsonl`` in the given languages.

    Raises:
        CorpusError: a row lacks a key or a language, an id is repeated, or images are missing.
    """
    path = root / "captions.jsonl"
    keys: list[str] = []
    captions: dict[str, list[tuple[str, str]]] = {lang: [] for lang in langs}
    for where, row in table_rows(path, ("image/key", *langs)):
        key = str(row["image/key"])
        keys.append(key)
        for lang in langs:
            texts = row[lang].get("caption") if isinstance(row[lang], dict) else None
            if not isinstance(texts, list):
                raise CorpusError(f"{where} has no list of captions in {lang!r}: the file is of another version.")
            captions[lang] += [(key, str(text)) for text in texts]
    files = {key: f"{key}.jpg" for key in unique_ids(keys, str(path))}
    return retrieval_set(
        name="crossmodal3600",
        split=split,
        images=images_in(root / "images", files, what="Crossmodal-3600"),
        captions=captions,
        expected_images=3600,
        notes=("All captions are read, about two per image; CLIP_benchmark uses the first one.",),
    )


DATASETS = (
    DatasetInfo(
        name="multi30k",
        title="Multi30k",
        langs=("en", "de", "fr", "cs"),
        splits=("test_2016_flickr", "val", "train", _TASK2),
        fetch="Clone github.com/multi30k/dataset to ROOT, and put the images of Flickr30k into ROOT/flickr30k-images.",
        read=read_multi30k,
        also_called=("flickr30k",),
    ),
    DatasetInfo(
        name="xtd10",
        title="XTD10",
        langs=XTD10_LANGS,
        splits=("test",),
        fetch=f"Clone github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10 to ROOT, {_XTD_IMAGES}",
        read=read_xtd10,
        also_called=("coco", "mscoco"),
    ),
    DatasetInfo(
        name="xtd200",
        title="XTD200",
        langs=(),
        splits=("test",),
        fetch=f"Copy data/xtd200 of github.com/visheratin/nllb-clip to ROOT, {_XTD_IMAGES}",
        read=read_xtd200,
        also_called=("coco", "mscoco", "xtd10"),
    ),
    DatasetInfo(
        name="crossmodal3600",
        title="Crossmodal-3600",
        langs=CROSSMODAL_LANGS,
        splits=("test",),
        fetch=(
            "Unpack captions.zip and images.tgz from google.github.io/crossmodal-3600; ROOT is the folder that "
            "contains captions.jsonl and the folder images."
        ),
        read=read_crossmodal3600,
        also_called=("xm3600", "open images"),
    ),
)
