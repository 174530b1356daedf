"""Data sets of long English captions: ShareGPT4V-1k, Urban1k, DOCCI, ImageInWords and Densely Captioned Images.

The choice of rows and text follows the code behind the published results: Long-CLIP's (``train/sharegpt4v.py``,
``eval/retrieval/Urban1k.py``), LLM2CLIP's (``data/extract_eval_embedding.py``), and LoTLIP's (``EVAL_DATASETS.md``) for
ImageInWords and Densely Captioned Images.
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
"""Characters per read; an entry of ShareGPT4V has about 1,000."""

IIW_PARTS = {
    "IIW-400": ("image/key", ("docci_aar", "images_aar"), 400),
    "DCI_Test": ("image", ("dci", "photos"), 112),
    "DOCCI_Test": ("image", ("docci", "images"), 100),
}
"""Parts of ImageInWords: the key of the image name, possible folders of the images, and the number of images."""

_DCI_COUNTS = {"all": 7805, "test": 112}


def read_sharegpt4v(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """The first 1,000 entries of ShareGPT4V's captions, the choice of Long-CLIP's authors.

    Raises:
        CorpusError: there are fewer entries, an entry has no image or caption, or images are missing.
    """
    path = root / SHAREGPT4V
    pairs = []
    for number, entry in enumerate(first_entries(path, SHAREGPT4V_COUNT), 1):
        try:
            answer = next(turn["value"] for turn in entry["conversations"] if turn["from"] == "gpt")
            pairs.append((str(entry["image"]), str(answer)))
        except (KeyError, TypeError, StopIteration) as error:
            raise CorpusError(f"{path}, entry {number}, has no image or no answer by gpt.") from error
    images = images_in(root, {image: image for image, _ in pairs}, what="ShareGPT4V-1k")
    return retrieval_set(
        name="sharegpt4v-1k",
        split=split,
        images=images,
        captions={"en": pairs},
        expected_images=SHAREGPT4V_COUNT,
        notes=(
            f"These are the first 1,000 entries of {SHAREGPT4V}; models trained on its other entries have seen "
            "captions by the same captioner.",
            "Line breaks in captions are kept, as in LLM2CLIP; Long-CLIP replaces them with spaces.",
        ),
    )


def first_entries(path: Path, count: int) -> list[Any]:
    """The first entries of a JSON list of objects, without reading the remaining 1.5 GB.

    Raises:
        CorpusError: the file is missing, is not such a list or has fewer entries.
    """
    decoder = json.JSONDecoder()
    entries: list[Any] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_CHUNK)
            if not text.lstrip().startswith("["):
                raise CorpusError(f"{path} is not a JSON list.")
            position = text.index("[") + 1
            while len(entries) < count:
                while position < len(text) and text[position] in ", \t\r\n":
                    position += 1
                try:
                    entry, position = decoder.raw_decode(text, position)
                    entries.append(entry)
                except (ValueError, RecursionError):  # the entry continues in the next chunk, or there is none
                    chunk = file.read(_CHUNK) if len(text) - position < _CHUNK else ""
                    if not chunk:
                        break
                    text, position = text[position:] + chunk, 0
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read as UTF-8: {error}.") from error
    if len(entries) < count:
        raise CorpusError(
            f"{path} has {len(entries):,} complete entries, but the benchmark consists of its first {count:,}."
        )
    return entries


def read_urban1k(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Urban1k: ``caption/N.txt`` and ``image/N.jpg``, ordered by N.

    Raises:
        CorpusError: a caption has no image or an image no caption, or a caption is not UTF-8.
    """
    texts, folder = first_existing(root, "caption", "captions"), first_existing(root, "image", "images")
    names = sorted((path.stem for path in texts.glob("*.txt")), key=lambda stem: (len(stem), stem))
    images = images_in(folder, {name: f"{name}.jpg" for name in names}, what="Urban1k")
    if unpaired := {path.stem for path in folder.glob("*.jpg")} - set(names):
        raise CorpusError(
            f"{len(unpaired):,} images in {folder} have no caption in {texts}, such as {min(unpaired)}.jpg."
        )
    pairs = [(name, next(iter(read_lines(texts / f"{name}.txt")), "")) for name in names]
    return retrieval_set(
        name="urban1k",
        split=split,
        images=images,
        captions={"en": pairs},
        expected_images=1000,
        notes=("Only the first line of each caption is read, as in Long-CLIP and LLM2CLIP.",),
    )


def read_docci(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """A split of DOCCI: all its rows in ``docci_descriptions.jsonlines``.

    Raises:
        CorpusError: a row lacks a key, an id is repeated, or images are missing.
    """
    path = root / "docci_descriptions.jsonlines"
    found = [row for _, row in table_rows(path, ("split", "image_file", "description")) if row["split"] == split]
    names = unique_ids([str(row["image_file"]) for row in found], f"Split {split!r} of {path}")
    notes = (
        ("LLM2CLIP's paper says 1.5K images, but its code uses all 5,000 rows of split test, as is done here.",)
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
    """ImageInWords: the human descriptions of one part, or of ``all`` three, which LoTLIP measures as IIW.

    The images are those of DOCCI, DOCCI-AAR and DCI, in folders named as by LoTLIP or by the archives of these data
    sets. A name without suffix is taken as ``.jpg``; for DOCCI-AAR this is an assumption, based on DOCCI.

    Raises:
        CorpusError: a row lacks a key, an id is repeated, or images are missing.
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
    """Densely Captioned Images: short and extra caption joined, for a split or for ``all``, as LoTLIP measures it.

    The captions of masks, and the summaries that fit CLIP's context, are left out.

    Raises:
        CorpusError: an annotation is missing or lacks a key, or images are missing.
    """
    base = root / "densely_captioned_images" if (root / "densely_captioned_images").is_dir() else root
    splits = read_json(base / "splits.json")
    wanted = ("train", "valid", "test") if split == "all" else (split,)
    if not isinstance(splits, dict) or any(not isinstance(splits.get(part), list) for part in wanted):
        raise CorpusError(f"{base / 'splits.json'} has no list for {' or '.join(wanted)}.")
    names = unique_ids([str(name) for part in wanted for name in splits[part]], str(base / "splits.json"))
    folder = first_existing(base, "annotations", "complete")
    pairs = []
    for name in names:
        # Masks make the annotations large, and JSON cannot be read in part: all 7,805 take a minute.
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
        notes=("A caption is short_caption and extra_caption joined; captions of masks are not used.",),
    )


DATASETS = (
    DatasetInfo(
        name="sharegpt4v-1k",
        title="ShareGPT4V-1k",
        langs=("en",),
        splits=("test",),
        fetch=(
            f"Download {SHAREGPT4V} from huggingface.co/datasets/Lin-Chen/ShareGPT4V to ROOT, and the images of its "
            "first 1,000 entries (SAM, and LAION/CC/SBU of LLaVA's pretraining) to the paths given in it."
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
            "Unpack Urban1k.zip from huggingface.co/datasets/BeichenZhang/Urban1k; ROOT is the folder that contains "
            "its folders image and caption."
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
            "Download docci_descriptions.jsonlines and docci_images.tar.gz from google.github.io/docci to ROOT, and "
            "unpack the archive there, which creates the folder images."
        ),
        read=read_docci,
    ),
    DatasetInfo(
        name="iiw",
        title="ImageInWords",
        langs=("en",),
        splits=("all", *IIW_PARTS),
        fetch=(
            "Clone github.com/google/imageinwords to ROOT, and put the images of DOCCI into ROOT/docci, those of "
            "DOCCI-AAR into ROOT/docci_aar and those of DCI into ROOT/dci."
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
            "Download dci.tar.gz as described at github.com/facebookresearch/DCI and unpack it; ROOT is the folder of "
            "splits.json. Put the images of SA-1B's sa_000138.tar into ROOT/photos."
        ),
        read=read_dci,
        also_called=("sa-1b",),
    ),
)
