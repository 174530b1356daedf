"""Sets of long English captions: ShareGPT4V-1k, Urban1k, DOCCI, ImageInWords and Densely Captioned Images.

Which rows and which words of them are measured follows the code behind the published figures: Long-CLIP's
(``train/sharegpt4v.py``, ``eval/retrieval/Urban1k.py``), LLM2CLIP's (``data/extract_eval_embedding.py``), and
LoTLIP's (``EVAL_DATASETS.md``) for ImageInWords and Densely Captioned Images.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm2clip_search.benchmarks.datasets.base import DatasetInfo, RetrievalSet
from llm2clip_search.benchmarks.datasets.folders import (
    first_existing,
    images_in,
    read_json,
    read_lines,
    retrieval_set,
    unique_ids,
)
from llm2clip_search.corpora.tables import table_rows
from llm2clip_search.errors import CorpusError

SHAREGPT4V = "share-captioner_coco_lcs_sam_1246k_1107.json"
SHAREGPT4V_COUNT = 1000
_CHUNK = 1 << 20
"""Characters read at once; an entry of ShareGPT4V has about 1,000."""

IIW_PARTS = {
    "IIW-400": ("image/key", ("docci_aar", "images_aar"), 400),
    "DCI_Test": ("image", ("dci", "photos"), 112),
    "DOCCI_Test": ("image", ("docci", "images"), 100),
}
"""Of each part of ImageInWords: the key of an image's name, the folders that its images may lie in, and how many."""

_DCI_COUNTS = {"all": 7805, "test": 112}


def read_sharegpt4v(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """The first 1,000 entries of ShareGPT4V's captions, as Long-CLIP's authors chose them.

    Raises:
        CorpusError: fewer entries, one without image or caption, or images that are missing.
    """
    path = root / SHAREGPT4V
    pairs = []
    for number, entry in enumerate(first_entries(path, SHAREGPT4V_COUNT), 1):
        try:
            answer = next(turn["value"] for turn in entry["conversations"] if turn["from"] == "gpt")
            pairs.append((str(entry["image"]), str(answer)))
        except (KeyError, TypeError, StopIteration) as error:
            raise CorpusError(f"{path}, entry {number}, has no image or no answer of gpt.") from error
    images = images_in(root, {image: image for image, _ in pairs}, what="ShareGPT4V-1k")
    return retrieval_set(
        name="sharegpt4v-1k",
        split=split,
        images=images,
        captions={"en": pairs},
        expected_images=SHAREGPT4V_COUNT,
        notes=(
            f"These are the first 1,000 entries of {SHAREGPT4V}; models that were trained on others of its "
            "entries have met captions of the same writer.",
            "Line breaks in captions are kept, as by LLM2CLIP; Long-CLIP makes them blanks.",
        ),
    )


def first_entries(path: Path, count: int) -> list[Any]:
    """The first entries of a JSON list of objects, without reading the 1.5 GB behind them.

    Raises:
        CorpusError: the file is missing or no such list, or has fewer.
    """
    decoder = json.JSONDecoder()
    entries: list[Any] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_CHUNK)
            if not text.lstrip().startswith("["):
                raise CorpusError(f"{path} is not a JSON list.")
            place = text.index("[") + 1
            while len(entries) < count:
                while place < len(text) and text[place] in ", \t\r\n":
                    place += 1
                try:
                    entry, place = decoder.raw_decode(text, place)
                    entries.append(entry)
                except (ValueError, RecursionError):  # it goes on in the next chunk, or there is none
                    chunk = file.read(_CHUNK) if len(text) - place < _CHUNK else ""
                    if not chunk:
                        break
                    text, place = text[place:] + chunk, 0
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read as UTF-8: {error}.") from error
    if len(entries) < count:
        raise CorpusError(f"{path} has {len(entries):,} whole entries, and the benchmark is its first {count:,}.")
    return entries


def read_urban1k(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Urban1k: ``caption/N.txt`` and ``image/N.jpg``, in the order of N.

    Raises:
        CorpusError: captions or images without the other, or a file that is no text in UTF-8.
    """
    texts, folder = first_existing(root, "caption", "captions"), first_existing(root, "image", "images")
    names = sorted((path.stem for path in texts.glob("*.txt")), key=lambda stem: (len(stem), stem))
    images = images_in(folder, {name: f"{name}.jpg" for name in names}, what="Urban1k")
    if alone := {path.stem for path in folder.glob("*.jpg")} - set(names):
        raise CorpusError(f"{len(alone):,} images in {folder} have no caption in {texts}, such as {min(alone)}.jpg.")
    pairs = [(name, next(iter(read_lines(texts / f"{name}.txt")), "")) for name in names]
    return retrieval_set(
        name="urban1k",
        split=split,
        images=images,
        captions={"en": pairs},
        expected_images=1000,
        notes=("Only the first line of each caption is read, as by Long-CLIP and LLM2CLIP.",),
    )


def read_docci(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """A split of DOCCI: all rows of ``docci_descriptions.jsonlines`` that are marked with it.

    Raises:
        CorpusError: a row without its keys, an id that is there twice, or images that are missing.
    """
    path = root / "docci_descriptions.jsonlines"
    found = [row for _, row in table_rows(path, ("split", "image_file", "description")) if row["split"] == split]
    names = unique_ids([str(row["image_file"]) for row in found], f"Split {split!r} of {path}")
    notes = (
        ("LLM2CLIP's text tells of 1.5K images, its code takes every row of split test as here: 5,000.",)
        if split == "test"
        else ()
    )
    return retrieval_set(
        name="docci",
        split=split,
        images=images_in(root / "images", {name: name for name in names}, what="DOCCI"),
        captions={"en": [(str(row["image_file"]), str(row["description"])) for row in found]},
        expected_images=5000 if split == "test" else 0,
        notes=notes,
    )


def read_iiw(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """ImageInWords: its human descriptions of one part, or of ``all`` three, which LoTLIP measures as IIW.

    Images are those of DOCCI, DOCCI-AAR and DCI, in the folders that LoTLIP or those sets' own archives give
    them; a name without a suffix is that of a ``.jpg``, which is assumed of DOCCI-AAR from DOCCI.

    Raises:
        CorpusError: a row without its keys, an id that is there twice, or images that are missing.
    """
    parts = list(IIW_PARTS) if split == "all" else [split]
    pairs: list[tuple[str, str]] = []
    files: dict[str, str] = {}
    for part in parts:
        key, folders, _ = IIW_PARTS[part]
        path = first_existing(root, f"datasets/{part}/data.jsonl", f"{part}/data.jsonl")
        found = [row for _, row in table_rows(path, (key, "IIW"))]
        folder = first_existing(root, *folders).name
        for name in unique_ids([str(row[key]) for row in found], str(path)):
            files[name] = f"{folder}/{name}" if "." in name else f"{folder}/{name}.jpg"
        pairs += [(str(row[key]), str(row["IIW"])) for row in found]
    return retrieval_set(
        name="iiw",
        split=split,
        images=images_in(root, files, what="ImageInWords"),
        captions={"en": pairs},
        expected_images=sum(IIW_PARTS[part][2] for part in parts),
    )


def read_dci(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Densely Captioned Images: short and extra caption as one, of a split or of ``all``, as LoTLIP measures it.

    Captions of masks, and the summaries that CLIP can read whole, are left out.

    Raises:
        CorpusError: an annotation that is missing or lacks its keys, or images that are missing.
    """
    base = root / "densely_captioned_images" if (root / "densely_captioned_images").is_dir() else root
    splits = read_json(base / "splits.json")
    wanted = ("train", "valid", "test") if split == "all" else (split,)
    if not isinstance(splits, dict) or any(not isinstance(splits.get(part), list) for part in wanted):
        raise CorpusError(f"{base / 'splits.json'} lists no {' or '.join(wanted)}.")
    names = unique_ids([str(name) for part in wanted for name in splits[part]], str(base / "splits.json"))
    folder = first_existing(base, "annotations", "complete")
    pairs = []
    for name in names:
        # The masks make an annotation large, and JSON cannot be read in part: a minute for all 7,805.
        row = read_json(folder / name)
        if not isinstance(row, dict) or not {"image", "short_caption"} <= row.keys():
            raise CorpusError(f"{folder / name} has no image or no short_caption.")
        pairs.append((str(row["image"]), f"{row['short_caption']}\n{row.get('extra_caption') or ''}"))
    return retrieval_set(
        name="dci",
        split=split,
        images=images_in(base / "photos", {image: image for image, _ in pairs}, what="Densely Captioned Images"),
        captions={"en": pairs},
        expected_images=_DCI_COUNTS.get(split, 0),
        notes=("A caption is short_caption and extra_caption as one; those of masks are not read.",),
    )


DATASETS = (
    DatasetInfo(
        name="sharegpt4v-1k",
        title="ShareGPT4V-1k",
        langs=("en",),
        splits=("test",),
        fetch=(
            f"Download {SHAREGPT4V} from huggingface.co/datasets/Lin-Chen/ShareGPT4V into --root, and the images "
            "of its first 1,000 entries (SAM, and LAION/CC/SBU of LLaVA's pretraining) to the paths that it names."
        ),
        read=read_sharegpt4v,
        also_called=("sharegpt4v", "share-captioner"),
    ),
    DatasetInfo(
        name="urban1k",
        title="Urban1k",
        langs=("en",),
        splits=("test",),
        fetch=(
            "Download Urban1k.zip from huggingface.co/datasets/BeichenZhang/Urban1k; "
            "--root names the folder that holds its image and caption."
        ),
        read=read_urban1k,
        also_called=("urban-1k", "visual genome"),
    ),
    DatasetInfo(
        name="docci",
        title="DOCCI",
        langs=("en",),
        splits=("test", "train", "qual_dev", "qual_test"),
        fetch=(
            "Download docci_descriptions.jsonlines and docci_images.tar.gz from google.github.io/docci into --root, "
            "and unpack the archive there: it makes images."
        ),
        read=read_docci,
    ),
    DatasetInfo(
        name="iiw",
        title="ImageInWords",
        langs=("en",),
        splits=("all", *IIW_PARTS),
        fetch=(
            "Clone github.com/google/imageinwords to --root; beside its datasets lay the images of DOCCI as docci, "
            "of DOCCI-AAR as docci_aar and of DCI as dci."
        ),
        read=read_iiw,
        also_called=("docci", "densely captioned images"),
    ),
    DatasetInfo(
        name="dci",
        title="Densely Captioned Images",
        langs=("en",),
        splits=("all", "test", "valid", "train"),
        fetch=(
            "Download dci.tar.gz as github.com/facebookresearch/DCI tells and unpack it; --root names the folder "
            "of splits.json, whose photos take the images of SA-1B's sa_000138.tar."
        ),
        read=read_dci,
        also_called=("sa-1b",),
    ),
)
