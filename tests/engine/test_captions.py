"""Captions that look equal are equal; what carries a meaning stays."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.engine.captions import clean_caption
from llm2clip_search.engine.query import compose_query
from llm2clip_search.errors import QueryError

PLAIN = "a café by the sea"
UNSEEN = ["\u200b", "\ufeff", "\u2060", "\u00ad", "\u200e", "\u202e", "\u2066"]
SPACES = [" ", "\u00a0", "\r\n", "\n", "\t", "\u3000", "\u2028", "\u202f", "\x85", "\x00", "\x1b"]


@given(st.lists(st.sampled_from(UNSEEN)), st.lists(st.sampled_from(SPACES)), st.booleans())
def test_what_cannot_be_seen_changes_nothing(unseen: list[str], spaces: list[str], apart: bool) -> None:
    noise = "".join(unseen)
    words = PLAIN.replace("by", f"b{noise}y").replace(" ", "".join([*spaces, " "]))
    typed = f"{''.join(spaces)}{noise}{words}{noise}{''.join(spaces)}"
    assert clean_caption(unicodedata.normalize("NFD", typed) if apart else typed) == PLAIN


@given(st.text())
def test_a_clean_caption_is_clean(text: str) -> None:
    once = clean_caption(text)
    assert clean_caption(once) == once
    assert not set(once) & {*UNSEEN, *SPACES[1:]}


@pytest.mark.parametrize("text", ["👩‍👩‍👧 at the sea", "نامه‌ای", "क्‍ष", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "-20 °C"])
def test_joiners_and_selectors_stay(text: str) -> None:
    assert clean_caption(text) == text


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\ufeff\u2060 \u00a0", "\u00ad", "\u200d", "\u200c \ufe0f"])
def test_nothing_to_see_is_an_empty_query(text: str) -> None:
    assert clean_caption(text) == ""
    with pytest.raises(QueryError, match="The query is empty"):
        compose_query([text])


def test_every_caption_of_a_query_is_cleaned() -> None:
    query = compose_query(["a\u00a0dog ", "\u200ba cat"], fuse="max", add=["at\u200b night^0.5\n"], sub=["\ufeffrain"])
    assert [term.value for term in (*query.alternatives, *query.terms)] == ["a dog", "a cat", "at night", "rain"]
    assert [term.weight for term in query.terms] == [0.5, -1.0]


def test_paths_are_no_captions() -> None:
    [term] = compose_query([], image="a\u00a0b .png").terms
    assert term.value == "a\u00a0b .png"
