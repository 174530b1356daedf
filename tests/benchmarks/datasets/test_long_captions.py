"""The data sets of long captions in their authors' layouts, complete and broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.benchmarks.datasets.long_captions import (
    DATASETS,
    SHAREGPT4V,
    SHAREGPT4V_COUNT,
    first_entries,
)
from llm2clip_search.errors import CorpusError
from tests.support.layouts import write_images

INFO = {info.name: info for info in DATASETS}


def open_set(name: str, root: Path, split: str = "") -> RetrievalSet:
    return INFO[name].open(root, split=split)


def pairs(found: RetrievalSet) -> list[tuple[str, str]]:
    captions = found.captions["en"]
    return list(zip(captions.image_ids, captions.texts, strict=True))


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_sets_are_named_as_papers_name_them_and_tell_what_to_fetch(tmp_path: Path) -> None:
    assert list(INFO) == ["sharegpt4v-1k", "urban1k", "docci", "iiw", "dci"]
    for info in DATASETS:
        with pytest.raises(CorpusError) as error:
            info.open(tmp_path)
        assert error.value.hint.endswith(info.fetch)


# ShareGPT4V-1k


def entry(number: int, answer: str | None = None) -> dict[str, Any]:
    """An entry as in the authors' file; the second turn is the caption."""
    return {
        "id": f"sa_{number}",
        "image": f"sam/images/sa_{number}.jpg",
        "conversations": [
            {"from": "human", "value": "What do you see?\n<image>"},
            {"from": "gpt", "value": answer or f"Number {number}.\n\nIt goes “on”."},
        ],
    }


def sharegpt4v(root: Path, *, entries: int = SHAREGPT4V_COUNT + 5, without: int = 0) -> Path:
    (root / SHAREGPT4V).write_text(json.dumps([entry(n) for n in range(entries)], ensure_ascii=False), "utf-8")
    folder = root / "sam" / "images"
    folder.mkdir(parents=True)
    for number in range(SHAREGPT4V_COUNT - without):
        (folder / f"sa_{number}.jpg").write_bytes(b"never opened")
    return root


def test_sharegpt4v_is_the_first_thousand_entries_with_the_captioners_answer(tmp_path: Path) -> None:
    found = open_set("sharegpt4v-1k", sharegpt4v(tmp_path))
    assert pairs(found) == [(f"sam/images/sa_{n}.jpg", f"Number {n}.\n\nIt goes “on”.") for n in range(1000)]
    assert list(found.images) == found.captions["en"].image_ids
    assert found.images.read("sam/images/sa_7.jpg") == b"never opened"
    assert len(found.notes) == 2


def test_sharegpt4v_tells_how_many_of_the_thousand_images_are_missing(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"3 of 1,000 images of ShareGPT4V-1k are missing from .*, such as .*sa_997\.jpg"
    ):
        open_set("sharegpt4v-1k", sharegpt4v(tmp_path, without=3))


def test_sharegpt4v_refuses_a_shorter_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has 998 complete entries, but the benchmark consists of its first 1,000"):
        open_set("sharegpt4v-1k", sharegpt4v(tmp_path, entries=998))


def test_sharegpt4v_refuses_an_entry_without_a_caption(tmp_path: Path) -> None:
    rows: list[Any] = [entry(n) for n in range(1000)]
    rows[4] = {"image": "a.jpg", "conversations": [{"from": "human", "value": "?"}]}
    (tmp_path / SHAREGPT4V).write_text(json.dumps(rows))
    with pytest.raises(CorpusError, match="entry 5, has no image or no answer by gpt"):
        open_set("sharegpt4v-1k", tmp_path)
    rows[4] = "a string"
    (tmp_path / SHAREGPT4V).write_text(json.dumps(rows))
    with pytest.raises(CorpusError, match="entry 5, has no image or no answer by gpt"):
        open_set("sharegpt4v-1k", tmp_path)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("size", [10, 3_000])
def test_entries_that_chunks_cut_are_read_whole(tmp_path: Path, indent: int | None, size: int) -> None:
    rows = [entry(n, f'{n} "ä{{[]}}, ' + "x" * size) for n in range(700)]  # 3,000 fill more than two chunks
    path = tmp_path / "list.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert first_entries(path, 700) == rows
    assert first_entries(path, 3) == rows[:3]


def test_the_rest_of_the_file_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    whole = json.dumps([entry(n) for n in range(3)])
    path.write_bytes(whole[:-1].encode() + b", " + b" " * (3 << 20) + b"\xff\xfe no UTF-8, no JSON")
    assert first_entries(path, 3) == [entry(n) for n in range(3)]
    with pytest.raises(CorpusError, match="cannot be read as UTF-8"):
        first_entries(path, 4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1}', "is not a JSON list"),
        (b"", "is not a JSON list"),
        (b"[", "has 0 complete entries"),
        (b'[{"a": 1}, {"a": ', "has 1 complete entries"),
        (b"[" + b'"' * 1 + b"x" * (5 << 20), "has 0 complete entries"),
        (b"[" * 100_000, "has 0 complete entries"),
        (b"\xff\xfe[\x00", "cannot be read as UTF-8"),
    ],
)
def test_a_broken_list_is_reported(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=words):
        first_entries(path, 3)


# Urban1k


def urban1k(root: Path, *, images: str = "image", captions: str = "caption", count: int = 12) -> Path:
    write_images(root / images, [f"{n}.jpg" for n in range(1, count + 1)])
    (root / captions).mkdir()
    for number in range(1, count + 1):
        text = f"  The image shows street {number}.\nA second line, which no one reads.\n"
        (root / captions / f"{number}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(("images", "captions"), [("image", "caption"), ("images", "captions")])
def test_urban1k_is_read_in_numeric_order_and_only_first_lines(tmp_path: Path, images: str, captions: str) -> None:
    found = open_set("urban1k", urban1k(tmp_path, images=images, captions=captions))
    assert pairs(found) == [(str(n), f"The image shows street {n}.") for n in range(1, 13)]
    assert list(found.images) == [str(n) for n in range(1, 13)]
    assert found.images.read("3") == (tmp_path / images / "3.jpg").read_bytes()
    assert any("first line" in note for note in found.notes)
    assert any("12 images; published results use 1,000" in note for note in found.notes)


def test_urban1k_requires_a_caption_for_every_image_and_an_image_for_every_caption(tmp_path: Path) -> None:
    root = urban1k(tmp_path)
    (root / "image" / "5.jpg").unlink()
    with pytest.raises(CorpusError, match=r"1 of 12 images of Urban1k are missing from .*image, such as 5\.jpg"):
        open_set("urban1k", root)
    (root / "caption" / "5.txt").unlink()
    (root / "caption" / "6.txt").unlink()
    with pytest.raises(CorpusError, match=r"1 images in .*image have no caption in .*caption, such as 6\.jpg"):
        open_set("urban1k", root)


def test_urban1k_in_another_encoding_is_reported(tmp_path: Path) -> None:
    root = urban1k(tmp_path)
    (root / "caption" / "7.txt").write_bytes("Ein Café.".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"7\.txt is not UTF-8: byte 7 is 0xe9"):
        open_set("urban1k", root)


def test_urban1k_leaves_an_empty_first_line_out(tmp_path: Path) -> None:
    root = urban1k(tmp_path)
    (root / "caption" / "7.txt").write_text("\nThe caption is on the second line.")
    (root / "caption" / "8.txt").write_text("")
    found = open_set("urban1k", root)
    assert {"7", "8"} == set(found.images) - set(found.captions["en"].image_ids)


# DOCCI


def docci_rows() -> list[dict[str, Any]]:
    splits = ["train", "test", "qual_dev", "test", "qual_test", "test"]
    return [
        {
            "type": "Image",
            "split": split,
            "example_id": f"{split}_{n:05d}",
            "image_file": f"{split}_{n:05d}.jpg",
            "description": f"Description {n} \u2028 goes on.",
        }
        for n, split in enumerate(splits)
    ]


def docci(root: Path, rows: list[dict[str, Any]]) -> Path:
    write_json_lines(root / "docci_descriptions.jsonlines", rows)
    write_images(root / "images", sorted({row["image_file"] for row in rows if "image_file" in row}))
    return root


def test_docci_takes_every_row_of_its_split(tmp_path: Path) -> None:
    root = docci(tmp_path, docci_rows())
    found = open_set("docci", root)
    assert pairs(found) == [(f"test_{n:05d}.jpg", f"Description {n} \u2028 goes on.") for n in (1, 3, 5)]
    assert found.split == "test"
    assert any("1.5K" in note and "5,000" in note for note in found.notes)
    assert pairs(open_set("docci", root, "qual_dev")) == [("qual_dev_00002.jpg", "Description 2 \u2028 goes on.")]
    assert open_set("docci", root, "qual_dev").notes == ()


def test_broken_docci_is_reported(tmp_path: Path) -> None:
    root = docci(tmp_path, docci_rows())
    with pytest.raises(CorpusError, match="has no split 'test-1500'; it has test, train"):
        open_set("docci", root, "test-1500")
    (root / "images" / "test_00003.jpg").unlink()
    with pytest.raises(CorpusError, match=r"1 of 3 images of DOCCI are missing from .*images, such as test_00003\.jpg"):
        open_set("docci", root)
    docci(root, [row for row in docci_rows() if row["split"] != "test"])
    with pytest.raises(CorpusError, match="Split 'test' of DOCCI has no images"):
        open_set("docci", root)
    docci(root, [*docci_rows(), docci_rows()[1]])
    with pytest.raises(CorpusError, match=r"has 'test_00001\.jpg' 2 times among 4"):
        open_set("docci", root)
    docci(root, [{**docci_rows()[0]}, {"split": "test", "image_file": "a.jpg"}])
    with pytest.raises(CorpusError, match="row 2, has no column 'description'; it has split, image_file"):
        open_set("docci", root)
    (root / "docci_descriptions.jsonlines").write_text("{\n")
    with pytest.raises(CorpusError, match="line 1 is not JSON"):
        open_set("docci", root)
    (root / "docci_descriptions.jsonlines").write_text("3\n")
    with pytest.raises(CorpusError, match="line 1 is not a JSON object"):
        open_set("docci", root)


# ImageInWords


def iiw(root: Path, *, folders: tuple[str, str, str] = ("docci_aar", "dci", "docci")) -> Path:
    aar, dci, docci_folder = folders
    write_json_lines(
        root / "datasets" / "IIW-400" / "data.jsonl",
        [{"image/key": f"aar_test_0460{n}", "IIW": f"AAR {n}.", "IIW-P5B": "A machine's."} for n in range(3)],
    )
    write_json_lines(
        root / "datasets" / "DCI_Test" / "data.jsonl",
        [{"image": "sa_1545038.jpg", "ex_id": "113029-data.json", "IIW": "A balcony."}],
    )
    write_json_lines(
        root / "datasets" / "DOCCI_Test" / "data.jsonl",
        [{"image": "test_00731", "IIW": "A toilet.", "DOCCI": "A white toilet."}],
    )
    write_images(root / aar, [f"aar_test_0460{n}.jpg" for n in range(3)])
    write_images(root / dci, ["sa_1545038.jpg"])
    write_images(root / docci_folder, ["test_00731.jpg"])
    return root


@pytest.mark.parametrize("folders", [("docci_aar", "dci", "docci"), ("images_aar", "photos", "images")])
def test_iiw_is_the_human_descriptions_of_three_parts(tmp_path: Path, folders: tuple[str, str, str]) -> None:
    root = iiw(tmp_path, folders=folders)
    aar = [(f"aar_test_0460{n}", f"AAR {n}.") for n in range(3)]
    found = open_set("iiw", root)
    assert pairs(found) == [*aar, ("sa_1545038.jpg", "A balcony."), ("test_00731", "A toilet.")]
    assert any("use 612" in note for note in found.notes)
    assert found.images.read("test_00731") == (root / folders[2] / "test_00731.jpg").read_bytes()
    assert pairs(open_set("iiw", root, "IIW-400")) == aar


def test_broken_iiw_is_reported(tmp_path: Path) -> None:
    root = iiw(tmp_path)
    (root / "docci_aar" / "aar_test_04601.jpg").unlink()
    with pytest.raises(CorpusError, match=r"1 of 5 images of ImageInWords are missing from .*aar_test_04601\.jpg"):
        open_set("iiw", root)
    write_json_lines(root / "datasets" / "DCI_Test" / "data.jsonl", [{"image": "sa_1545038.jpg"}])
    with pytest.raises(CorpusError, match="row 1, has no column 'IIW'"):
        open_set("iiw", root, "DCI_Test")
    write_json_lines(root / "datasets" / "DCI_Test" / "data.jsonl", [{"image": "a.jpg", "IIW": "x"}] * 2)
    with pytest.raises(CorpusError, match=r"has 'a\.jpg' 2 times among 2"):
        open_set("iiw", root, "DCI_Test")


# Densely Captioned Images


def dci(root: Path, *, annotations: str = "annotations") -> Path:
    base = root / "densely_captioned_images"
    (base / annotations).mkdir(parents=True)
    names = {"train": ["1-data.json", "2-data.json"], "valid": ["3-data.json"], "test": ["10-data.json"]}
    (base / "splits.json").write_text(json.dumps(names))
    for name in (name for part in names.values() for name in part):
        number = name.partition("-")[0]
        row = {"image": f"sa_{number}.jpg", "short_caption": f"Short {number}.", "extra_caption": f"Extra {number}."}
        row |= {"mask_data": {"0": {"caption": "A mask.", "label": "x"}}, "summaries": {"base": ["Summed up."]}}  # type: ignore[dict-item]
        (base / annotations / name).write_text(json.dumps(row))
    write_images(base / "photos", [f"sa_{n}.jpg" for n in (1, 2, 3, 10)])
    return base


@pytest.mark.parametrize("annotations", ["annotations", "complete"])
def test_dci_joins_the_short_and_the_extra_caption(tmp_path: Path, annotations: str) -> None:
    base = dci(tmp_path, annotations=annotations)
    everything = [(f"sa_{n}.jpg", f"Short {n}.\nExtra {n}.") for n in (1, 2, 3, 10)]
    for root in (tmp_path, base):
        assert pairs(open_set("dci", root)) == everything
    assert pairs(open_set("dci", tmp_path, "test")) == everything[-1:]
    assert any("use 7,805" in note for note in open_set("dci", tmp_path).notes)
    assert any("use 112" in note for note in open_set("dci", tmp_path, "test").notes)


def test_dci_without_an_extra_caption_has_the_short_one(tmp_path: Path) -> None:
    base = dci(tmp_path)
    (base / "annotations" / "10-data.json").write_text('{"image": "sa_10.jpg", "short_caption": "Short."}')
    assert pairs(open_set("dci", tmp_path, "test")) == [("sa_10.jpg", "Short.")]


def test_broken_dci_is_reported(tmp_path: Path) -> None:
    base = dci(tmp_path)
    (base / "photos" / "sa_2.jpg").unlink()
    with pytest.raises(CorpusError, match=r"1 of 4 images of Densely Captioned Images are missing from .*sa_2\.jpg"):
        open_set("dci", tmp_path)
    (base / "annotations" / "10-data.json").write_text('{"image": "sa_10.jpg"}')
    with pytest.raises(CorpusError, match=r"10-data\.json has no image or no short_caption"):
        open_set("dci", tmp_path, "test")
    (base / "annotations" / "10-data.json").unlink()
    with pytest.raises(CorpusError, match=r"10-data\.json does not exist"):
        open_set("dci", tmp_path, "test")
    (base / "splits.json").write_text('{"test": []}')
    with pytest.raises(CorpusError, match="Split 'test' of Densely Captioned Images has no images"):
        open_set("dci", tmp_path, "test")
    with pytest.raises(CorpusError, match=r"splits\.json has no list for train or valid or test"):
        open_set("dci", tmp_path)
    (base / "splits.json").write_text('{"test": ["3-data.json", "3-data.json"]}')
    with pytest.raises(CorpusError, match=r"has '3-data\.json' 2 times among 2"):
        open_set("dci", tmp_path, "test")


def test_two_annotations_of_one_photograph_are_two_captions_of_one_image(tmp_path: Path) -> None:
    base = dci(tmp_path)
    (base / "annotations" / "2-data.json").write_text('{"image": "sa_1.jpg", "short_caption": "Again."}')
    found = open_set("dci", tmp_path, "train")
    assert list(found.images) == ["sa_1.jpg"]
    assert found.captions["en"].caption_ids == ["sa_1.jpg#0", "sa_1.jpg#1"]
