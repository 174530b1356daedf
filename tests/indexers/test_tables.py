"""Tables, lists and joined metadata through an index: what is embedded again, and what becomes of their columns."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.indexers import IndexSummary, index_corpus
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.tables import images, write_parquet


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
