"""Long captions made from short ones."""

from llm2clip_search.corpora.captions import join_sentences
from llm2clip_search.training.data.caption_table import caption_id
from llm2clip_search.training.data.long_captions import LongCaptions, with_long_captions
from tests.support.corpus import caption_table

ROWS = [("a.jpg", f"A dog {n}") for n in range(5)] + [("b.jpg", "One cat."), ("c.jpg", "Ein Hund"), ("c.jpg", "Hund")]
TABLE = caption_table(ROWS, lang=["en"] * 6 + ["de"] * 2)


def test_sentences_end_with_one_full_stop() -> None:
    assert join_sentences(["A dog", "It runs.", "Where?", "\u72d7\u3002"]) == "A dog. It runs. Where? \u72d7\u3002"


def test_each_image_and_language_gets_a_long_caption_for_every_number() -> None:
    made = with_long_captions(TABLE, LongCaptions(parts=(2, 5, 9), langs=("en",)))
    assert made.slice(0, len(TABLE)) == TABLE
    long = made.slice(len(TABLE)).to_pylist()
    assert [row["length"] for row in long] == ["long"] * 3, "b has one caption, and German is not selected"
    assert {row["image_id"] for row in long} == {"a.jpg"}
    sentences = [row["caption"].rstrip(".").split(". ") for row in long]
    assert [len(parts) for parts in sentences] == [2, 5, 5]
    for parts, row in zip(sentences, long, strict=True):
        assert len(set(parts)) == len(parts)
        assert set(parts) <= {f"A dog {n}" for n in range(5)}
        assert row["caption_id"] == caption_id(row["caption"])


def test_long_captions_depend_only_on_the_seed() -> None:
    first, again, other = (with_long_captions(TABLE, LongCaptions(seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["caption"].to_pylist() != other["caption"].to_pylist()
