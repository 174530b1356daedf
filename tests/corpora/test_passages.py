"""Texts are cut into passages that an encoder reads as a whole."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search import Item
from llm2clip_search.corpora.passages import Passages, char_range, cut_item, with_range
from tests.support.encoders import ColourEncoder


class ByteEncoder(ColourEncoder):
    """Counts bytes, as tokens of a language that its tokenizer does not know; says how much it has counted."""

    counted = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.counted += sum(map(len, texts))
        return [2 + len(text.encode()) for text in texts]


TEXTS = st.lists(
    st.sampled_from(
        [
            "a",
            "bb ",
            "word ",
            "End. ",
            "Why?\n",
            "\n\n",
            "\n# Head\n\n",
            "你好",
            "世界。",
            " " * 40,
            "x" * 60,
            "\U0001f415",
        ]
    ),
    max_size=80,
).map("".join)
ENCODERS = st.sampled_from([ColourEncoder, ByteEncoder])


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, kind=ENCODERS)
def test_passages_hold_the_whole_text_and_each_fits(text: str, kind: type[ColourEncoder]) -> None:
    encoder = kind()
    spans = Passages(encoder).cut(text)
    passages = [text[start:end] for start, end in spans]
    assert all(each and each == each.strip() for each in passages)
    assert all(tokens <= encoder.max_tokens for tokens in encoder.count_tokens(passages))
    assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    assert not "".join(letter for place, letter in enumerate(text) if place not in covered).strip()
    # What is far longer than that many tokens can be is not counted.
    if len(text) <= 100 and encoder.count_tokens([text.strip()])[0] <= encoder.max_tokens:
        assert len(spans) <= 1


def words(first: int, count: int) -> str:
    return " ".join(f"word{number}" for number in range(first, first + count))


def passages_of(text: str) -> list[str]:
    return [text[start:end] for start, end in Passages(ColourEncoder()).cut(text)]


def test_sentences_stay_whole_and_the_last_one_is_repeated() -> None:
    sentences = [f"Sentence {words(10 * number, 3)}." for number in range(20)]
    found = passages_of(" ".join(sentences))
    assert len(found) > 3
    whole = [each.strip() + "." for passage in found for each in passage.removesuffix(".").split(".")]
    assert set(whole) == set(sentences)
    for one, two in pairwise(found):
        assert one.endswith(two[: two.index(".") + 1])


def test_long_sentences_are_cut_between_words_and_overlap() -> None:
    found = passages_of(words(0, 200))
    assert all(each.split()[0].startswith("word") for each in found)
    for one, two in pairwise(found):
        assert 1 <= len(set(one.split()) & set(two.split())) <= 8
    lengths = [len(each.split()) for each in found]
    assert max(lengths) - min(lengths) <= 6  # no short one at the end


def test_languages_without_spaces() -> None:
    text = "狗在跑。猫睡了。" * 20
    spans = Passages(ByteEncoder()).cut(text)
    assert len(spans) > 10
    assert all(text[end - 1] == "。" for _, end in spans)


def test_headings_begin_passages_and_short_paragraphs_go_together() -> None:
    text = f"# One\n\nshort a\n\nshort b\n\n## Two\n\n{words(0, 15)}\n\n## Three\n\nshort c"
    assert passages_of(text) == [
        "# One\n\nshort a\n\nshort b",
        f"## Two\n\n{words(0, 15)}",
        "## Three\n\nshort c",
    ]


def test_a_change_leaves_other_passages_as_they_are() -> None:
    paragraphs = [words(100 * number, 14) for number in range(12)]
    before = set(passages_of("\n\n".join(paragraphs)))
    paragraphs[3] = f"another beginning {paragraphs[3]}"
    after = set(passages_of("\n\n".join(paragraphs)))
    assert len(before) == len(after) == 12
    assert len(after - before) == 1


@pytest.mark.parametrize(
    "text", ["x" * 200_000, "wort " * 40_000, "A sentence. " * 16_000, "a\n" * 100_000, " " * 200_000]
)
def test_a_text_is_counted_about_twice(text: str) -> None:
    encoder = ByteEncoder()
    Passages(encoder).cut(text)
    assert encoder.counted < 6 * len(text)


@given(
    st.text(alphabet="a/#&.=", max_size=12).filter(lambda uri: not uri.endswith("#")), st.integers(0), st.integers(0)
)
def test_ranges_in_uris(uri: str, start: int, end: int) -> None:
    assert char_range(with_range(uri, start, end)) == (uri, (start, end))


def test_items_are_cut_with_their_columns() -> None:
    text = words(0, 60)
    columns = {"licence": "cc"}
    item = Item(uri="t.csv#row=3&column=text", version="v", data=text.encode(), columns=columns, described="d")
    found = list(cut_item(item, Passages(ColourEncoder())))
    assert len(found) > 2
    for part in found:
        uri, span = char_range(part.uri)
        assert uri == item.uri
        assert span is not None
        assert (part.data, part.size) == (text[slice(*span)].encode(), span[1] - span[0])
        assert (part.version, part.columns, part.described) == ("v", columns, "d")
    [whole] = cut_item(Item(uri="t.csv#row=3", data=b"a dog"), Passages(ColourEncoder()))
    assert whole.uri == "t.csv#row=3"
    [damaged] = cut_item(Item(uri="t.csv#row=3", data=b"\xff" * 90), Passages(ColourEncoder()))
    assert damaged.data == b"\xff" * 90
