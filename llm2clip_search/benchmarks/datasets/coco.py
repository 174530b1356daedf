"""COCO captions: Karpathy's split of COCO 2014, the validation sets of 2014 and 2017, and COCO-CN.

Image ids are COCO's image ids and caption ids its annotation ids if the file has them, because the judgments of ECCV
Caption and CxC refer to these. COCO-CN uses its authors' ids.
"""

from collections.abc import Sequence
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import DatasetInfo, RetrievalSet
from llm2clip_search.benchmarks.datasets.clip_benchmark_layout import (
    SHARD_COUNT_FILE,
    is_clip_benchmark,
    read_clip_benchmark,
)
from llm2clip_search.benchmarks.datasets.folders import first_existing, read_ids, read_json
from llm2clip_search.benchmarks.datasets.karpathy import (
    Annotations,
    add_image,
    json_list,
    read_karpathy,
    read_numbered,
    unknown_version,
)
from llm2clip_search.errors import CorpusError

TEST = "test"
KARPATHY = "dataset_coco.json"
VAL2014 = "val2014"
FOLDS = 5
"""COCO 1K is the mean over five parts of the 5,000 images in the order of Karpathy's file."""

_ALL_CAPTIONS = (
    "All captions of an image are read, as in CLIP_benchmark: 25,010 on COCO 5K. ECCV Caption, CxC and most papers "
    "use the first five of each image."
)
_UNJUDGED = f"COCO 1K and the judgments of ECCV Caption and CxC need the order and ids of {KARPATHY}."
_COCO_CN_FOLDERS = ("", "coco-cn-version1805v1.1/", "coco-cn/", "data/")


def read_mscoco_captions(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Karpathy's test, val or train split, or all of val2014.

    Raises:
        CorpusError: the caption file is missing, broken or of another version, or images are missing.
    """
    if split == VAL2014:
        path = first_existing(root, "annotations/captions_val2014.json", "captions_val2014.json")
        return _coco_set(root, read_coco_json(path, VAL2014), split=split, source=path.name, expected_images=40504)
    expected_images = {TEST: 5000, "val": 5000, "train": 113287}[split]
    if (root / KARPATHY).is_file():
        found = read_karpathy(root / KARPATHY, split)
        return _coco_set(root, found, split=split, source=KARPATHY, expected_images=expected_images)
    name = f"coco_{split}_karpathy.json"
    if (root / name).is_file():
        return _coco_set(
            root, read_coco_json(root / name, VAL2014), split=split, source=name, expected_images=expected_images
        )
    if is_clip_benchmark(root, split):
        return read_clip_benchmark(root, name="mscoco_captions", split=split, lang="en")
    raise CorpusError(f"{root} contains none of {KARPATHY}, {name}, {split}/{SHARD_COUNT_FILE}.")


def read_mscoco_val2017(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """The 5,000 images of val2017, which is not one of Karpathy's splits.

    Raises:
        CorpusError: the caption file is missing, broken or of another version, or images are missing.
    """
    path = first_existing(root, "annotations/captions_val2017.json", "captions_val2017.json")
    found = read_coco_json(path, "val2017")
    return found.as_set(
        _folders(root),
        name="mscoco_val2017",
        title="COCO val2017",
        split=split,
        lang="en",
        source=path.name,
        expected_images=5000,
        notes=("The images are not Karpathy's test split, so results are not comparable with COCO 5K.",),
    )


def read_coco_cn(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """COCO-CN's captions written in Chinese by people: 1,053 captions of the 1,000 test images.

    Raises:
        CorpusError: the captions or the list of the split are missing or broken, or images are missing.
    """
    ids = read_ids(first_existing(root, *(f"{folder}coco-cn_{split}.txt" for folder in _COCO_CN_FOLDERS)))
    path = first_existing(root, *(f"{folder}imageid.human-written-caption.txt" for folder in _COCO_CN_FOLDERS))
    written = read_numbered(path, str)
    found = Annotations(files={image: _below(f"{image}.jpg", "") for image in ids}, captions=written.captions)
    return found.only(ids).as_set(
        _folders(root),
        name="coco-cn",
        title="COCO-CN",
        split=split,
        lang="zh",
        source=path.name,
        expected_images={TEST: 1000, "train": 18341}.get(split, 0),
        notes=("Captions were written in Chinese by people; the 5,000 translations are not used.",),
    )


def read_coco_json(path: Path, folder: str) -> Annotations:
    """COCO's own format: ``images`` with ``id, file_name`` and ``annotations`` with ``image_id, id, caption``.

    Images without annotations stay in the gallery.

    Args:
        folder: folder of images whose file names do not contain their own folder.

    Raises:
        CorpusError: the file is missing, not UTF-8, not JSON or of another version, or has an image twice.
    """
    data = read_json(path)
    files: dict[str, str] = {}
    for number, image in enumerate(json_list(data, "images", path), 1):
        try:
            add_image(files, str(image["id"]), _below(str(image["file_name"]), folder), path)
        except (KeyError, TypeError) as error:
            raise unknown_version(path, f"image {number:,}", error) from error
    triples = []
    for number, row in enumerate(json_list(data, "annotations", path), 1):
        try:
            triples.append((str(row["image_id"]), str(row["caption"]), str(row["id"])))
        except (KeyError, TypeError) as error:
            raise unknown_version(path, f"annotation {number:,}", error) from error
    return Annotations.of(files, triples)


def _coco_set(root: Path, found: Annotations, *, split: str, source: str, expected_images: int) -> RetrievalSet:
    """A split of mscoco_captions.

    Only the test split from Karpathy's file has COCO's ids and the order of the folds.
    """
    whole = split == TEST and source == KARPATHY
    return found.as_set(
        _folders(root),
        name="mscoco_captions",
        title="COCO",
        split=split,
        lang="en",
        source=source,
        expected_images=expected_images,
        notes=(_ALL_CAPTIONS, *(() if whole else (_UNJUDGED,))) if split == TEST else (),
        folds=FOLDS if whole else 0,
        judged=whole,
    )


def _folders(root: Path) -> list[Path]:
    """Folders that may contain train2014, val2014 and val2017."""
    return [root / "images", root]


def _below(name: str, folder: str) -> str:
    """Path of an image with its folder: ``COCO_val2014_000000391895.jpg`` is in val2014."""
    own = name.split("_")[1] if name.startswith("COCO_") and name.count("_") == 2 else folder
    return name if "/" in name else f"{own}/{name}"


_IMAGES = "images.cocodataset.org/zips"

DATASETS = (
    DatasetInfo(
        name="mscoco_captions",
        title="COCO",
        langs=("en",),
        splits=(TEST, "val", "train", VAL2014),
        fetch=(
            f"Unpack {_IMAGES}/val2014.zip to ROOT/val2014 (for split train also train2014.zip to ROOT/train2014), and "
            "dataset_coco.json from cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip to ROOT. "
            "coco_test_karpathy.json from github.com/mehdidc/retrieval_annotations and the shards of "
            "huggingface.co/datasets/clip-benchmark/wds_mscoco_captions are also supported. Split val2014 needs "
            "ROOT/annotations/captions_val2014.json."
        ),
        read=read_mscoco_captions,
        also_called=("mscoco", "ms-coco", "coco captions"),
    ),
    DatasetInfo(
        name="mscoco_val2017",
        title="COCO val2017",
        langs=("en",),
        splits=("val2017",),
        fetch=(
            f"Unpack {_IMAGES}/val2017.zip to ROOT/val2017 and images.cocodataset.org/annotations/"
            "annotations_trainval2017.zip to ROOT/annotations."
        ),
        read=read_mscoco_val2017,
        also_called=("coco", "mscoco", "ms-coco", "coco captions"),
    ),
    DatasetInfo(
        name="coco-cn",
        title="COCO-CN",
        langs=("zh",),
        splits=(TEST, "val", "train"),
        fetch=(
            "Unpack coco-cn-version1805v1.1.tar.gz from huggingface.co/datasets/AIMClab/COCO-CN to ROOT, and "
            f"{_IMAGES}/train2014.zip and val2014.zip to ROOT/train2014 and ROOT/val2014."
        ),
        read=read_coco_cn,
        also_called=("coco", "mscoco", "ms-coco"),
    ),
)
