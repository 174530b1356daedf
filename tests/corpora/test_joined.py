"""Joining a table of metadata to the items of any corpus."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm2clip_search.corpora import Corpus, FolderCorpus, Item, SourceOptions
from llm2clip_search.corpora.joined import JoinedCorpus
from llm2clip_search.corpora.metadata import MetadataTable
from llm2clip_search.corpora.named import NamedFiles
from llm2clip_search.errors import CorpusError
from tests.support.corpus import write_csv
from tests.support.tables import images, write_parquet


class Listed(Corpus):
    """Items of some URIs; a container's are listed up to an error."""

    def __init__(self, folder: str, *uris: str) -> None:
        self._folder, self._uris = folder, uris

    @property
    def uri(self) -> str:
        return self._folder

    def items(self) -> Iterator[Item]:
        return (Item(uri=uri, version="1", columns={"own": 1}, described="d") for uri in self._uris)

    def parts(self, container: Item) -> Iterator[Item]:
        assert container.version == "7"
        for number in range(20):
            yield Item(uri=f"{container.uri}#{number:06}.jpg", version=f"{number}@{container.version}")
        raise CorpusError("It is damaged.")

    def open(self, item: Item) -> bytes:
        return item.uri.encode()


def columns(corpus: Corpus) -> list[dict[str, Any]]:
    return [dict(item.columns) for item in corpus.items()]


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        (["a.jpg", "sub/b.jpg", "/photos/c.png"], "path"),
        (["./a.jpg", "/photos/sub/b.jpg", "c.png"], "path"),
        (["a.jpg", "b.jpg", "c.png"], "name"),
        (["a", "b", "c"], "stem"),
        (["a.b", "b", "c"], "stem"),
    ],
)
def test_rows_are_found_by_path_or_name_or_stem(tmp_path: Path, keys: list[str], rule: str) -> None:
    table = write_csv(tmp_path / "meta.csv", [{"photo": key, "n": number} for number, key in enumerate(keys)])
    items = ["/photos/a.jpg", "/photos/sub/b.jpg", "/photos/c.png", "/photos/d.jpg"]
    joined = JoinedCorpus(Listed("/photos", *items), str(table), "photo")
    assert MetadataTable(str(table), "photo").rule == rule
    found = columns(joined)
    assert found[1:] == [{"own": 1, "n": 1}, {"own": 1, "n": 2}, {"own": 1}]
    assert found[0] == ({"own": 1} if keys[0] == "a.b" else {"own": 1, "n": 0})
    assert joined.skipped().reasons() == [f"items without a row in {table}: {2 if keys[0] == 'a.b' else 1}"]
    schema = joined.schema()
    assert schema is not None
    assert schema.field("n").type == pa.int64()


def test_items_elsewhere_are_found_by_their_uri_or_below_their_prefix(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "meta.csv", [{"key": "s3://b/p/x.jpg", "n": 1}, {"key": "sub/y.jpg", "n": 2}])
    joined = JoinedCorpus(Listed("s3://b/p/", "s3://b/p/x.jpg", "s3://b/p/sub/y.jpg", "s3://b/z.jpg"), str(table))
    assert columns(joined) == [{"own": 1, "n": 1}, {"own": 1, "n": 2}, {"own": 1}]


def test_the_table_takes_the_place_of_the_corpuss_own_columns_and_of_nothing_else(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "meta.csv", [{"key": "a", "own": "x", "other": ""}])
    [item] = JoinedCorpus(Listed("/photos", "/photos/a.jpg"), str(table)).items()
    assert item.columns == {"own": "x"}
    assert JoinedCorpus(Listed("/"), str(table)).open(Item(uri="x")) == b"x"


def test_the_description_changes_with_the_values_alone(tmp_path: Path) -> None:
    def described(*rows: dict[str, Any]) -> list[str]:
        table = write_csv(tmp_path / "meta.csv", rows)
        return [item.described for item in JoinedCorpus(Listed("/p", "/p/a.jpg", "/p/b.jpg"), str(table)).items()]

    before = described({"key": "a", "n": 1}, {"key": "b", "n": 2})
    assert described({"key": "c", "n": 3}, {"key": "b", "n": 2}, {"key": "a", "n": 1}) == before
    changed = described({"key": "b", "n": 5}, {"key": "a", "n": 1})
    assert (changed[0], changed[1] != before[1]) == (before[0], True)
    lost = described({"key": "a", "n": 1})
    assert lost[1]
    assert lost[1] not in (before[1], changed[1])


def test_parts_are_found_by_their_names_or_by_that_of_their_container(tmp_path: Path) -> None:
    rows = [{"key": f"{number:06}", "n": number} for number in range(10)]
    table = write_csv(tmp_path / "meta.csv", [*rows, {"key": "shard", "n": 99}])
    corpus = JoinedCorpus(Listed("/data"), str(table), "key")
    found = list[Item]()
    with pytest.raises(CorpusError, match="damaged"):
        found.extend(corpus.parts(Item(uri="/data/shard.tar", version="7", is_container=True)))
    assert [part.columns["n"] for part in found] == [*range(10), *[99] * 10]  # those before the error count


def test_containers_are_opened_again_when_the_table_changes(tmp_path: Path) -> None:
    photos = write_parquet(tmp_path / "photos.parquet", {"image": images(3)})

    def listed(*rows: dict[str, Any]) -> tuple[Item, list[Item]]:
        table = write_csv(tmp_path / "meta.csv", rows)
        files = NamedFiles(str(tmp_path), [str(photos)], options=SourceOptions(kind="files"))
        corpus = JoinedCorpus(files, str(table), "key")
        [container] = corpus.items()
        return container, list(corpus.parts(container))

    container, parts = listed({"key": "photos", "n": 1})
    changed, new = listed({"key": "photos", "n": 22})
    assert changed.version != container.version
    assert [item.version for item in new] == [item.version for item in parts]
    assert [item.columns for item in new] == [{"n": 22}] * 3
    assert {item.described for item in new}.isdisjoint(item.described for item in parts)


def test_repeated_keys_are_counted_and_refused_if_they_differ(tmp_path: Path) -> None:
    rows = [{"key": "a.jpg", "n": 1, "when": None}, {"key": None, "n": 5, "when": None}]
    same = write_parquet(tmp_path / "same.parquet", pa.Table.from_pylist([*rows, rows[0], {"key": "b.jpg"}]))
    joined = JoinedCorpus(Listed("/p", "/p/a.jpg"), str(same), "key")
    assert columns(joined) == [{"own": 1, "n": 1}]
    assert joined.skipped().reasons() == [
        f"rows of {same} without key: 1",
        f"rows of {same} that repeat another one: 1",
    ]
    other = write_csv(tmp_path / "other.csv", [{"key": key, "n": n} for n, key in enumerate(["x", "a.jpg", "a.jpg"])])
    with pytest.raises(CorpusError, match=r"other\.csv has several rows for key = 'a\.jpg': rows 1 and 2, .* in n\."):
        MetadataTable(str(other), "key")


def test_a_table_that_cannot_be_joined_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no\.csv cannot be read: No such file"):
        MetadataTable(str(tmp_path / "no.csv"))
    table = write_csv(tmp_path / "meta.csv", [{"a": 1}])
    with pytest.raises(CorpusError, match=r"has no column 'key'; it has a\."):
        MetadataTable(str(table), "key")
    with pytest.raises(CorpusError, match=r"Which column of .* names the items cannot be told"):
        MetadataTable(str(table))
    (tmp_path / "empty.csv").write_text("key,n\n")
    assert MetadataTable(str(tmp_path / "empty.csv")).find([["a"], []]) == [None, None]
    (tmp_path / "ragged.csv").write_text("key,n\na,1\nb,2,3\n")
    joined = JoinedCorpus(Listed("/p", "/p/a.jpg"), str(tmp_path / "ragged.csv"))
    assert columns(joined) == [{"own": 1, "n": 1}]
    assert joined.skipped().notes[f"rows of {tmp_path / 'ragged.csv'} that cannot be read"] == 1


def test_a_table_of_keys_alone_has_no_columns(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "meta.csv", [{"key": "a"}])
    assert MetadataTable(str(table)).find([["a"], ["b"]]) == [{}, None]


def test_accents_are_compared_whichever_way_they_are_written(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "meta.csv", [{"key": unicodedata.normalize("NFC", "é.jpg"), "n": 1}])
    names = [f"/p/{unicodedata.normalize(form, 'é')}.jpg" for form in ("NFC", "NFD")]
    assert [found["n"] for found in columns(JoinedCorpus(Listed("/p", *names), str(table)))] == [1, 1]


def test_a_joined_folder_is_the_folder_in_all_else(tmp_path: Path) -> None:
    (tmp_path / "photos" / "empty").mkdir(parents=True)
    (tmp_path / "photos" / "a.jpg").write_bytes(images(1)[0])
    table = write_csv(tmp_path / "meta.csv", [{"key": "a.jpg", "n": 1}])
    folder = FolderCorpus(tmp_path / "photos", exclude="*.png", options=SourceOptions(metadata=str(table)))
    joined = JoinedCorpus(folder, str(table))
    [item] = joined.items()
    assert item.columns == {"n": 1}
    assert joined.open(item) == images(1)[0]
    for name in ("uri", "exclude", "everything", "options", "modality", "part_of", "is_partial"):
        assert getattr(joined, name) == getattr(folder, name)
    for name in ("unreadable", "vacant", "mounts", "looked_for"):
        assert getattr(joined, name)() == getattr(folder, name)()
    assert joined.vacant() == [str(tmp_path / "photos" / "empty")]


def test_hundreds_of_thousands_of_rows(tmp_path: Path) -> None:
    count = 200_000
    keys = [f"{number % 100:02}/{number:09}.jpg" for number in range(count)]
    table = write_parquet(tmp_path / "meta.parquet", {"path": keys, "caption": [f"caption {key}" for key in keys]})
    metadata = MetadataTable(str(table))
    before = pa.total_allocated_bytes()
    asked = [[keys[number]] for number in range(0, count, 997)]
    assert [found and found["caption"] for found in metadata.find(asked)] == [f"caption {key}" for [key] in asked]
    assert pa.total_allocated_bytes() - before < 1 << 20
