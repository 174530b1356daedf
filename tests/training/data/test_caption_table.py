"""Reading caption files of every format, errors in them, and held-out benchmark splits."""

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.corpora.shards import expand_braces, find_files
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import (
    CAPTION_SCHEMA,
    EMPTY,
    REPEATED,
    CaptionColumn,
    CaptionSource,
    HeldOutSplit,
    caption_id,
    captions_of_images,
    held_out_photos,
    photo_key,
    read_caption_table,
    without_photos,
)
from llm2clip_search.training.data.recipe import DataRecipe
from llm2clip_search.training.data.training_captions import read_training_captions
from tests.support.corpus import write_csv, write_tar

ROWS = [
    {"image_id": "a.jpg", "split": "train", "lang": "en", "caption": "A dog, running."},
    {"image_id": "a.jpg", "split": "train", "lang": "de", "caption": "Ein Hund läuft."},
    {"image_id": "b.jpg", "split": "dev", "lang": "zh", "caption": "一只狗在跑。"},
]


def write_rows(path: Path) -> None:
    """Write `ROWS` in the format given by the path's suffix."""
    name = path.name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        write_csv(path, ROWS)
    elif name.endswith(".jsonl"):
        lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        write_tar(path, {f"./{n}.json": json.dumps(row).encode() for n, row in enumerate(ROWS)})


FORMATS = ["csv", "csv.gz", "tsv", "tsv.gz", "jsonl", "jsonl.gz", "parquet", "tar", "tar.gz"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path / f"captions.{suffix}")
    table, counts = read_caption_table(tmp_path, [CaptionSource(path=f"captions.{suffix}")])
    assert table.schema == CAPTION_SCHEMA
    assert table.select(["image_id", "lang", "caption"]).to_pylist() == [
        {key: row[key] for key in ("image_id", "lang", "caption")} for row in ROWS
    ]
    assert table["caption_id"].to_pylist() == [caption_id(row["caption"]) for row in ROWS]
    assert counts == {"empty": 0, "without a language": 0, "repeated": 0}


def test_rows_are_selected_by_split_and_language(tmp_path: Path) -> None:
    write_rows(tmp_path / "captions.csv")
    table, _ = read_caption_table(
        tmp_path,
        [
            CaptionSource(path="captions.csv", split="train", langs=("de", "zh")),
            CaptionSource(path="captions.csv", split="dev"),
        ],
    )
    assert table["lang"].to_pylist() == ["de", "zh"]
    assert table["source"].to_pylist() == [0, 1]


def test_captions_per_image_and_language_can_be_limited(tmp_path: Path) -> None:
    """The first ones are used; empty ones do not count."""
    rows = [("a", "en", "one"), ("a", "de", "eins"), ("a", "en", " "), ("b", "en", "two"), ("a", "en", "three")]
    rows += [("a", "en", "four"), ("a", "de", "zwei"), ("b", "en", "five")]
    write_csv(tmp_path / "c.csv", [{"image_id": i, "lang": lang, "caption": text} for i, lang, text in rows])
    table, counts = read_caption_table(tmp_path, [CaptionSource(path="c.csv", per_image=2)])
    assert table["caption"].to_pylist() == ["one", "eins", "two", "three", "zwei", "five"]
    assert counts["empty"] == 1
    first, _ = read_caption_table(tmp_path, [CaptionSource(path="c.csv", per_image=1)])
    assert first["caption"].to_pylist() == ["one", "eins", "two"]


def test_columns_define_language_and_length_and_may_contain_lists(tmp_path: Path) -> None:
    rows = [{"id": 7, "short": ["A dog.", "One dog."], "lang": "en", "long_de": "Ein Hund läuft durch den Schnee."}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    columns = (CaptionColumn(name="short"), CaptionColumn(name="long_de", lang="de", length="long"))
    table, _ = read_caption_table(tmp_path, [CaptionSource(path="c.parquet", image="id", columns=columns)])
    assert table.select(["image_id", "lang", "length"]).to_pylist() == [
        {"image_id": "7", "lang": "en", "length": "short"},
        {"image_id": "7", "lang": "en", "length": "short"},
        {"image_id": "7", "lang": "de", "length": "long"},
    ]


def test_webdataset_members_with_lists_are_keyed_by_their_names(tmp_path: Path) -> None:
    sample = {"captions": ["A dog.", "Un chien."], "image_id": 12}
    shard = {"000/07.jpg": b"not read", "000/07.json": json.dumps(sample).encode(), "000/08.txt": b"nor this"}
    write_tar(tmp_path / "s-00.tar", shard)
    write_tar(tmp_path / "s-01.tar", {"09.json": b'{"captions": ["A cat."]}'})
    columns = (CaptionColumn(name="captions"),)
    own, _ = read_caption_table(tmp_path, [CaptionSource(path="s-{00..01}.tar", columns=columns)])
    assert own["image_id"].to_pylist() == ["12", "12", "09"]
    keys, _ = read_caption_table(tmp_path, [CaptionSource(path="s-*.tar", image="__key__", columns=columns)])
    assert keys["image_id"].to_pylist() == ["000/07", "000/07", "09"]


def test_empty_captions_are_counted_and_skipped(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "caption": text} for text in ("A dog. ", "", " \t", None, ["", "A cat."], [])]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found: list[tuple[str, str, str]] = []
    source = CaptionSource(path="c.jsonl")
    table, counts = read_caption_table(tmp_path, [source], lambda *row: found.append(row))
    assert table["caption"].to_pylist() == ["A dog.", "A cat."]
    assert counts["empty"] == 4
    assert found == [(EMPTY, f"{tmp_path / 'c.jsonl'}, row {row}", "") for row in (2, 3, 4, 5)]


def test_captions_without_a_language_and_repeated_ones_are_counted(tmp_path: Path) -> None:
    """The former are taken as English. The latter are the same caption of a photograph twice, in one source."""
    rows = [
        ("a", "de", "Ein Hund."),
        ("a", "", "A dog."),
        ("a", "", "A dog."),
        ("b", "", "A dog."),
        ("a", "en", "A dog."),
    ]
    write_csv(tmp_path / "c.csv", [{"image_id": i, "lang": lang, "caption": text} for i, lang, text in rows])
    found: list[tuple[str, str, str]] = []
    table, counts = read_caption_table(tmp_path, [CaptionSource(path="c.csv")], lambda *row: found.append(row))
    assert table["lang"].to_pylist() == ["de", "en", "en", "en", "en"]
    assert found == [(REPEATED, f"{tmp_path / 'c.csv'}, row {row}", "A dog.") for row in (3, 5)]
    assert counts == {"empty": 0, "without a language": 3, "repeated": 2}
    _, counts = read_caption_table(tmp_path, [CaptionSource(path="c.csv", langs=("de",)), CaptionSource(path="c.csv")])
    assert counts == {"empty": 0, "without a language": 3, "repeated": 2}
    named = CaptionSource(path="c.csv", columns=(CaptionColumn(lang="fr"),))
    assert read_caption_table(tmp_path, [named])[1]["without a language"] == 0
    nothing_held_out = DataRecipe(captions=(), images=(), image_captions=())
    _, counts = read_training_captions((CaptionSource(path="c.csv"),), nothing_held_out, tmp_path)
    assert counts == {"captions": 5, "empty": 0, "without a language": 3, "repeated": 2, "held out": 0}


def test_each_row_of_text_without_images_counts_as_a_photograph(tmp_path: Path) -> None:
    for name in ("0", "1"):
        write_csv(tmp_path / f"{name}.csv", [{"query": f"What is {n}?", "positive": "A number."} for n in (1, 2)])
    columns = (CaptionColumn(name="query"), CaptionColumn(name="positive", length="long"))
    source = CaptionSource(path="{0,1}.csv", image="", columns=columns)
    table, _ = read_caption_table(tmp_path, [source, source])
    assert table["image_id"].null_count == len(table) == 16
    photos = table["photo"].to_pylist()
    assert photos[0::2] == photos[1::2]
    assert len(set(photos)) == 8, "over files and sources"
    assert table["length"].to_pylist() == ["short", "long"] * 8
    assert len(captions_of_images(table)) == 0


def test_negatives_are_marked_and_not_used_by_stage_2(tmp_path: Path) -> None:
    rows = [
        {"image_id": "a", "lang": "de", "caption": "Ein Hund.", "wrong": ["Eine Katze.", ""]},
        {"image_id": "b", "lang": "de", "caption": "Ein Ball.", "wrong": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    table, counts = read_caption_table(tmp_path, [CaptionSource(path="c.parquet", negatives="wrong")])
    assert table["caption"].to_pylist() == ["Ein Hund.", "Eine Katze.", "Ein Ball."]
    assert table["negative"].to_pylist() == [False, True, False]
    assert set(table["lang"].to_pylist()) == {"de"}
    assert counts["empty"] == 0, "a row without negatives lacks nothing"
    assert captions_of_images(table)["caption"].to_pylist() == ["Ein Hund.", "Ein Ball."]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("image_id,caption\na,A dog.\n", encoding="utf-8-sig")
    table, _ = read_caption_table(tmp_path, [CaptionSource(path="c.csv")])
    assert table["image_id"].to_pylist() == ["a"]


def damaged_tar(path: Path, cut: Callable[[bytes], bytes]) -> None:
    """Write two samples, then remove or change bytes."""
    write_tar(path, {f"{n}.json": b'{"caption": "A dog."}' for n in range(2)})
    path.write_bytes(cut(path.read_bytes()))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "c.txt": (lambda p: p.write_text("A dog."), r"c\.txt is not a caption file; known suffixes are \.csv, .*\.tar"),
    "c.parquet.gz": (lambda p: p.write_bytes(b""), r"is not a caption file.*except Parquet"),
    "column.csv": (
        lambda p: p.write_text("image,caption\na,A dog.\n"),
        r"column\.csv, row 1, has no column 'image_id'; it has image, caption\.",
    ),
    "later.jsonl": (
        lambda p: p.write_text('{"image_id": "a", "caption": "x"}\n{"image_id": "b", "text": "y"}'),
        r"later\.jsonl, row 2, has no column 'caption'; it has image_id, text\.",
    ),
    "zlib.csv.gz": (
        lambda p: p.write_bytes(gzip.compress(b"image_id,caption\n" * 999)[:30] + b"\xff" * 30),
        r"zlib\.csv\.gz cannot be read as captions: ",
    ),
    "cut.csv.gz": (lambda p: p.write_bytes(gzip.compress(b"image_id,caption\n")[:-9]), r"cannot be read as captions: "),
    "plain.csv.gz": (lambda p: p.write_text("image_id,caption\n"), r"cannot be read as captions: Not a gzipped file"),
    "latin.csv": (
        lambda p: p.write_bytes(b"image_id,caption\na,caf\xe9\n"),
        r"latin\.csv cannot be read as captions: line 2 is not UTF-8, it has the byte 0xe9; ",
    ),
    "later_latin.csv": (
        lambda p: p.write_bytes(b"image_id,caption\n" + b"a,A dog.\n" * 99 + b"b,\xfcber\n"),
        r"captions: line 101 is not UTF-8, it has the byte 0xfc; ",
    ),
    "latin.csv.gz": (
        lambda p: p.write_bytes(gzip.compress(b"image_id,caption\na,caf\xe9\n")),
        r"latin\.csv\.gz cannot be read as captions: line 2 is not UTF-8, it has the byte 0xe9; ",
    ),
    "latin.tar": (
        lambda p: write_tar(p, {"7.json": b'{"caption": "caf\xe9"}'}),
        r"latin\.tar cannot be read as captions: 7\.json is not JSON \('utf-8' codec",
    ),
    "semicolons.csv": (
        lambda p: p.write_text("image_id;caption\na;A dog.\n"),
        r"row 1, has no column 'caption'; its only column is 'image_id;caption', so it is separated by semicolons",
    ),
    "tabs.csv": (lambda p: p.write_text("image_id\tcaption\na\tA dog.\n"), r"so it is separated by tabs, but a \.csv"),
    "commas.tsv": (
        lambda p: p.write_text("image_id,caption\na,A dog.\n"),
        r"so it is separated by commas, but .*tabs\.",
    ),
    "quote.csv": (lambda p: p.write_text('image_id,caption\na,"A dog\nb,A cat\n'), r"captions: unexpected end of data"),
    "json.jsonl": (lambda p: p.write_text('{"image_id"'), r"captions: line 1 is not JSON \("),
    "list.jsonl": (lambda p: p.write_text("\n[1]"), r"captions: line 2 is not a JSON object\."),
    "bad.parquet": (lambda p: p.write_bytes(b"PAR1 and nothing else"), r"bad\.parquet cannot be read as captions: "),
    "empty.tar": (lambda p: p.write_bytes(b""), r"empty\.tar cannot be read as captions: "),
    "list.tar": (lambda p: write_tar(p, {"7.json": b"[1]"}), r"captions: 7\.json is not a JSON object\."),
    "cut.tar": (lambda p: damaged_tar(p, lambda data: data[:700]), r"captions: unexpected end of data"),
    "short.tar": (lambda p: damaged_tar(p, lambda data: data[:1024]), r"captions: it is damaged or cut off after '0"),
    "header.tar": (
        lambda p: damaged_tar(p, lambda data: data[:1024] + b"x" + data[1025:]),
        r"header\.tar cannot be read as captions: it is damaged or cut off after '0\.json'",
    ),
    "id.csv": (
        lambda p: p.write_text("image_id,caption\n,A dog.\n"),
        r"row 1, has '' in column 'image_id', which is not an image id\.",
    ),
    "none.jsonl": (
        lambda p: p.write_text('{"image_id": null, "caption": "x"}'),
        r"row 1, has None in column 'image_id', which is not an image id\.",
    ),
    "number.jsonl": (
        lambda p: p.write_text('{"image_id": "a", "caption": 640}'),
        r"row 1, has 640 in column 'caption', which is not a caption\.",
    ),
    "surrogate.jsonl": (
        lambda p: p.write_text('{"image_id": "a", "caption": "\\ud83d"}'),
        r"row 1, has '\\ud83d' in column 'caption', which is not a caption\.",
    ),
    "nothing.csv": (lambda p: p.write_text("image_id,caption\na,\n"), r"has no captions; 1 are empty\."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    write, message = BAD[name]
    write(tmp_path / name)
    with pytest.raises(CorpusError, match=message) as raised:
        read_caption_table(tmp_path, [CaptionSource(path=name)])
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_errors_name_what_a_source_lacks(tmp_path: Path) -> None:
    write_rows(tmp_path / "c.csv")
    with pytest.raises(CorpusError, match=r"c\.csv has no captions of split 'test' in en or de; 0 are empty"):
        read_caption_table(tmp_path, [CaptionSource(path="c.csv", split="test", langs=("en", "de"))])
    with pytest.raises(CorpusError, match=r"d-1\.csv does not exist\.$") as caught:
        read_caption_table(tmp_path, [CaptionSource(path="d-{1..2}.csv")])
    assert "--data names the folder" in caught.value.hint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1000268201_693b08cb0e.jpg", "1000268201.jpg"),
        ("667626_18933d713e.jpg", "667626.jpg"),
        ("flickr30k-images/1000268201.jpg", "1000268201"),
        ("images/36979_a954457f36.JPEG", "36979.jpg"),
        ("2354786160_b.jpg", "2354786160.jpg"),
    ],
)
def test_photographs_are_identified_by_flickrs_number(one: str, other: str) -> None:
    assert photo_key(one) == photo_key(other) != one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dogs/00001.jpg", "cats/00001.jpg"),
        ("dogs/10001.jpg", "cats/10001.jpg"),
        ("000000391895.jpg", "391895.jpg"),
        ("00000012", "12"),
        ("a/DSC12345678.jpg", "b/DSC12345678.jpg"),
    ],
)
def test_equal_names_in_different_folders_are_different_photographs(one: str, other: str) -> None:
    assert photo_key(one) != photo_key(other)


def test_held_out_photographs_are_removed_under_any_name(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "bench.csv",
        [{"image_id": "1000268201_693b08cb0e.jpg", "split": "dev"}, {"image_id": "36979.jpg", "split": "train"}],
    )
    rows = [{"image_id": name, "caption": "A dog."} for name in ("1000268201.jpg", "36979.jpg", "x.jpg")]
    write_csv(tmp_path / "c.csv", rows)
    captions, _ = read_caption_table(tmp_path, [CaptionSource(path="c.csv")])
    kept = without_photos(captions, held_out_photos(tmp_path, [HeldOutSplit(path="bench.csv", split="dev")]))
    assert kept["image_id"].to_pylist() == ["36979.jpg", "x.jpg"]
    assert without_photos(captions, set()) == captions


def test_holding_out_a_missing_split_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "c.csv")
    with pytest.raises(CorpusError, match=r"c\.csv has no split 'test' to hold out of training"):
        held_out_photos(tmp_path, [HeldOutSplit(path="c.csv", split="test")])
    with pytest.raises(CorpusError, match="has no column 'file'"):
        held_out_photos(tmp_path, [HeldOutSplit(path="c.csv", split="dev", image="file")])


def test_caption_ids_are_blake2b_of_the_utf8_bytes() -> None:
    """Caption stores contain them, so they must never change. The digests are those of ``b2sum -l 64``."""

    def hexadecimal(digest: str) -> int:
        return int.from_bytes(bytes.fromhex(digest), "little", signed=True)

    assert caption_id("A dog, running.") == hexadecimal("6c40804f3c90a227")
    assert caption_id("一只狗在跑。") == hexadecimal("ed472e31dffdb36c")


PATTERNS = ["s-{08..10}.tar", "{9..11}", "{00..3}", "{3..1}", "{a,b}{1..2}", "a{,b}c", "{x}", "{}", "{a..c", "}{1,2}"]


def test_braces_expand_as_in_bash() -> None:
    command = "set +B; printf '%s\\n' bash; set -B; " + "; ".join(f"echo {pattern}" for pattern in PATTERNS)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert [expand_braces(pattern) for pattern in PATTERNS] == [line.split() for line in done.stdout.splitlines()[1:]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab-.", max_size=3), st.lists(st.text("xy", max_size=2), min_size=2, max_size=3))))
def test_several_braces_give_all_combinations(parts: list[tuple[str, list[str]]]) -> None:
    parts = parts[:4]
    expected = [""]
    for before, choices in parts:
        expected = [head + before + choice for head in expected for choice in choices]
    assert expand_braces("".join(f"{before}{{{','.join(choices)}}}" for before, choices in parts)) == expected


@settings(deadline=None)
@given(st.integers(0, 120), st.integers(0, 120), st.integers(1, 4))
def test_ranges_count_up_or_down_and_keep_their_width(first: int, last: int, width: int) -> None:
    names = expand_braces(f"{{{first:0{width}}..{last:0{width}}}}")
    step = 1 if first <= last else -1
    assert [int(name) for name in names] == list(range(first, last + step, step))
    assert all(len(name) >= width for name in names)


def test_files_are_found_by_stars_also_with_absolute_paths(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "deep/c.csv"):
        write_csv(tmp_path / name, ROWS)
    assert [p.name for p in find_files(tmp_path, "*.csv")] == ["a.csv", "b.csv"]
    assert [p.name for p in find_files(Path("/elsewhere"), f"{tmp_path}/{{*,deep/*}}.csv")] == [
        "a.csv",
        "b.csv",
        "c.csv",
    ]
    assert find_files(Path("/elsewhere"), f"{tmp_path}/a.csv") == [tmp_path / "a.csv"]
    with pytest.raises(CorpusError, match=r"\*\.tar does not exist"):
        find_files(tmp_path, "{a.csv,*.tar}")
