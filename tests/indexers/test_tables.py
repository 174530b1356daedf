"""Tables, lists and joined metadata through an index: what is embedded again, and what becomes of their columns."""

import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image
from PIL.ExifTags import Base

from llm2clip_search import CorpusError, open_index
from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.indexers import IndexConfig, IndexSummary, index_corpus, merge_indices, open_sources
from llm2clip_search.store import Snapshot, Writer
from llm2clip_search.store.compaction import compact
from tests.support.corpus import write_csv, write_tar
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph, png
from tests.support.packets import packet
from tests.support.tables import images, write_arrow, write_parquet


def run(source: Path, index: Path, encoder: ColourEncoder, **options: Any) -> IndexSummary:
    [corpus] = open_corpora([source], SourceOptions(**options))
    return index_corpus(corpus, encoder=encoder, index=index)


def rows(index: Path) -> dict[str, dict[str, Any]]:
    snapshot = Snapshot(index)
    found = [row for shard in snapshot.shards for row in snapshot.rows(shard.ids.tolist())]
    return {row["path"]: row for row in found}


def table(order: list[int]) -> pa.Table:
    pictures = images(60)
    return pa.table(
        {
            "image": pa.array([{"bytes": pictures[number], "path": None} for number in order]),
            "caption": [f"picture {number}" for number in order],
            "license": pa.array([None if number % 2 else "CC BY" for number in order]),
            "n": pa.array(order, pa.int16()),
            "id": pa.array(order),
        }
    )


def test_changed_moved_and_removed_rows_cost_ten_embeddings(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    path = write_parquet(tmp_path / "photos.parquet", table(list(range(50))), row_group_size=8)
    first = run(path, index, encoder)
    assert first.failures == []
    assert (first.indexed, encoder.embedded) == (50, 50)
    again = run(path, index, encoder)
    assert (again.indexed, again.unchanged, encoder.embedded) == (0, 50, 50)
    # ten changed, ten removed, and with that all behind them moved
    write_parquet(path, table([*range(50, 60), *range(20, 50)]), row_group_size=8)
    changed = run(path, index, encoder)
    assert (changed.indexed, changed.total, encoder.embedded) == (10, 40, 60)
    found = rows(index)
    assert found["photos.parquet#row=0"]["caption"] == "picture 50"
    assert found["photos.parquet#row=12"]["caption"] == "picture 22"
    assert found["photos.parquet#row=12"]["n"] == 22
    assert found["photos.parquet#row=12"]["source_id"] == 22


def test_a_renamed_table_costs_nothing(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    path = write_parquet(tmp_path / "photos.parquet", table(list(range(20))))
    run(path, index, encoder)
    before = {row["content_hash"]: row["id"] for row in rows(index).values()}
    moved = run(path.rename(tmp_path / "other.parquet"), index, encoder)
    assert (moved.indexed, moved.reused, moved.total, encoder.embedded) == (0, 20, 20, 20)
    assert {row["content_hash"]: row["id"] for row in rows(index).values()} == before


def test_new_captions_embed_nothing(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    whole = table(list(range(20)))
    path = write_parquet(tmp_path / "photos.parquet", whole)
    run(path, index, encoder)
    other = whole.set_column(1, "caption", pc.utf8_upper(whole.column("caption")))
    write_parquet(path, other)
    summary = run(path, index, encoder)
    assert (summary.indexed, summary.total, encoder.embedded) == (0, 20, 20)
    assert rows(index)["photos.parquet#row=7"]["caption"] == "PICTURE 7"


def test_a_table_of_texts_shares_an_index_with_its_images(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    path = write_parquet(tmp_path / "photos.parquet", table(list(range(12))))
    run(path, index, encoder)
    texts = run(path, index, encoder, modality="text", text="caption")
    assert texts.failures == []
    assert (texts.indexed, texts.total) == (12, 24)
    found = rows(index)
    row = next(row for row in found.values() if row["text"] == "picture 5")
    assert (row["modality"], row["n"]) == ("text", 5)
    assert run(path, index, encoder, modality="text", text="caption").unchanged == 12
    assert run(path, index, encoder).unchanged == 12


def test_a_list_follows_its_files(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    for number, data in enumerate(images(30)):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    listing = tmp_path / "list.csv"

    def write(numbers: Iterable[int], caption: str) -> None:
        write_csv(
            listing, [{"file": f"{number}.jpg", "TEXT": f"{caption} {number}", "n": number} for number in numbers]
        )

    write(range(25), "old")
    assert run(listing, index, encoder).indexed == 25
    write([*range(5, 25), *range(25, 30)], "new")  # five removed, five added, all captions changed
    (tmp_path / "7.jpg").unlink()
    (tmp_path / "8.jpg").rename(tmp_path / "8a.jpg")
    summary = run(listing, index, encoder)
    assert (summary.indexed, encoder.embedded) == (5, 30)
    assert summary.total == 23
    assert [Path(failure["path"]).name for failure in summary.failures] == ["7.jpg", "8.jpg"]
    found = rows(index)
    assert set(found) == {f"{number}.jpg" for number in range(5, 30) if number not in (7, 8)}
    assert found["9.jpg"]["caption"] == "new 9"
    assert run(listing, index, encoder).unchanged == 23


def test_metadata_joins_later_without_embedding_and_outlives_compaction(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, data in enumerate(images(20)):
        (photos / f"{number}.jpg").write_bytes(data)
    meta = write_csv(
        tmp_path / "meta.csv", [{"file_name": f"{n}.jpg", "n": n, "author": f"a{n % 3}"} for n in range(15)]
    )
    assert run(photos, index, encoder).indexed == 20
    joined = run(photos, index, encoder, metadata=str(meta), on="file_name")
    assert (joined.indexed, joined.redescribed, encoder.embedded) == (0, 20, 20)
    assert joined.skipped.reasons() == [f"items without a row in {meta}: 5"]
    assert (rows(index)["photos/4.jpg"]["author"], rows(index)["photos/17.jpg"]["author"]) == ("a1", None)
    assert run(photos, index, encoder, metadata=str(meta), on="file_name").redescribed == 0
    write_csv(meta, [{"file_name": f"{n}.jpg", "n": n, "author": "b" if n == 4 else f"a{n % 3}"} for n in range(14)])
    again = run(photos, index, encoder, metadata=str(meta), on="file_name")
    assert (again.redescribed, encoder.embedded) == (2, 20)  # number 4 has changed, number 14 has lost its row
    with Writer.open(index, model=encoder.identity, dim=encoder.dim) as writer:
        compact(writer, everything=True)
    merged = tmp_path / "merged"
    merge_indices(merged, [index])
    for folder in (index, merged):
        found = {Path(path).name: row for path, row in rows(folder).items()}
        assert (found["4.jpg"]["author"], found["4.jpg"]["n"]) == ("b", 4)
        assert found["14.jpg"]["author"] is None


def test_what_a_file_says_itself_stays_when_a_table_is_joined_and_dropped(tmp_path: Path) -> None:
    index, encoder, photos = tmp_path / "index", ColourEncoder(), tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        data = io.BytesIO()
        photograph(number).save(data, "JPEG", xmp=packet(rating=number, caption="own"))
        (photos / f"{number}.jpg").write_bytes(data.getvalue())
    write_tar(tmp_path / "a.tar", {"9.png": png(9), "9.txt": b"of the tar"})
    meta = write_csv(tmp_path / "meta.csv", [{"file_name": f"{n}.jpg", "caption": "table", "n": n} for n in range(2)])

    def described(**options: Any) -> dict[str, tuple[Any, ...]]:
        known = Snapshot(index) if index.exists() else None
        for corpus in open_sources([photos, tmp_path / "a.tar"], known, SourceOptions(**options), given=options):
            index_corpus(corpus, encoder=encoder, index=index)
        return {path: (row["rating"], row["caption"], row.get("n")) for path, row in rows(index).items()}

    before = described()
    names = ["photos/0.jpg", "photos/1.jpg", "photos/2.jpg", "a.tar#9.png"]
    assert [before[name] for name in names] == [
        (0, "own", None),
        (1, "own", None),
        (2, "own", None),
        (None, "of the tar", None),
    ]
    joined = {**before, names[0]: (0, "table", 0), names[1]: (1, "table", 1)}
    assert described(metadata=str(meta), on="file_name") == joined
    assert described() == joined  # as the last time
    meta.unlink()
    assert described(metadata="", on="") == before
    assert described() == before
    assert encoder.embedded == 4


def test_camera_and_place_of_a_table_go_with_it(tmp_path: Path) -> None:
    """They are no part of the picture: a copy does not have them, and without the table those of the file are back."""
    index, encoder, photos = tmp_path / "index", ColourEncoder(), tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[Base.Make] = "Fuji"
    for number in range(2):
        photograph(number).save(photos / f"{number}.jpg", exif=exif)
    place = [{"file_name": f"{number}.jpg", "camera": "Leica", "latitude": 52.5} for number in range(2)]
    meta = write_csv(tmp_path / "meta.csv", place)

    def run(**options: Any) -> dict[str, tuple[Any, ...]]:
        known = Snapshot(index) if index.exists() else None
        for corpus in open_sources([photos], known, SourceOptions(**options), given=options):
            index_corpus(corpus, encoder=encoder, index=index)
        return {path.removeprefix("photos/"): (row["camera"], row["latitude"]) for path, row in rows(index).items()}

    table, own = ("Leica", 52.5), ("Fuji", None)
    assert run(metadata=str(meta), on="file_name") == {"0.jpg": table, "1.jpg": table}
    shutil.copy(photos / "0.jpg", photos / "copy.jpg")
    assert run() == {"0.jpg": table, "1.jpg": table, "copy.jpg": own}
    write_csv(meta, [{"file_name": "0.jpg", "camera": "", "latitude": ""}, place[1]])
    assert run() == {"0.jpg": own, "1.jpg": table, "copy.jpg": own}
    assert run(metadata="", on="") == {"0.jpg": own, "1.jpg": own, "copy.jpg": own}
    assert encoder.embedded == 2


def test_a_column_that_neither_the_table_nor_the_source_has_is_told(tmp_path: Path) -> None:
    index, encoder, photos = tmp_path / "index", ColourEncoder(), tmp_path / "photos"
    photos.mkdir()
    (photos / "0.png").write_bytes(png(0))
    meta = write_csv(tmp_path / "meta.csv", [{"file_name": "0.png", "author": "a"}])
    asked = {"metadata": str(meta), "columns": ("author", "licence")}
    with pytest.raises(CorpusError, match=r"meta\.csv has no column 'licence'; it has file_name, author"):
        run(photos, index, encoder, **asked)
    (photos / "0.txt").write_text("no column either")
    listing = write_csv(tmp_path / "list.csv", [{"file": "photos/0.png", "licence": "CC0"}])
    assert run(listing, index, encoder, **asked).indexed == 1
    write_csv(listing, [{"file": "photos/0.png", "license": "CC0"}])
    with pytest.raises(CorpusError, match=r"list\.csv has no column 'licence'; it has file, license"):
        run(listing, index, encoder, **asked)
    table = write_parquet(tmp_path / "t.parquet", {"image": [png(1)], "license": ["CC0"]})
    assert "no column 'licence'" in run(table, index, encoder, **asked).failures[0]["reason"]
    write_tar(tmp_path / "a.tar", {"9.png": png(9), "9.json": b'{"licence": "CC0"}'})
    assert run(tmp_path / "a.tar", index, encoder, **asked).indexed == 1


def test_metadata_joins_the_rows_of_a_table(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    path = write_parquet(tmp_path / "photos.parquet", table(list(range(10))))
    meta = write_csv(tmp_path / "meta.csv", [{"path": f"photos.parquet#row={n}", "score": n / 2} for n in range(10)])
    run(path, index, encoder)
    joined = run(path, index, encoder, metadata=str(meta), on="path")
    assert (joined.indexed, joined.redescribed, encoder.embedded) == (0, 10, 10)
    row = rows(index)["photos.parquet#row=3"]
    assert (row["source_score"], row["caption"], row["n"]) == (1.5, "picture 3", 3)
    some = run(path, index, encoder, metadata=str(meta), on="path", columns=("caption", "score"))
    assert (some.redescribed, encoder.embedded) == (10, 10)
    row = rows(index)["photos.parquet#row=3"]
    assert (row["source_score"], row["caption"], row["n"]) == (1.5, "picture 3", None)


def test_columns_keep_their_type_over_the_commits_of_a_run(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    columns = {
        "image": images(20),
        "first": [None] * 15 + [0.5] * 5,  # nulls, then a fraction
        "second": pa.array([1] * 15 + [2**40] * 5, pa.int64()),
        "third": pa.array([None] * 20, pa.date32()),
        "tags": pa.array([[]] * 15 + [["a"]] * 5, pa.list_(pa.string())),
    }
    path = write_parquet(tmp_path / "photos.parquet", columns)
    [corpus] = open_corpora([path], SourceOptions())
    summary = index_corpus(corpus, encoder=encoder, index=index, config=IndexConfig(rows_per_commit=4, batch_size=2))
    assert (summary.indexed, summary.untyped) == (20, {})
    found = {column.name: column.type for column in Snapshot(index).manifest.columns}
    assert found.pop("tags").startswith("list<")
    assert found == {"first": "double", "second": "int64"}
    assert rows(index)["photos.parquet#row=19"]["second"] == 2**40


def test_names_that_differ_in_case_are_one_column(tmp_path: Path) -> None:
    """As in SQL, where only one of them could be asked for."""
    index, encoder = tmp_path / "index", ColourEncoder()
    for name, column in (("a", "Title"), ("b", "title"), ("c", "TITLE")):
        write_parquet(tmp_path / f"{name}.parquet", {"image": images(3)["abc".index(name) :][:1], column: [name]})
        run(tmp_path / f"{name}.parquet", index, encoder)
    for _ in range(2):
        assert [column.name for column in Snapshot(index).manifest.columns] == ["Title"]
        searcher = open_index(index, encoder=encoder)
        for value in "abc":
            [hit] = searcher.query("a picture", where=f"tiTle = '{value}'").hits
            assert hit.metadata["Title"] == value
        with Writer.open(index, model=encoder.identity, dim=encoder.dim) as writer:
            compact(writer, everything=True)


def test_other_options_read_a_table_that_is_unchanged(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    first, second = images(6)[:3], images(6)[3:]
    path = write_parquet(tmp_path / "photos.parquet", {"before": first, "after": second, "n": range(3), "m": range(3)})
    assert run(path, index, encoder).indexed == 6
    fewer = run(path, index, encoder, columns=("n",))
    assert (fewer.redescribed, encoder.embedded) == (6, 6)
    assert all(row["n"] is not None and row["m"] is None for row in rows(index).values())
    assert run(path, index, encoder, columns=("n",)).unchanged == 6
    one = run(path, index, encoder, columns=("n",), image="after")
    assert (one.total, one.removed, encoder.embedded) == (3, 3, 6)


def test_tables_among_other_files_are_read_on_demand(tmp_path: Path) -> None:
    index, encoder, folder = tmp_path / "index", ColourEncoder(), tmp_path / "mixed"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(images(9)[8])
    write_parquet(folder / "photos.parquet", table(list(range(8))))
    assert run(folder, index, encoder).indexed == 1
    assert run(folder, tmp_path / "other", encoder, kind="table").indexed == 8
    found = {column.name: column.type for column in Snapshot(tmp_path / "other").manifest.columns}
    assert found == {"license": "string", "n": "int16", "source_id": "int64"}


def test_a_cut_table_keeps_the_rows_behind_the_cut(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    whole = table(list(range(40))).drop_columns(["license", "n", "id"])
    path = write_arrow(tmp_path / "photos.arrow", whole, stream=True, rows=10)
    assert run(path, index, encoder).indexed == 40
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    cut = run(path, index, encoder)
    assert (cut.indexed, cut.total, len(cut.failures)) == (0, 40, 1)
    assert "cannot be read as a table" in cut.failures[0]["reason"]
    path.write_bytes(content)
    assert (run(path, index, encoder).total, encoder.embedded) == (40, 40)


def test_null_rows_are_failures_and_are_not_opened_again(tmp_path: Path) -> None:
    index, encoder = tmp_path / "index", ColourEncoder()
    path = write_parquet(tmp_path / "photos.parquet", {"image": [*images(3), None, b"not an image"]})
    summary = run(path, index, encoder)
    assert (summary.indexed, summary.failed) == (3, 2)
    assert [failure["reason"] for failure in summary.failures] == [
        "the row holds nothing",
        "not an image that Pillow can read",
    ]
    again = run(path, index, encoder)
    assert (again.unchanged, again.failed) == (3, 0)
    assert len(Snapshot(index).failures()) == 2
