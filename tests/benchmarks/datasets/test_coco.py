"""COCO in Karpathy's, COCO's own and CLIP_benchmark's layout, and COCO-CN."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.benchmarks.datasets.coco import DATASETS
from llm2clip_search.errors import CorpusError
from tests.support.layouts import jpeg, write_images, write_tar

INFOS = {info.name: info for info in DATASETS}

IMAGES: list[tuple[int, str, str, list[tuple[int, str]]]] = [
    # COCO's own numbers: annotation ids neither begin at 0 nor run with the images.
    (
        391895,
        "val2014",
        "test",
        [
            (770337, "A man with a red helmet on a small moped on a dirt road. "),
            (771687, "Man riding a motor bike on a dirt road on the countryside."),
            (772707, "A man riding on the back of a motorcycle."),
            (776154, "A dirt path with a young person on a motor bike."),
            (781998, "A man in a red shirt and a red hat is on a motorcycle."),
            (800001, "A sixth caption, as 10 of the 5,000 images have."),
        ],
    ),
    (60623, "val2014", "test", [(152106, "A young girl inhales."), (158205, "A young girl is preparing to blow.")]),
    (483108, "val2014", "restval", [(37, "A man on a bicycle."), (5, "A cyclist beside a train.")]),
    (57870, "train2014", "train", [(787980, "A restaurant has modern wooden tables.")]),
    (184613, "val2014", "val", [(474921, "A child holding a flowered umbrella.")]),
]


def file_name(image: int, folder: str) -> str:
    return f"COCO_{folder}_{image:012d}.jpg"


PATHS = [f"{folder}/{file_name(image, folder)}" for image, folder, _, _ in IMAGES]


def karpathy(root: Path) -> Path:
    images = [
        {
            "filepath": folder,
            "filename": file_name(image, folder),
            "cocoid": image,
            "imgid": number,
            "split": split,
            "sentids": [caption_id for caption_id, _ in captions],
            "sentences": [{"raw": text, "sentid": caption_id, "imgid": number} for caption_id, text in captions],
        }
        for number, (image, folder, split, captions) in enumerate(IMAGES)
    ]
    path = root / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def coco_json(path: Path, chosen: Sequence[int], name: Callable[[int, str], str] = file_name) -> Path:
    """COCO's own format; annotations are ordered by their id, not by image."""
    picked = [IMAGES[row] for row in chosen]
    rows = sorted((caption_id, image, text) for image, _, _, captions in picked for caption_id, text in captions)
    data = {
        "info": {"year": 2014},
        "images": [{"id": image, "file_name": name(image, folder), "height": 24} for image, folder, _, _ in picked],
        "annotations": [{"image_id": image, "id": caption_id, "caption": text} for caption_id, image, text in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def opened(root: Path, name: str = "mscoco_captions", split: str = "") -> RetrievalSet:
    return INFOS[name].open(root, split=split)


@pytest.mark.parametrize("below", [".", "images"])
def test_karpathys_test_split_keeps_all_captions_under_cocos_ids(tmp_path: Path, below: str) -> None:
    karpathy(tmp_path)
    write_images(tmp_path / below, PATHS)
    found = opened(tmp_path)
    captions = found.captions["en"]
    assert list(found.images) == ["391895", "60623"]
    assert captions.caption_ids == ["770337", "771687", "772707", "776154", "781998", "800001", "152106", "158205"]
    assert captions.image_ids == ["391895"] * 6 + ["60623"] * 2
    assert captions.texts[0] == "A man with a red helmet on a small moped on a dirt road."
    assert found.images.read("60623") == jpeg(1)
    assert (found.folds, found.judged) == (5, True)
    assert found.notes[0] == "8 captions of 2 images, from dataset_coco.json."
    assert any("25,010" in note and "first five" in note for note in found.notes)


def test_restval_belongs_to_train_and_only_test_is_judged(tmp_path: Path) -> None:
    karpathy(tmp_path)
    write_images(tmp_path, PATHS)
    train, val = opened(tmp_path, split="train"), opened(tmp_path, split="val")
    assert list(train.images) == ["483108", "57870"]
    assert list(val.images) == ["184613"]
    assert [(found.folds, found.judged) for found in (train, val)] == [(0, False)] * 2


def test_every_layout_of_the_test_split_gives_the_same_captions(tmp_path: Path) -> None:
    for layout in ("karpathy", "clip_benchmark"):
        write_images(tmp_path / layout, PATHS)
    karpathy(tmp_path / "karpathy")
    coco_json(tmp_path / "clip_benchmark" / "coco_test_karpathy.json", [0, 1])
    ours, theirs = opened(tmp_path / "karpathy"), opened(tmp_path / "clip_benchmark")
    assert list(ours.images) == list(theirs.images)
    one, other = ours.captions["en"], theirs.captions["en"]
    assert set(zip(one.image_ids, one.texts, strict=True)) == set(zip(other.image_ids, other.texts, strict=True))
    assert (theirs.folds, theirs.judged) == (0, False)
    assert any("need the order and ids of dataset_coco.json" in note for note in theirs.notes)


def test_the_shards_of_clip_benchmark_are_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "test/0.tar", {"s0.jpg": jpeg(0), "s0.txt": b"One\nTwo\n\nThree", "s1.jpg": jpeg(1)})
    (tmp_path / "test/nshards.txt").write_text("1\n")
    found = opened(tmp_path)
    assert (list(found.images), found.captions["en"].texts) == (["s0.jpg", "s1.jpg"], ["One", "Two", "Three"])
    assert found.notes[0].startswith("3 captions of 1 images, 2 in the gallery")


def test_all_of_val2014_and_val2017_are_read_from_cocos_own_files(tmp_path: Path) -> None:
    write_images(tmp_path, [*PATHS, "val2017/000000391895.jpg", "val2017/000000060623.jpg"])
    coco_json(tmp_path / "annotations/captions_val2014.json", [0, 1, 2, 4])
    coco_json(tmp_path / "annotations/captions_val2017.json", [1, 0], lambda image, _: f"{image:012d}.jpg")
    all_2014 = opened(tmp_path, split="val2014")
    assert list(all_2014.images) == ["391895", "60623", "483108", "184613"]
    in_2017 = opened(tmp_path, "mscoco_val2017")
    assert list(in_2017.images) == ["60623", "391895"]
    assert in_2017.images.read("391895") == jpeg(5)
    captions = in_2017.captions["en"]
    assert dict(zip(captions.caption_ids, captions.image_ids, strict=True))["152106"] == "60623"
    assert captions.rows_in(list(in_2017.images)).tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert (in_2017.split, in_2017.judged, all_2014.judged) == ("val2017", False, False)


def test_an_image_without_annotations_is_in_the_gallery(tmp_path: Path) -> None:
    write_images(tmp_path, PATHS)
    path = coco_json(tmp_path / "annotations/captions_val2014.json", [0, 1])
    change(path, lambda data: data["annotations"].__setitem__(slice(0, 2), []))
    found = opened(tmp_path, split="val2014")
    assert list(found.images) == ["391895", "60623"]
    assert "1 of these images have no caption: text retrieval counts them as missed." in found.notes


def coco_cn(root: Path, below: str = "coco-cn-version1805v1.1") -> Path:
    folder = root / below
    folder.mkdir(parents=True, exist_ok=True)
    stems = [Path(path).stem for path in PATHS]
    (folder / "coco-cn_test.txt").write_text(f"{stems[3]}\n{stems[0]}\n")
    (folder / "coco-cn_train.txt").write_text(f"{stems[1]}\n")
    lines = [f"{stems[0]}#0\t骑摩托车的人。", f"{stems[1]}#0\t一个女孩", f"{stems[3]}#0\t餐厅", f"{stems[3]}#1\t木桌 "]
    (folder / "imageid.human-written-caption.txt").write_text("\n".join(lines) + "\n")
    write_images(root, PATHS)
    return folder


@pytest.mark.parametrize("below", ["coco-cn-version1805v1.1", "."])
def test_coco_cn_reads_what_people_wrote_of_its_own_list(tmp_path: Path, below: str) -> None:
    coco_cn(tmp_path, below)
    found = opened(tmp_path, "coco-cn")
    assert list(found.images) == ["COCO_train2014_000000057870", "COCO_val2014_000000391895"]
    captions = found.captions["zh"]
    assert captions.texts == ["骑摩托车的人。", "餐厅", "木桌"]
    assert captions.caption_ids[2] == "COCO_train2014_000000057870#1"
    assert captions.rows_in(list(found.images)).tolist() == [1, 0, 0]
    assert found.images.read("COCO_train2014_000000057870") == jpeg(3)
    assert list(opened(tmp_path, "coco-cn", "train").images) == ["COCO_val2014_000000060623"]


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


BROKEN: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "a missing image": (
        lambda root, path: (root / PATHS[1]).unlink(),
        r"1 of 2 images of COCO val2017 are missing from .*, such as val2014/COCO_val2014_000000060623\.jpg",
    ),
    "a file of another version": (
        lambda root, path: path.write_text('{"images": [{"id": 1, "file_name": "a.jpg"}]}'),
        "has no list 'annotations': it is another file or of another version",
    ),
    "detections in place of captions": (
        lambda root, path: change(path, lambda data: data["annotations"][2].pop("caption")),
        "annotation 3, has no 'caption': the file is of another version",
    ),
    "images of another version": (
        lambda root, path: change(path, lambda data: data["images"][0].pop("file_name")),
        "image 1, has no 'file_name': the file is of another version",
    ),
    "an image twice": (
        lambda root, path: change(path, lambda data: data["images"].append(data["images"][0])),
        "has image '391895' twice",
    ),
    "an annotation twice": (
        lambda root, path: change(path, lambda data: data["annotations"].append(data["annotations"][0])),
        "2 captions with id '152106'",
    ),
    "a caption of no image": (
        lambda root, path: change(path, lambda data: data["annotations"][0].update(image_id=7)),
        "1 images have captions but are missing, such as 7",
    ),
    "another encoding": (
        lambda root, path: path.write_bytes('{"images": "café"}'.encode("latin-1")),
        "is not UTF-8: byte 15 is 0xe9",
    ),
    "no image": (lambda root, path: path.write_text('{"images": [], "annotations": []}'), "has no images in split"),
    "no caption": (
        lambda root, path: change(path, lambda data: data.update(annotations=[])),
        "has no captions in 'en'",
    ),
    "no caption file": (
        lambda root, path: path.unlink(),
        r"does not contain annotations/captions_val2017\.json or captions_val2017\.json\.$",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_set_says_in_one_sentence_what_is_wrong(tmp_path: Path, fault: str) -> None:
    write_images(tmp_path, PATHS)
    path = coco_json(tmp_path / "annotations/captions_val2017.json", [0, 1])
    damage, message = BROKEN[fault]
    damage(tmp_path, path)
    with pytest.raises(CorpusError, match=message) as caught:
        opened(tmp_path, "mscoco_val2017")
    if fault == "no caption file":
        assert "Unpack images.cocodataset.org" in caught.value.hint


def test_broken_chinese_captions_are_named(tmp_path: Path) -> None:
    folder = coco_cn(tmp_path)
    (folder / "coco-cn_test.txt").write_text("a\na\n")
    with pytest.raises(CorpusError, match=r"coco-cn_test\.txt has 'a' 2 times among 2"):
        opened(tmp_path, "coco-cn")
    (folder / "coco-cn_test.txt").write_text("")
    with pytest.raises(CorpusError, match="has no images in split 'test'"):
        opened(tmp_path, "coco-cn")
    with (folder / "imageid.human-written-caption.txt").open("ab") as file:
        file.write(b"COCO_val2014_000000184613 no number\n")
    with pytest.raises(CorpusError, match="line 5, is not 'IMAGE#n caption'"):
        opened(tmp_path, "coco-cn")


def test_all_layouts_are_named_where_none_is_there(tmp_path: Path) -> None:
    message = r"contains none of dataset_coco\.json, coco_test_karpathy\.json, test/nshards\.txt\.$"
    with pytest.raises(CorpusError, match=message) as caught:
        opened(tmp_path)
    assert "val2014.zip" in caught.value.hint
    with pytest.raises(
        CorpusError, match=r"does not contain coco-cn_test\.txt or coco-cn-version1805v1\.1/coco-cn_test\.txt or "
    ):
        opened(tmp_path, "coco-cn")
