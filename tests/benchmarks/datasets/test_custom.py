"""Custom shards and tables: all formats, languages and splits decided by the files, and broken files."""

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.benchmarks.datasets.custom import DATASETS
from llm2clip_search.errors import CorpusError
from tests.support.commands import RunCli
from tests.support.layouts import jpeg, write_images, write_tar

INFO = {info.name: info for info in DATASETS}


def open_set(name: str, root: Path, split: str = "", langs: Sequence[str] = ()) -> RetrievalSet:
    return INFO[name].open(root, split=split, langs=langs)


def pairs(found: RetrievalSet, lang: str = "en") -> list[tuple[str, str]]:
    captions = found.captions[lang]
    return list(zip(captions.image_ids, captions.texts, strict=True))


def test_both_tell_what_they_read(tmp_path: Path) -> None:
    assert list(INFO) == ["webdataset", "table"]
    for info in DATASETS:
        with pytest.raises(CorpusError) as error:
            info.open(tmp_path)
        assert error.value.hint.endswith(info.fetch)


# webdataset


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def test_text_in_shards_has_one_caption_per_line(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"./a.jpg": jpeg(0), "./a.txt": "Eins\u2028eins. \n\n Zwei.\r\n".encode()})
    write_tar(tmp_path / "1.tar", {"x/b.txt": b"Three.", "x/b.webp": jpeg(1), "c.png": jpeg(2), "c.cls": b"7"})
    found = open_set("webdataset", tmp_path)
    assert pairs(found) == [("a.jpg", "Eins\u2028eins."), ("a.jpg", "Zwei."), ("x/b.webp", "Three.")]
    assert found.captions["en"].caption_ids == ["a.jpg#0", "a.jpg#1", "x/b.webp#0"]
    assert list(found.images) == ["a.jpg", "x/b.webp", "c.png"]
    assert found.images.read("x/b.webp") == jpeg(1)
    assert found.notes == ("1 of 3 images have no caption: text retrieval counts them as missed.",)
    assert list(open_set("webdataset", tmp_path, langs=["de"]).captions) == ["de"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"caption": " One. ", "url": "x"}, {"en": ["One."]}),
        ({"caption": ["One.", "", "Two."]}, {"en": ["One.", "Two."]}),
        ({"captions": ["One.", "Two."], "caption": "Left out."}, {"en": ["One.", "Two."]}),
        ({"caption": "Eins.", "lang": "de"}, {"de": ["Eins."]}),
        ({"captions": {"de": ["Eins.", "Zwei."], "zh": "一"}}, {"de": ["Eins.", "Zwei."], "zh": ["一"]}),
    ],
)
def test_json_in_shards_has_captions(tmp_path: Path, value: object, expected: dict[str, list[str]]) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(0), "a.json": as_json(value)})
    found = open_set("webdataset", tmp_path)
    assert {lang: captions.texts for lang, captions in found.captions.items()} == expected


def test_text_goes_before_json_so_that_no_caption_counts_twice(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar",
        {"b.json": as_json({"caption": "Two."}), "b.jpg": jpeg(1), "c.txt": b"Three.", "c.jpg": jpeg(2)}
        | {"a.jpg": jpeg(0), "a.json": as_json({"caption": "Of another."}), "a.txt": b"One."}
        | {"c.json": as_json({"caption": "Of another."})},
    )
    assert pairs(open_set("webdataset", tmp_path)) == [("b.jpg", "Two."), ("c.jpg", "Three."), ("a.jpg", "One.")]


def test_a_split_is_a_folder_of_shards_or_a_word_in_their_names(tmp_path: Path) -> None:
    for split in ("test", "train"):
        write_tar(tmp_path / "folders" / split / "0.tar", {"a.jpg": jpeg(0), "a.txt": split.encode()})
        write_tar(tmp_path / "names" / f"toy-{split}-000.tar", {f"{split}.jpg": jpeg(0), f"{split}.txt": b"One."})
    found = open_set("webdataset", tmp_path / "folders", "test")
    assert (found.split, found.captions["en"].texts) == ("test", ["test"])
    assert list(open_set("webdataset", tmp_path / "names", "train").images) == ["train.jpg"]
    assert open_set("webdataset", tmp_path / "names").split == "all"
    with pytest.raises(CorpusError, match=r"names contains no \.tar shards of split 'tes'"):
        open_set("webdataset", tmp_path / "names", "tes")
    with pytest.raises(CorpusError, match=r"no \.tar shards; there are shards in its folders test, train") as caught:
        open_set("webdataset", tmp_path / "folders")
    assert caught.value.hint.startswith("--split may be test, train.")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (
            {"a.jpg": b"A", "a.txt": b"One.", "b.txt": b"Two.", "c.txt": b"Three."},
            r"2 of 3 images with captions are in none of the shards in .*, such as b\.$",
        ),
        ({"a.jpg": b"A"}, "has no captions"),
        ({"a.jpg": b"A", "a.txt": b" \n"}, "has no captions"),
        ({"a.jpg": b"A", "a.txt": "Café".encode("latin-1")}, r"0\.tar, a\.txt, is not UTF-8: byte 3 is 0xe9"),
        ({"a.jpg": b"A", "a.json": b"{"}, r"0\.tar, a\.json, is not JSON"),
        ({"a.jpg": b"A", "a.json": b"[1]"}, r"0\.tar, a\.json, is not a JSON object"),
        ({"a.jpg": b"A", "a.json": b'{"caption": 3}'}, r"a\.json, has a caption of type int instead of a string"),
        (
            {"a.jpg": b"A", "a.json": b'{"captions": [["x"]]}'},
            r"a\.json, has a caption of type list instead of a string",
        ),
        ({"a.txt": b"One."}, "There are no images in"),
    ],
)
def test_broken_shards_are_reported(tmp_path: Path, members: Mapping[str, bytes], words: str) -> None:
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(CorpusError, match=words):
        open_set("webdataset", tmp_path)


def test_an_image_or_a_caption_file_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(0), "a.txt": b"One."})
    write_tar(tmp_path / "1.tar", {"b.jpg": jpeg(1), "a.txt": b"Two."})
    with pytest.raises(CorpusError, match=r"Caption file 'a\.txt' is in .*1\.tar and also in"):
        open_set("webdataset", tmp_path)
    write_tar(tmp_path / "1.tar", {"a.jpg": jpeg(1)})
    with pytest.raises(CorpusError, match=r"Image 'a\.jpg' is in .*0\.tar and again in .*1\.tar"):
        open_set("webdataset", tmp_path)


def test_a_cut_shard_is_reported(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(0), "a.txt": b"One.", "b.jpg": jpeg(1)})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"b.jpg")])
    with pytest.raises(CorpusError, match=r"0\.tar cannot be read as an uncompressed tar shard: .*cut off"):
        open_set("webdataset", tmp_path)


def test_a_language_that_shards_lack_is_reported(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(0), "a.json": as_json({"captions": {"de": "Eins.", "zh": "一"}})})
    assert list(open_set("webdataset", tmp_path, langs=["zh", "de"]).captions) == ["zh", "de"]
    with pytest.raises(CorpusError, match="has no captions in 'fr'; it has de, zh"):
        open_set("webdataset", tmp_path, langs=["fr"])


# table

FORMATS = ("csv", "csv.gz", "tsv", "tsv.gz", "jsonl", "jsonl.gz", "parquet")


def write_table(root: Path, suffix: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``captions.SUFFIX`` with the standard writer of each format."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"captions.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        return path
    if suffix.startswith("jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if suffix.startswith("tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
        text = out.getvalue()
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=6))
def test_captions_come_out_of_every_format_as_they_went_in(tmp_path: Path, suffix: str, texts: list[str]) -> None:
    root = tmp_path / suffix
    write_images(root, ["a.jpg", "b.jpg"])
    names = ["ab"[number % 2] for number in range(len(texts) + 1)]
    write_table(
        root,
        suffix,
        [{"image": f"{n}.jpg", "caption": text} for n, text in zip(names, ['First,\n"one"\t\'', *texts], strict=True)],
    )
    found = open_set("table", root)
    whole = [(f"{n}.jpg", text.strip()) for n, text in zip(names, ['First,\n"one"\t\'', *texts], strict=True)]
    assert pairs(found) == [(image, text) for image, text in whole if text]


ROWS = [
    {"image": "a.jpg", "lang": "en", "split": "test", "caption": "One."},
    {"image": "b.jpg", "lang": "en", "split": "test", "caption": " Two. "},
    {"image": "a.jpg", "lang": "de", "split": "test", "caption": "Eins."},
    {"image": "b.jpg", "lang": "de", "split": "test", "caption": " "},
    {"image": "c.jpg", "lang": "en", "split": "train", "caption": "Three."},
]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_languages_and_splits_are_those_of_the_columns(tmp_path: Path, suffix: str) -> None:
    write_table(tmp_path, suffix, ROWS)
    write_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "no-row.jpg"])
    found = open_set("table", tmp_path, "test")
    assert list(found.captions) == ["de", "en"]
    assert pairs(found, "en") == [("a.jpg", "One."), ("b.jpg", "Two.")]
    assert pairs(found, "de") == [("a.jpg", "Eins.")]
    assert list(found.images) == ["a.jpg", "b.jpg"]
    assert (found.split, found.notes) == ("test", ())
    assert list(open_set("table", tmp_path, "test", ["de"]).captions) == ["de"]
    assert list(open_set("table", tmp_path, "train").images) == ["c.jpg"]
    with pytest.raises(CorpusError, match="has 2 splits, and none is chosen: test, train") as caught:
        open_set("table", tmp_path)
    assert caught.value.hint.startswith("--split chooses one.")
    with pytest.raises(CorpusError, match="has no split 'dev'; it has test, train"):
        open_set("table", tmp_path, "dev")
    with pytest.raises(CorpusError, match="has no captions in 'fr'; it has de, en"):
        open_set("table", tmp_path, "test", ["fr"])


def test_the_only_split_needs_no_name_and_none_is_all(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg", "b.jpg"])
    write_table(tmp_path, "csv", ROWS[:2])
    assert open_set("table", tmp_path).split == "test"
    write_table(tmp_path, "csv", [{"image": "a.jpg", "caption": "One."}])
    assert open_set("table", tmp_path).split == "all"
    assert list(open_set("table", tmp_path, langs=["cs"]).captions) == ["cs"]
    with pytest.raises(CorpusError, match="has no split 'test'; it has rows without split"):
        open_set("table", tmp_path, "test")
    write_table(tmp_path, "csv", [*ROWS[:1], {**ROWS[1], "split": ""}])
    with pytest.raises(CorpusError, match="has 2 splits, and none is chosen: rows without split, test"):
        open_set("table", tmp_path)


def test_captions_keep_their_own_ids(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.jpg", "2.jpg"])
    rows = [{"image_id": n, "caption_id": 10 * n + m, "caption": f"{n} {m}"} for n in (1, 2) for m in (0, 1)]
    write_table(tmp_path, "parquet", rows)
    found = open_set("table", tmp_path)
    assert found.captions["en"].caption_ids == ["10", "11", "20", "21"]
    assert found.captions["en"].image_ids == ["1.jpg", "1.jpg", "2.jpg", "2.jpg"]
    write_table(tmp_path, "parquet", [*rows, rows[2]])
    with pytest.raises(CorpusError, match="has 2 captions with id '20'"):
        open_set("table", tmp_path)
    write_table(tmp_path, "parquet", [*rows, {"image_id": 2, "caption_id": None, "caption": "No id."}])
    with pytest.raises(CorpusError, match="row 5, has 1 captions for the caption_id ''"):
        open_set("table", tmp_path)


def test_a_cell_of_several_captions_is_several_captions(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg", "b.jpg"])
    rows: list[dict[str, Any]] = [{"image": "a", "caption": ["One.", "", "Two."]}, {"image": "b", "caption": []}]
    for suffix in ("jsonl", "parquet"):
        path = write_table(tmp_path, suffix, rows)
        found = open_set("table", tmp_path)
        assert pairs(found) == [("a.jpg", "One."), ("a.jpg", "Two.")]
        assert list(found.images) == ["a.jpg", "b.jpg"]
        assert found.notes == ("1 of 2 images have no caption: text retrieval counts them as missed.",)
        path.unlink()
    write_table(tmp_path, "jsonl", [{"image": "a", "caption": ["One.", "Two."], "caption_id": "1"}])
    with pytest.raises(CorpusError, match="row 1, has 2 captions for the caption_id '1'"):
        open_set("table", tmp_path)


def test_images_are_in_the_root_or_in_one_of_its_folders(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg", "photos/a.jpg", "photos/deep/b.jpg", "photos/c.jpg", "other/c.jpg", "c.gif"])
    write_table(tmp_path, "csv", [{"image": n, "caption": n} for n in ("a.jpg", "deep/b", "photos/deep/b.jpg")])
    found = open_set("table", tmp_path)
    assert list(found.images) == ["a.jpg", "photos/deep/b.jpg"]
    assert pairs(found)[1:] == [("photos/deep/b.jpg", "deep/b"), ("photos/deep/b.jpg", "photos/deep/b.jpg")]
    write_table(tmp_path, "csv", [{"image": "c.jpg", "caption": "Which?"}])
    with pytest.raises(CorpusError, match=r"Image 'c\.jpg' may be other/c\.jpg or photos/c\.jpg"):
        open_set("table", tmp_path)


def test_broken_tables_are_reported(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    for rows, words in (
        ([{"image": "a.jpg", "text": "One."}], "row 1, has no column 'caption'; it has image, text"),
        ([{"picture": "a.jpg", "caption": "One."}], "row 1, has no image: columns image and image_id are both"),
        ([{"image": "a.jpg", "caption": " "}], "has no captions"),
        (
            [{"image": n, "caption": "One."} for n in ("a", "b", "c", "c")],
            r"2 of 3 images with captions are in none of the images in .*, such as b\.$",
        ),
    ):
        write_table(tmp_path, "csv", rows)
        with pytest.raises(CorpusError, match=words):
            open_set("table", tmp_path)
    (tmp_path / "captions.csv").write_text("image,caption\n")
    with pytest.raises(CorpusError, match=r"captions\.csv has no rows"):
        open_set("table", tmp_path)
    (tmp_path / "captions.csv").write_bytes("image,caption\na.jpg,Café\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"captions\.csv cannot be read as captions: line 2 is not UTF-8"):
        open_set("table", tmp_path)
    write_table(tmp_path, "tsv.gz", [{"image": "a.jpg", "caption": "One."}])
    with pytest.raises(
        CorpusError, match=r"must contain one captions\..*; it contains captions\.csv, captions\.tsv\.gz"
    ):
        open_set("table", tmp_path)
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(CorpusError, match=r"There are no images in"):
        open_set("table", tmp_path)


def test_the_command_measures_a_users_own_table(tmp_path: Path, run_cli: RunCli, tiny_model: Path) -> None:
    names = [f"{n}.jpg" for n in range(8)]
    write_images(tmp_path / "photos", names)
    rows = [{"image": n, "lang": lang, "caption": f"{lang} {n}"} for n in names for lang in ("en", "de")]
    write_table(tmp_path, "csv", rows)
    done = run_cli("bench", "retrieval", "table", "--root", ".", "--model", f"dir:{tiny_model}", "--no-cache", "--json")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["dataset"], row["language"], row["captions"], row["images"]) for row in found] == [
        ("table", "de", 8, 8),
        ("table", "en", 8, 8),
    ]
    (tmp_path / "photos" / "3.jpg").unlink()
    done = run_cli("bench", "retrieval", "table", "--root", ".", "--model", f"dir:{tiny_model}")
    assert done.returncode != 0
    assert "1 of 8 images with captions are in none of the images in" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
