"""Names of the columns that sources bring along, and marks of their values."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.cli.hits import LABELS
from llm2clip_search.corpora.columns import digest, source_columns
from llm2clip_search.engine import Hit
from llm2clip_search.engine.form import PLACE
from llm2clip_search.store import METADATA_SCHEMA

VALUES = st.dictionaries(st.text(), st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))


def test_every_column_of_the_index_is_filled_on_purpose_or_kept_apart() -> None:
    welcome = {"caption", "rating", "keywords", "taken", "camera", "latitude", "longitude"}
    hit = Hit(rank=1, id=0, score=0.0, probability=0.5, uri="/a.jpg", metadata={}, index="i", duplicates=()).to_dict()
    for name in (*METADATA_SCHEMA.names, *hit, *LABELS, PLACE, "mtime"):
        expected = name if name in welcome else f"source_{name}"
        assert list(source_columns({name: 1, name.upper(): 1})) == (
            [name] if name in welcome else [expected, f"source_{name.upper()}"]
        )


@given(VALUES)
def test_arrow_can_store_any_name(values: dict[str, object]) -> None:
    names = list(source_columns({**values, "\ud800": 1, "a\ud800": 2}))
    assert {"\\ud800", "a\\ud800"} <= set(names)
    pa.table({name: pa.nulls(1) for name in names})


def test_wanted_columns_are_named_as_in_the_source() -> None:
    values = {"width": 3, "caption": "a dog", "license": None, "url": "u"}
    assert source_columns(values, ("width", "license", "missing")) == {"source_width": 3}
    assert source_columns(values, ()) == {}


@given(VALUES, st.randoms())
def test_a_digest_depends_on_values_and_not_on_their_order(values: dict[str, object], random: object) -> None:
    names = list(values)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert digest({name: values[name] for name in names}) == digest(values)
    assert digest({**values, "more": [values]}) != digest(values)
    assert len(digest(values)) == 16
