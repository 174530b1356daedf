"""Tables that hold images or texts: what their rows are, in every format and with everything that may be in a cell."""

import base64
import datetime
import gzip
import io
import json
import random
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2clip_search.corpora import Item
from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.table import TableContainer
from llm2clip_search.corpora.table_columns import kind_of_table
from llm2clip_search.errors import CorpusError, ImageError
from tests.support.tables import ElsewhereFiles, container, content, images, parts, schema, write_arrow, write_parquet


def image_structs(count: int) -> pa.Array:
    """A column as the library `datasets` writes it."""
    return pa.array([{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(images(count))])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow", "a.feather"])
def test_rows_are_images_and_are_read_again_by_their_address(tmp_path: Path, name: str) -> None:
    table = pa.table({"image": image_structs(10), "TEXT": [f"caption {n}" for n in range(10)], "n": range(10)})
    if name == "a.parquet":
        path = write_parquet(tmp_path / name, table, row_group_size=4)
    else:
        path = write_arrow(tmp_path / name, table, stream=name.startswith("stream"))
    items = parts(path)
    assert [item.data for item in items] == images(10)
    assert [item.uri for item in items] == [f"{path}#row={number}" for number in range(10)]
    assert items[7].columns == {"caption": "caption 7", "n": 7}
    assert {item.version for item in items} == {container(path).version}
    order = random.Random(0).sample(items, 10)
    assert [content(item) for item in order] == [item.data for item in order]
    assert len({item.described for item in items}) == 10


def test_a_table_of_many_columns_of_few_names(tmp_path: Path) -> None:
    """Looking for each among all of them, or for a free name from 2 on, took minutes for 20,000."""
    count = 3_000
    fields = [("image", pa.binary()), *(("x", pa.int8()) for _ in range(count))]
    table = pa.Table.from_arrays([pa.array(images(1)), *[pa.array([7], pa.int8())] * count], schema=pa.schema(fields))
    [item] = parts(write_parquet(tmp_path / "a.parquet", table))
    assert item.columns == {"x": 7, **{f"x_{number}": 7 for number in range(2, count + 1)}}


@pytest.mark.parametrize(
    "type_",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())],
    ids=["binary", "large", "view", "dictionary"],
)
def test_bytes_are_images_by_any_name(tmp_path: Path, type_: pa.DataType) -> None:
    plain = pa.array(images(3), pa.binary())
    column = plain.dictionary_encode() if pa.types.is_dictionary(type_) else plain.cast(type_)
    path = write_arrow(
        tmp_path / "a.arrow", pa.table({"x": column, "other": pa.array([b"\x80", b"", None])}), stream=True
    )
    assert [item.data for item in parts(path)] == images(3)
    assert schema(path) == {}


def test_several_image_columns_and_lists_have_addresses_of_their_own(tmp_path: Path) -> None:
    first, second, third = images(3)
    columns = {"before": pa.array([first, None]), "after, later": pa.array([second, third])}
    items = parts(write_parquet(tmp_path / "a.parquet", columns))
    assert [item.uri.partition("#")[2] for item in items] == [
        *("row=0&column=before", "row=0&column=after%2C%20later"),
        *("row=1&column=before", "row=1&column=after%2C%20later"),
    ]
    assert [item.data for item in items] == [first, second, None, third]
    assert [content(item) for item in items if item.data] == [first, second, third]
    lists = write_parquet(tmp_path / "b.parquet", {"images": pa.array([[first, second], [], None, [third]])})
    items = parts(lists)
    assert [item.uri.partition("#")[2] for item in items] == [
        *("row=0&item=0", "row=0&item=1", "row=1", "row=2", "row=3&item=0")
    ]
    assert [content(item) for item in items if item.data] == [first, second, third]
    assert [item.fault for item in items] == ["", "", "the row holds nothing", "the row holds nothing", ""]


def test_a_row_without_an_image_fails_by_itself(tmp_path: Path) -> None:
    good = images(1)[0]
    (tmp_path / "there.jpg").write_bytes(good)
    structs = [
        *({"bytes": good, "path": None}, {"bytes": None, "path": "there.jpg"}, {"bytes": None, "path": "missing.jpg"}),
        *({"bytes": None, "path": None}, None, {"bytes": b"", "path": "there.jpg"}),
    ]
    items = parts(write_parquet(tmp_path / "a.parquet", {"image": structs, "n": range(6)}))
    assert [item.data for item in items] == [good, good, None, None, None, None]
    assert [item.fault for item in items[2:]] == [
        f"No such file or directory: {tmp_path / 'missing.jpg'}",
        *["the row holds nothing"] * 3,
    ]
    assert content(items[1]) == good
    for item in items[2:]:
        with pytest.raises((OSError, ImageError)):
            content(item)


def test_texts_are_items_too_and_do_not_meet_the_images(tmp_path: Path) -> None:
    captions = [["a dog", "ein Hund"], ["a cat"], None]
    path = write_parquet(tmp_path / "a.parquet", {"image": image_structs(3), "captions": captions, "n": range(3)})
    items = parts(path, modality="text")
    assert [item.data for item in items] == [b"a dog", b"ein Hund", b"a cat", None]
    assert [content(item) for item in items[:3]] == [b"a dog", b"ein Hund", b"a cat"]
    assert not {item.uri for item in items} & {item.uri for item in parts(path)}
    assert items[0].columns == {"n": 0}


def test_numbers_are_texts_where_they_are_asked_for(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"year": [1999, 0, None], "box": [{"x": 1}] * 3})
    items = parts(path, modality="text", text="year")
    assert [item.data for item in items] == [b"1999", b"0", None]
    assert [content(item) for item in items[:2]] == [b"1999", b"0"]
    with pytest.raises(CorpusError, match=r"Column 'box' of .* which holds no texts"):
        parts(path, modality="text", text="box")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".ndjson.gz"])
def test_images_in_base64(tmp_path: Path, suffix: str) -> None:
    cells = [base64.b64encode(data).decode() for data in images(2)]
    cells[1] = f"data:image/jpeg;base64,{cells[1]}"
    path = tmp_path / f"a{suffix}"
    if ".csv" in suffix or ".tsv" in suffix:
        mark = "\t" if "tsv" in suffix else ","
        text = "".join(f"{one}{mark}{other}\n" for one, other in [("pixels", "n"), *((cell, "1") for cell in cells)])
        text = text.replace(cells[1], f'"{cells[1]}"')
    else:
        text = "\n".join(json.dumps({"pixels": cell, "n": 1}) for cell in cells)
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    assert kind_of_table(str(path)) == "table"
    items = parts(path)
    assert [item.data for item in items] == images(2)
    assert [content(item) for item in items] == images(2)


def test_types_are_kept_and_what_an_index_cannot_hold_is_left_out_or_made_text(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456)
    columns = {
        "image": pa.array(images(2)),
        "small": pa.array([1, None], pa.int8()),
        "large": pa.array([2**63, 1], pa.uint64()),
        "half": pa.array([0.5, None], pa.float16()),
        "when": pa.array([when, None], pa.timestamp("ns")),
        "zone": pa.array([when, None], pa.timestamp("ms", "Europe/Berlin")),
        "day": pa.array([when.date(), None]),
        "price": pa.array([Decimal("1.50"), None]),
        "label": pa.array(["a", "b"]).dictionary_encode(),
        "long": pa.array(["x", None], pa.large_string()),
        "tags": pa.array([["a", "b"], []]),
        "box": pa.array([{"x": 1}, None]),
        "boxes": pa.array([[{"x": 1}], None]),
        "nothing": pa.nulls(2),
        "hash": pa.array([b"\x00\x01", b"\x00"]),
        "width": pa.array([640, 480]),
        "Caption": pa.array(["a dog", None]),
    }
    path = write_parquet(tmp_path / "a.parquet", columns)
    assert schema(path) == {
        "small": pa.int8(),
        "large": pa.uint64(),
        "half": pa.float32(),
        "when": pa.timestamp("us"),
        "zone": pa.timestamp("ms", "Europe/Berlin"),
        "day": pa.date32(),
        "price": pa.decimal128(3, 2),
        "label": pa.string(),
        "long": pa.string(),
        "tags": pa.list_(pa.string()),
        "box": pa.string(),
        "boxes": pa.string(),
        "source_width": pa.int64(),
        "caption": pa.string(),
    }
    first, second = (item.columns for item in parts(path))
    assert first["when"] == when
    assert first["box"] == '{"x": 1}'
    assert first["price"] == Decimal("1.50")
    assert (first["large"], first["label"], first["caption"]) == (2**63, "a", "a dog")
    assert set(second) == {"large", "label", "tags", "source_width"}
    assert set(parts(path, columns=("day", "width"))[0].columns) == {"day", "source_width"}


def test_names_of_classes_replace_their_numbers(tmp_path: Path) -> None:
    noted = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": image_structs(3), "label": pa.array([1, 0, -1])})
    path = write_parquet(tmp_path / "a.parquet", table.replace_schema_metadata({"huggingface": json.dumps(noted)}))
    assert [item.columns.get("label") for item in parts(path)] == ["dog", "cat", None]
    assert schema(path) == {"label": pa.string()}


def test_extension_types_are_read_as_what_they_store(tmp_path: Path) -> None:
    class Picture(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.binary(), "tests.picture")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "Picture":
            return cls()

    column = pa.ExtensionArray.from_storage(Picture(), pa.array(images(2)))
    path = write_parquet(tmp_path / "a.parquet", pa.table({"image": column}))
    assert [item.data for item in parts(path)] == images(2)  # a type that is not registered
    pa.register_extension_type(Picture())
    try:
        assert [item.data for item in parts(path)] == images(2)
    finally:
        pa.unregister_extension_type("tests.picture")


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array([1, 2]), pa.array(images(2)), pa.array(["a", "b"]), pa.array(["c", "d"]), pa.array([5, 6])],
        names=["n", "image", "n", "", "N"],
    )
    for path in (
        write_parquet(tmp_path / "a.parquet", table),
        write_arrow(tmp_path / "a.arrow", table, stream=True),
    ):
        items = parts(path)
        assert [item.data for item in items] == images(2)
        assert items[1].columns == {"n": 2, "n_2": "b", "unnamed": "d", "N_2_2": 6}


def test_an_empty_table_has_no_items(tmp_path: Path) -> None:
    empty = pa.table({"image": pa.array([], pa.binary()), "n": pa.array([], pa.int64())})
    assert parts(write_parquet(tmp_path / "a.parquet", empty)) == []
    assert parts(write_arrow(tmp_path / "a.arrow", empty, stream=True)) == []
    (tmp_path / "a.csv").write_text("text\n")
    assert parts(tmp_path / "a.csv", modality="text") == []


def test_what_cannot_be_a_table_of_images_is_said(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"box": [{"x": 1}], "n": [1]})
    with pytest.raises(CorpusError, match=r"No column of .*a\.parquet holds images; it has box, n\."):
        parts(path)
    with pytest.raises(CorpusError, match=r"has no column 'pixels'; it has box, n\."):
        parts(path, image="pixels")
    with pytest.raises(CorpusError, match=r"Column 'box' .* has the type struct<x: int64>, which holds no images"):
        parts(path, image="box")
    with pytest.raises(CorpusError, match=r"has no column 'licence'"):
        parts(write_parquet(tmp_path / "b.parquet", {"image": images(1)}), columns=("licence",))
    two = write_parquet(tmp_path / "c.parquet", {"a": ["x"], "b": ["y"]})
    with pytest.raises(CorpusError, match=r"Which column of .* holds the texts cannot be told; it has a, b\."):
        parts(two, modality="text")
    assert [item.data for item in parts(two, modality="text", text="b")] == [b"y"]


def test_a_damaged_table_is_a_sentence_after_the_rows_before_the_damage(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array(images(60)), "n": range(60)})
    whole = write_parquet(tmp_path / "a.parquet", table, row_group_size=20, compression="none").read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole[:-100])
    with pytest.raises(CorpusError, match=r"cut\.parquet cannot be read as a table: Parquet magic bytes not found"):
        parts(cut)
    stream = write_arrow(tmp_path / "a.arrow", table, stream=True, rows=20).read_bytes()
    (tmp_path / "cut.arrow").write_bytes(stream[: len(stream) * 2 // 3])
    with pytest.raises(CorpusError, match=r"cut\.arrow cannot be read as a table"):
        parts(tmp_path / "cut.arrow")
    damaged = bytearray(whole)
    middle = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(2).column(0).data_page_offset
    damaged[middle : middle + 40] = bytes(40)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    items = TableContainer().parts(LocalFiles(), container(tmp_path / "damaged.parquet"), SourceOptions())
    found = list[bytes | None]()
    with pytest.raises(CorpusError, match=r"damaged\.parquet cannot be read as a table"):
        found.extend(item.data for item in items)
    assert found == images(60)[: len(found)]
    assert len(found) >= 32


def test_other_files_are_told_from_tables(tmp_path: Path) -> None:
    for name, data in (
        ("empty.parquet", b""),
        ("text.parquet", b"not a table at all, but some text that is long enough"),
        ("empty.arrow", b""),
        ("text.arrow", b"not a table at all, but some text that is long enough"),
        ("old.feather", b"FEA1" + bytes(100)),
        ("a.jsonl.gz", b"not gzip"),
        ("cut.csv.gz", bytes.fromhex("1f8b0800000000000003")),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorpusError, match=rf"{name}"):
            parts(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        list(TableContainer().parts(LocalFiles(), Item(uri=str(tmp_path / "no.parquet")), SourceOptions()))


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_table_is_said(tmp_path: Path, *, plaintext_footer: bool) -> None:
    import pyarrow.parquet.encryption as pe

    class Keys(pe.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key: bytes, master: str) -> bytes:
            return base64.b64encode(key)

    table, path = pa.table({"image": images(3)}), tmp_path / "secret.parquet"
    how = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["image"]}, plaintext_footer=plaintext_footer)
    factory = pe.CryptoFactory(lambda config: Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), how)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(CorpusError, match=r"secret\.parquet cannot be read as a table: .*[Dd]ecrypt"):
        parts(path)


def test_a_row_that_is_not_there_any_more_is_missing(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"image": images(4)})
    last = parts(path)[3]
    write_parquet(path, {"image": images(2)})
    with pytest.raises(FileNotFoundError, match="does not hold it any more"):
        content(last)
    write_parquet(path, {"n": range(9)})
    with pytest.raises(ImageError, match="No column"):
        content(last)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_elsewhere_is_read_in_ranges(tmp_path: Path, name: str) -> None:
    noise = random.Random(0)
    pixels = [{"bytes": data + noise.randbytes(100_000), "path": None} for data in images(40)]
    table = pa.table({"image": pa.array(pixels), "n": range(40)})
    path = (
        write_parquet(tmp_path / name, table, row_group_size=4)
        if name == "a.parquet"
        else write_arrow(tmp_path / name, table, stream=False)
    )
    files = ElsewhereFiles()
    items = list(TableContainer().parts(files, container(path), SourceOptions()))
    assert [item.data for item in items] == [each["bytes"] for each in pixels]
    before = files.count
    assert TableContainer().open(files, Item(uri=items[30].uri, version=items[30].version)) == items[30].data
    # The footer of Parquet says where row 30 is; of an Arrow file, all batches before have to be looked at.
    assert files.count - before < path.stat().st_size * (0.4 if name == "a.parquet" else 1.1)
