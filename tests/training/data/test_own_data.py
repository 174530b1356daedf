"""Own data: every layout gives the same splits, and whatever is wrong with a source is counted or said."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2clip_search.base.progress import no_progress
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.image_set import open_images
from llm2clip_search.training.data.own_data import (
    OwnSplits,
    listing_of,
    read_own_data,
    read_summary,
    write_own_data,
)
from llm2clip_search.training.data.own_recipe import EvaluationSource, OwnData, OwnSource
from tests.support import own_data
from tests.support.corpus import jpeg, write_csv
from tests.support.own_data import CAPTIONS, folder_with_texts
from tests.support.tables import write_arrow


def read(folder: Path, *sources: OwnSource, evaluation: tuple[EvaluationSource, ...] = (), **data: object) -> OwnSplits:
    recipe = OwnData(train=sources, **data)  # type: ignore[arg-type]
    return read_own_data(recipe, evaluation, folder=folder, progress=no_progress)


def reasons(found: OwnSplits) -> dict[str, int]:
    of_splits = {f"{name} {what}" for name in found.splits for what in ("images", "captions")}
    return {name: count for name, count in found.counts().items() if name not in of_splits}


def test_every_layout_gives_the_same_splits(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "texts")
    own_data.folder_and_table(tmp_path / "folders", tmp_path / "rows.csv")
    own_data.table_of_paths(tmp_path / "lists" / "list.tsv", tmp_path / "lists" / "images")
    own_data.shard(tmp_path / "shard-000.tar")
    own_data.parquet(tmp_path / "set.parquet")
    sources = [
        OwnSource(source="texts"),
        OwnSource(source="folders", captions="rows.csv", split="train"),
        OwnSource(source="lists/list.tsv"),
        OwnSource(source="shard-*.tar"),
        OwnSource(source="set.parquet"),
    ]
    found = [read(tmp_path, source) for source in sources]
    assert len({each.digest for each in found}) == 1
    counts = found[0].counts()
    assert counts["train images"] + counts["val images"] == len(CAPTIONS)
    assert counts["train captions"] + counts["val captions"] == sum(map(len, CAPTIONS.values()))
    assert {lang for images in found[0].splits.values() for _, lang, _ in images.rows} == {"und"}


def test_sidecars_and_captions_in_files_count(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
        (tmp_path / f"{number}.xmp").write_text(
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
            f'<rdf:li xml:lang="x-default">thing {number}</rdf:li></rdf:Alt></dc:description></rdf:Description>'
            "</rdf:RDF></x:xmpmeta>"
        )
    found = read(tmp_path, OwnSource(source="."))
    assert sorted(text for images in found.splits.values() for _, _, text in images.rows) == [
        f"thing {number}" for number in range(5)
    ]


def test_what_is_written_is_read_as_images(tmp_path: Path) -> None:
    own_data.shard(tmp_path / "a.tar")
    found = read(tmp_path, OwnSource(source="a.tar", lang="en"))
    write_own_data(found, tmp_path / "out", "listing")
    images = open_images(tmp_path / "out", ("images.parquet#train",))
    assert list(images) == sorted(found.splits["train"].places)
    for image in images:
        assert hashlib.blake2b(images.read(image), digest_size=16).hexdigest() == image
    assert read_summary(tmp_path / "out")["counts"] == found.counts()
    rows = pq.read_table(tmp_path / "out" / "captions.parquet").to_pylist()
    assert {row["lang"] for row in rows} == {"en"}
    assert images.find("another") is None
    write_own_data(found, tmp_path / "again", "listing")
    for name in ("images.parquet", "captions.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_names_that_are_not_utf8_are_read_again(tmp_path: Path) -> None:
    for path in sorted(folder_with_texts(tmp_path / "a").iterdir()):
        path.rename(Path(os.fsdecode(os.fsencode(path.parent / "caf") + b"\xe9" + os.fsencode(path.name))))
    found = read(tmp_path, OwnSource(source="a"))
    write_own_data(found, tmp_path / "out", "")
    images = open_images(tmp_path / "out", ("images.parquet#train",))
    assert len(images) == 10
    for image in images:
        assert hashlib.blake2b(images.read(image), digest_size=16).hexdigest() == image
        assert "/a/caf\ufffdphoto-" in images.name(image)


def test_an_image_that_changed_or_vanished_is_said(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "a")
    write_own_data(read(tmp_path, OwnSource(source="a")), tmp_path / "out", "")
    images = open_images(tmp_path / "out", ("images.parquet#train",))
    for path in (tmp_path / "a").glob("*.jpg"):
        path.write_bytes(jpeg(99))
    with pytest.raises(CorpusError, match=r"photo-\d\d\.jpg has changed since the data was read"):
        images.read(next(iter(images)))
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(CorpusError, match=r"photo-\d\d\.jpg cannot be read any more: no such file"):
        images.read(next(iter(images)))


def test_the_split_depends_on_content_and_seed_alone(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "a")
    first = read(tmp_path, OwnSource(source="a"), val_share=0.5)
    assert len(first.splits["val"].places) == 6
    for number, path in enumerate(sorted((tmp_path / "a").glob("*.jpg"))):
        path.rename(tmp_path / "a" / f"{100 - number}.jpg")
        path.with_suffix(".txt").rename(tmp_path / "a" / f"{100 - number}.txt")
    assert read(tmp_path, OwnSource(source="a"), val_share=0.5).digest == first.digest
    assert read(tmp_path, OwnSource(source="a"), val_share=0.5, seed=1).digest != first.digest


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = folder_with_texts(tmp_path / "a")
    (folder / "broken.jpg").write_bytes(jpeg(50)[:200])
    (folder / "broken.txt").write_text("a broken picture")
    (folder / "nothing.jpg").write_bytes(jpeg(51))
    (folder / "ghost.txt").write_text("a picture that is not there")
    (folder / ".notes").mkdir()
    (folder / ".notes" / "hidden.txt").write_text("not a caption")
    (folder / "empty.jpg").write_bytes(jpeg(52))
    (folder / "empty.txt").write_text("\n")
    (folder / "copy.jpg").write_bytes(jpeg(0))
    (folder / "copy.txt").write_text("another caption of thing 0\n" + CAPTIONS[0][0])
    found = read(tmp_path, OwnSource(source="a"))
    assert reasons(found) == {
        "broken images": 1,
        "images without captions": 2,
        "text files without an image": 1,
        "copies of an image": 1,
        "repeated captions": 1,
    }
    (repeated,) = [row for row in found.left_out if row[0] == "repeated captions"]
    assert repeated[1:] in [  # whichever of both files was read first
        (f"{folder / 'copy.txt'}, line 2", CAPTIONS[0][0]),
        (f"{folder / 'photo-00.txt'}, line 1", CAPTIONS[0][0]),
    ]
    assert any(name.endswith("broken.jpg") and detail for _, name, detail in found.left_out)
    texts = [text for images in found.splits.values() for _, _, text in images.rows]
    assert len(texts) == sum(map(len, CAPTIONS.values())) + 1


def test_a_table_may_name_images_that_are_not_there(tmp_path: Path) -> None:
    table = own_data.folder_and_table(tmp_path / "a", tmp_path / "rows.csv")
    with table.open("a") as file:
        file.write("7/7.jpg,a picture that is missing,train\n1/1.jpg,,train\n")
    found = read(tmp_path, OwnSource(source="a", captions="rows.csv", split="train"))
    assert reasons(found) == {"captions without an image": 1, "empty captions": 1}
    assert ("captions without an image", f"{table}, row 20", "7/7.jpg") in found.left_out
    assert ("empty captions", f"{table}, row 21", str(tmp_path / "a" / "1" / "1.jpg")) in found.left_out


def test_every_line_of_a_table_has_its_own_columns(tmp_path: Path) -> None:
    """And 0 is a name of an image as good as 1."""
    rows: list[dict[str, object]] = [{"image_id": 0, "caption": "thing 0"}, {"image_id": 1, "captions": ["a", "b"]}]
    rows += [{"image_id": 2, "caption": "c", "caption_2": "d"}, {"image_id": 3, "text": "e"}, {"image_id": 3}]
    (tmp_path / "a").mkdir()
    for number in range(4):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path, OwnSource(source="a", captions="rows.jsonl"))
    texts = [text for images in found.splits.values() for _, _, text in images.rows]
    assert sorted(texts) == ["a", "b", "c", "d", "e", "thing 0"]
    assert found.left_out == [("empty captions", f"{tmp_path / 'rows.jsonl'}, row 5", str(tmp_path / "a" / "3.jpg"))]


def test_images_of_another_split_are_not_without_captions(tmp_path: Path) -> None:
    names = [path.name for path in sorted(folder_with_texts(tmp_path / "a").glob("*.jpg"))]
    for text in (tmp_path / "a").glob("*.txt"):
        text.unlink()
    rows = [{"image": each, "caption": each, "split": "train" if n < 6 else "val"} for n, each in enumerate(names[:10])]
    write_csv(tmp_path / "rows.csv", rows)
    sources = [OwnSource(source="a", captions="rows.csv", split=split) for split in ("train", "val")]
    found = read(tmp_path, sources[0], val=(sources[1],))
    assert reasons(found) == {"images without captions": 2}
    assert {Path(name).name for _, name, _ in found.left_out} == set(names[10:])


def test_captions_of_a_doubled_id_are_joined_and_repeated_ones_have_their_row(tmp_path: Path) -> None:
    """An image in several rows, by its name and by its stem."""
    for number in range(4):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number}.jpg").write_bytes(jpeg(number))
    rows = [(f"{number}.jpg", f"thing {number}") for number in range(4)]
    rows += [("2", "another caption of 2"), ("2", "thing 2"), ("3.jpg", " thing 3 "), ("3.jpg", "")]
    table = write_csv(tmp_path / "rows.csv", [{"image": image, "caption": text} for image, text in rows])
    found = read(tmp_path, OwnSource(source="a", captions="rows.csv"))
    assert sorted(found.left_out) == [
        ("empty captions", f"{table}, row 8", str(tmp_path / "a" / "3.jpg")),
        ("repeated captions", f"{table}, row 6", "thing 2"),
        ("repeated captions", f"{table}, row 7", "thing 3"),
    ]
    assert sum(len(images.rows) for images in found.splits.values()) == 5


def test_images_of_validation_are_never_trained_on(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "a")
    folder_with_texts(tmp_path / "b", {n: CAPTIONS[n] for n in (3, 4)})
    (tmp_path / "b" / "photo-03.jpg").rename(tmp_path / "b" / "renamed.jpg")
    (tmp_path / "b" / "photo-03.txt").rename(tmp_path / "b" / "renamed.txt")
    folder_with_texts(tmp_path / "c", {n: CAPTIONS[n] for n in (5, 6)})
    found = read(
        tmp_path,
        OwnSource(source="a"),
        val=(OwnSource(source="b"),),
        evaluation=(EvaluationSource(name="other", source="c"),),
    )
    assert reasons(found) == {"training images that are in val": 2, "training images that are in other": 2}
    train, val = (found.splits[name].places.keys() for name in ("train", "val"))
    assert len(train) == 8
    assert not train & val


def test_a_validation_set_that_is_the_training_set_is_refused(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "a")
    with pytest.raises(CorpusError, match=r"Too few images with captions are left of a for train: 0, and at least 2"):
        read(tmp_path, OwnSource(source="a"), val=(OwnSource(source="a"),))


def test_a_source_of_copies_adds_captions(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "a")
    folder_with_texts(tmp_path / "b", {n: [f"another caption of {n}"] for n in CAPTIONS})
    found = read(tmp_path, OwnSource(source="a", lang="en"), OwnSource(source="b", lang="de"))
    assert reasons(found) == {"copies of an image": len(CAPTIONS)}
    langs = [lang for images in found.splits.values() for _, lang, _ in images.rows]
    assert langs.count("de") == len(CAPTIONS)


def parquet_of_splits(path: Path) -> Path:
    """Images in a table, the last two of which are for validation."""
    rows = [{"image": jpeg(n), "caption": f"thing {n}", "split": "train" if n < 4 else "val"} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_split_of_a_table_with_images_is_what_is_used(tmp_path: Path) -> None:
    parquet_of_splits(tmp_path / "a.parquet")
    train = OwnSource(source="a.parquet", split="train")
    found = read(tmp_path, train, val_share=0.5)
    texts = sorted(text for images in found.splits.values() for _, _, text in images.rows)
    assert texts == [f"thing {n}" for n in range(4)]
    found = read(tmp_path, train, val=(OwnSource(source="a.parquet", split="val"),))
    assert found.counts() == {"train images": 4, "train captions": 4, "val images": 2, "val captions": 2}
    others = (EvaluationSource(name="others", source="a.parquet", split="val"),)
    assert "thing 5" in [text for _, _, text in read(tmp_path, train, evaluation=others).splits["others"].rows]


def test_a_split_of_a_source_that_has_none_is_refused(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "a")
    with pytest.raises(CorpusError, match=r"^a has no column 'split', so none of its images is of split 'train'\."):
        read(tmp_path, OwnSource(source="a", split="train"))
    parquet_of_splits(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"^a\.parquet has no images of split 'dev'; it has train, val\."):
        read(tmp_path, OwnSource(source="a.parquet", split="dev"))


@pytest.mark.parametrize("name", ["a.CSV", "a.TSV.GZ", "a.ndjson", "a.JSONL", "a.pq", "a.arrow", "a.feather"])
def test_every_table_that_names_images_gives_all_captions(name: str, tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "images")
    for text in (tmp_path / "images").glob("*.txt"):
        text.unlink()
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    rows = [{"path": f"images/{each}", "caption": f"{n} of {each}"} for each in names for n in range(3)]
    if name.endswith("pq"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    elif name.endswith(("arrow", "feather")):
        write_arrow(tmp_path / name, pa.Table.from_pylist(rows), stream=name.endswith("arrow"))
    elif name.casefold().endswith(("csv", "tsv.gz")):
        write_csv(tmp_path / name.casefold(), rows).rename(tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source in (OwnSource(source=name), OwnSource(source="images", captions=name)):
        found = read(tmp_path, source)
        texts = [text for images in found.splits.values() for _, _, text in images.rows]
        assert sorted(texts) == sorted(row["caption"] for row in rows)
        assert not found.left_out


def test_rows_that_a_list_elsewhere_has_for_an_image_again_are_counted(tmp_path: Path) -> None:
    """Such a list is not read as a table of captions."""
    rows = [f"{number}.jpg,{n} of {number}" for number in CAPTIONS for n in range(2)]
    files = {f"/lists/{number}.jpg": jpeg(number) for number in CAPTIONS}
    fsspec.filesystem("memory").pipe(files | {"/lists/own.csv": "\n".join(["path,caption", *rows]).encode()})
    found = read(tmp_path, OwnSource(source="memory://lists/own.csv"))
    assert reasons(found) == {"rows that name an image again": len(CAPTIONS)}
    assert "memory://lists/own.csv" in {name for _, name, _ in found.left_out}


def test_a_listing_changes_with_what_is_listed(tmp_path: Path) -> None:
    folder_with_texts(tmp_path / "a")
    data = OwnData(train=(OwnSource(source="a"),))
    first = listing_of(data, (), folder=tmp_path)
    assert listing_of(data, (), folder=tmp_path) == first
    (tmp_path / "a" / "photo-00.txt").write_text("another caption, longer than before")
    second = listing_of(data, (), folder=tmp_path)
    (tmp_path / "a" / "new.jpg").write_bytes(jpeg(77))
    assert len({first, second, listing_of(data, (), folder=tmp_path)}) == 3
    others = (replace(data, val_share=0.3), replace(data, seed=1), replace(data, near_duplicates=0.9))
    assert len({listing_of(each, (), folder=tmp_path) for each in (data, *others)}) == 4


def one_image(folder: Path) -> None:
    folder_with_texts(folder, {0: ["a thing"]})


def no_captions(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(0))


def no_images(folder: Path) -> None:
    folder.mkdir()


def only_broken_images(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no picture")


def latin_text(folder: Path) -> None:
    folder_with_texts(folder, {0: ["a"]})
    (folder / "photo-00.txt").write_bytes(b"a thing\ncaf\xe9\n")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (one_image, r"Too few images with captions are left of a for \w+: \d, and at least 2 are needed"),
        (no_captions, r"None of the 1 images of a, such as .*a\.jpg, has a caption"),
        (no_images, r"a has no images that can be read\."),
        (only_broken_images, r"a has no images that can be read, such as .*a\.jpg: broken images"),
        (latin_text, r"photo-00\.txt, line 2 is not UTF-8"),
    ],
)
def test_a_source_without_use_is_said(write: object, message: str, tmp_path: Path) -> None:
    write(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, OwnSource(source="a"))


@pytest.mark.parametrize(
    ("rows", "source", "message"),
    [
        ([{"image": "0.jpg", "label": "x"}], {}, r"rows\.csv, row 1, has no column with captions; it has image, label"),
        ([{"x": "0.jpg", "caption": "x"}], {}, r"rows\.csv, row 1, names no image; it has x, caption"),
        ([{"image": "", "caption": "x"}], {}, r"rows\.csv, row 1, names no image in column 'image'"),
        ([{"image": "0.jpg", "caption": "x"}], {"columns": ("text",)}, r"row 1, has no column 'text'; it has image"),
        ([{"image": "0.jpg", "caption": "x"}], {"image": "file"}, r"row 1, has no column 'file'"),
        ([{"image": "0.jpg", "caption": "x", "split": "a"}], {"split": "b"}, r"rows\.csv has no captions of split 'b'"),
        ([{"image": "9.jpg", "caption": "x"}], {}, r"row 1 names '9\.jpg', which is none of them"),
        ([{"image": "0.jpg", "caption": "x"}], {}, r"row 1 names '0\.jpg', but several images have that name"),
        ([{"image;caption": "0.jpg;x"}], {}, r"row 1, names no image; .* separated by semicolons"),
        ([{"image;caption": "0.jpg;x"}], {"columns": ("caption",)}, r"separated by semicolons"),
    ],
)
def test_a_table_that_does_not_fit_is_said_with_its_row(
    rows: list[dict[str, str]], source: dict[str, object], message: str, tmp_path: Path
) -> None:
    for number, name in enumerate(("x/0.jpg", "y/0.jpg", "y/1.jpg")):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(jpeg(number))
    write_csv(tmp_path / "rows.csv", rows)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, OwnSource(source="a", captions="rows.csv", **source))  # type: ignore[arg-type]


def test_a_missing_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere"):
        read(tmp_path, OwnSource(source="nowhere"))
    folder_with_texts(tmp_path / "a")
    (tmp_path / "commas.csv").write_text("image,caption\nphoto-00.jpg,a thing, on a table\n")
    with pytest.raises(
        CorpusError, match=r"row 1 has more values than there are columns; a text with a comma needs quotes"
    ):
        read(tmp_path, OwnSource(source="a", captions="commas.csv"))
    with pytest.raises(CorpusError, match=r"none\.csv cannot be read as captions: .*No such file"):
        read(tmp_path, OwnSource(source="a", captions="none.csv"))
