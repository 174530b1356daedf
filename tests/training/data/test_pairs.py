"""The pairs that stage 1 draws, and which of their captions are not negatives."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.pairs import NO_PHOTOGRAPH, CaptionPairSampler, Instructions, PairBatch
from tests.support.corpus import caption_table

DOGS = [(f"{photo}.png", f"Caption {n} of {photo}.") for photo in "abcdef" for n in range(3)]


def pairs_of(
    captions: pa.Table,
    *,
    weights: Sequence[float] = (1.0,),
    langs: Mapping[str, float] | None = None,
    instructions: Instructions | None = None,
    joined: float = 0.0,
    seed: int = 0,
) -> CaptionPairSampler:
    return CaptionPairSampler(
        captions,
        source_weights=weights,
        lang_weights=langs or {},
        instructions=instructions or Instructions(),
        joined=joined,
        seed=seed,
    )


def same_by_definition(pairs: CaptionPairSampler, captions: pa.Table, batch: PairBatch) -> np.ndarray:
    """Two captions are not negatives if a photograph has both, or both were drawn for one photograph."""
    photos_of: dict[str, set[str]] = {}
    for row in captions.to_pylist():
        if not row["negative"]:
            photos_of.setdefault(row["caption"], set()).add(row["photo"])
    names = dict(zip(pairs.photo_of.tolist(), captions["photo"].to_pylist(), strict=True))
    query = [photos_of[text] | {names[p]} for text, p in zip(batch.queries, batch.query_photos.tolist(), strict=True)]
    item = [
        photos_of.get(text, set()) | ({names[p]} if p != NO_PHOTOGRAPH else set())
        for text, p in zip(batch.gallery, batch.gallery_photos.tolist(), strict=True)
    ]
    return np.array([[bool(q & i) for i in item] for q in query])


def test_a_batch_has_two_different_captions_of_each_photograph() -> None:
    batch = pairs_of(caption_table(DOGS)).draw(0, 4)
    assert len(set(batch.query_photos.tolist())) == len(batch.queries) == 4
    assert torch.equal(batch.query_photos, batch.gallery_photos)
    for query, positive in zip(batch.queries, batch.gallery, strict=True):
        assert query != positive
        assert query.split()[-1] == positive.split()[-1]
    assert torch.equal(batch.same_photograph(), torch.eye(4, dtype=torch.bool))


def test_joined_texts_consist_of_captions_of_one_photograph_and_none_is_in_both() -> None:
    captions = [(f"{photo}.png", f"Caption {n} of {photo}.") for photo in "abcdef" for n in range(5)]
    german = [(f"{photo}.png", f"Text {n} zu {photo}.") for photo in "abcdef" for n in range(2)]
    langs = ["en"] * len(captions) + ["de"] * len(german)
    pairs = pairs_of(caption_table([*captions, *german], lang=langs), joined=1.0)
    lengths: Counter[int] = Counter()
    for step in range(60):
        batch = pairs.draw(step, 6)
        assert torch.equal(batch.same_photograph(), torch.eye(6, dtype=torch.bool))
        for query, positive in zip(batch.queries, batch.gallery, strict=True):
            parts = [text.removesuffix(".").split(". ") for text in (query, positive)]
            assert len({part.split()[-1] for side in parts for part in side}) == 1
            assert not set(parts[0]) & set(parts[1])
            assert all(len(set(side)) == len(side) for side in parts)
            lengths.update(map(len, parts))
    assert set(lengths) == {1, 2, 3, 4, 5}


def test_captions_are_joined_as_often_as_asked() -> None:
    pairs = pairs_of(
        caption_table([(f"{p}.png", f"Caption {n} of {p}.") for p in range(40) for n in range(5)]), joined=0.25
    )
    joined = sum(any(text.count(".") > 1 for text in pairs.draw(step, 40).queries) for step in range(400))
    assert 70 <= joined <= 130, "100 are expected"


def test_draws_depend_only_on_seed_and_step() -> None:
    table = caption_table(DOGS)
    forwards = [pairs_of(table).draw(step, 3).queries for step in range(5)]
    again = pairs_of(table)
    assert [again.draw(step, 3).queries for step in reversed(range(5))] == forwards[::-1]
    assert len({tuple(queries) for queries in forwards}) == 5
    assert pairs_of(table, seed=1).draw(0, 3).queries != forwards[0]


def test_all_photographs_of_a_small_source_are_drawn() -> None:
    assert sorted(pairs_of(caption_table(DOGS)).draw(0, 100).query_photos.tolist()) == [0, 1, 2, 3, 4, 5]


def test_a_batch_comes_from_one_source_drawn_by_weight() -> None:
    sources = [0 if image < "c" else 1 if image < "e" else 2 for image, _ in DOGS]
    pairs = pairs_of(caption_table(DOGS, source=sources), weights=(3.0, 1.0, 0.0))
    assert len(pairs) == 6
    counts: Counter[int] = Counter()
    for step in range(400):
        drawn = {int(photo) // 2 for photo in pairs.draw(step, 2).query_photos}
        assert len(drawn) == 1
        counts[drawn.pop()] += 1
    assert counts[2] == 0
    assert 0.68 < counts[0] / 400 < 0.82


def test_a_photograph_of_two_sources_counts_once() -> None:
    rows = [(photo, f"{photo} {n}") for photo in "abc" for n in range(2)]
    again = [(photo, f"{photo} {n}") for photo in "bcd" for n in range(2, 4)]
    pairs = pairs_of(caption_table([*rows, *again], source=[0] * 6 + [1] * 6), weights=(1.0, 1.0))
    assert (len(pairs), pairs.repeated) == (4, 2)


def test_a_batch_has_one_language_for_queries_and_one_for_positives_by_weight() -> None:
    """Weights: English 2, German 1, Chinese 0; no photograph has two German captions: en-en 4, en-de 2, de-en 2."""
    rows = [(photo, f"{photo} {n}") for photo in "ab" for n in range(7)]
    pairs = pairs_of(caption_table(rows, lang=(["en"] * 5 + ["de", "zh"]) * 2), langs={"en": 2.0, "zh": 0.0})
    counts: Counter[tuple[str, str]] = Counter()
    for step in range(800):
        batch = pairs.draw(step, 2)
        langs = [{"56".find(text[-1]) + 1 for text in texts} for texts in (batch.queries, batch.gallery)]
        assert all(len(found) == 1 for found in langs)
        counts[tuple(("en", "de", "zh")[found.pop()] for found in langs)] += 1  # type: ignore[index]
    assert counts.keys() == {("en", "en"), ("en", "de"), ("de", "en")}
    assert 0.45 < counts["en", "en"] / 800 < 0.55
    assert 0.21 < counts["en", "de"] / 800 < 0.29


def test_only_photographs_with_the_drawn_languages_are_used() -> None:
    rows = [(photo, f"{photo} {n}") for photo in "abc" for n in range(2)]
    pairs = pairs_of(caption_table(rows, lang=["en", "de", "en", "de", "en", "en"]))
    for step in range(30):
        batch = pairs.draw(step, 3)
        assert sorted(batch.query_photos.tolist()) == [0, 1], (
            "c has no pair across languages, and alone it would have no negatives"
        )


@pytest.mark.parametrize(
    ("langs", "lengths", "said"),
    [
        (("en", "en"), ("short", "short"), {"="}),
        (("en", "de"), ("short", "long"), {"lang"}),
        (("en", "en"), ("short", "long"), {"s>l", "l>s"}),
        (("en", "en"), ("long", "long"), {"="}),
    ],
)
def test_instructions_depend_on_the_kind_of_pair(
    langs: tuple[str, str], lengths: tuple[str, str], said: set[str]
) -> None:
    rows = [(photo, f"{photo} {n}") for photo in "ab" for n in range(2)]
    instructions = Instructions(short_to_long="s>l", long_to_short="l>s", across_languages="lang", otherwise="=")
    table = caption_table(rows, lang=langs * 2, length=lengths * 2)
    batches = [pairs_of(table, instructions=instructions).draw(step, 2) for step in range(20)]
    assert {text for batch in batches for text in batch.instructions} == said
    for batch in batches:
        for query, text in zip(batch.queries, batch.instructions, strict=True):
            assert text != ("s>l" if query.endswith("1") else "l>s"), "the first caption is the short one"


def test_a_repeated_caption_counts_once() -> None:
    rows = [("a", "A dog."), ("a", "A dog."), ("a", "One dog."), ("b", "A cat."), ("b", "One cat."), ("c", "Twice.")]
    pairs = pairs_of(caption_table([*rows, ("c", "Twice.")]))
    assert len(pairs) == 2, "c has a single caption"
    for step in range(20):
        batch = pairs.draw(step, 3)
        assert all(query != positive for query, positive in zip(batch.queries, batch.gallery, strict=True))


def test_captions_that_share_a_photograph_are_not_negatives() -> None:
    """``A dog.`` describes a and b, so it is not a negative of their other captions, which remain negatives."""
    rows = [("a", "A dog."), ("a", "A brown dog in a park."), ("b", "A dog."), ("b", "A black dog."), *DOGS[:3]]
    pairs = pairs_of(caption_table(rows))
    seen = set()
    for step in range(60):
        batch = pairs.draw(step, 3)
        same = batch.same_photograph()
        for row, query in enumerate(batch.queries):
            for place, item in enumerate(batch.gallery):
                shared = "A dog." in (query, item) and "dog" in query and "dog" in item
                assert bool(same[row, place]) == (row == place or shared)
                seen.add((query, item))
    assert ("A brown dog in a park.", "A dog.") in seen
    assert ("A dog.", "A dog.") in seen


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("uvwxyz"), st.booleans()), min_size=8), st.data())
def test_false_negatives_match_their_definition(rows: list[tuple[str, str, bool]], data: st.DataObject) -> None:
    certain = [(photo, f"{photo}{n}", False) for photo in "ab" for n in range(2)]
    rows = [*certain, *rows]
    captions = caption_table([row[:2] for row in rows], negative=[row[2] for row in rows])
    pairs = pairs_of(captions)
    batch = pairs.draw(data.draw(st.integers(0, 1000)), 5)
    assert np.array_equal(batch.same_photograph().numpy(), same_by_definition(pairs, captions, batch))


def test_one_hard_negative_per_photograph_follows_the_positives() -> None:
    wrong = [("a.png", "Not a, 1."), ("a.png", "Not a, 2."), ("c.png", "Not c."), ("zz.png", "Of no photograph.")]
    table = caption_table([*DOGS, *wrong], negative=[False] * len(DOGS) + [True] * len(wrong))
    pairs = pairs_of(table)
    drawn: set[str] = set()
    for step in range(30):
        batch = pairs.draw(step, 3)
        behind = batch.gallery[3:]
        assert len(behind) == sum(photo in (0, 2) for photo in batch.query_photos.tolist())
        assert batch.gallery_photos[3:].tolist() == [NO_PHOTOGRAPH] * len(behind)
        assert not batch.same_photograph()[:, 3:].any()
        assert not any(text.startswith("Not") for text in (*batch.queries, *batch.gallery[:3]))
        assert all(("Not a" in text) <= (0 in batch.query_photos.tolist()) for text in behind)
        drawn |= set(behind)
    assert drawn == {"Not a, 1.", "Not a, 2.", "Not c."}


def test_a_hard_negative_that_describes_another_photograph_is_not_its_negative() -> None:
    table = caption_table([*DOGS, ("a.png", DOGS[3][1])], negative=[False] * len(DOGS) + [True])
    batch = pairs_of(table).draw(0, 6)
    assert batch.gallery[6:] == [DOGS[3][1]]
    assert batch.same_photograph()[:, 6].tolist() == [photo == 1 for photo in batch.query_photos.tolist()]


def test_texts_without_images_are_paired_within_their_row() -> None:
    rows: list[tuple[str | None, str]] = [(None, f"{row}{end}") for row in range(4) for end in "?!"]
    table = caption_table(rows, photo=[f"text:0:{row}" for row in range(4) for _ in "?!"])
    batch = pairs_of(table).draw(0, 4)
    assert all(query[0] == positive[0] for query, positive in zip(batch.queries, batch.gallery, strict=True))


@pytest.mark.parametrize(
    ("weights", "langs", "message"),
    [
        ((1.0, 1.0), {}, "Caption source 2 of 2 has no pairs: it has 1 photograph with two .* 2 must .* weight 0"),
        ((1.0,), {"en": 0.0}, r"The caption source has no pairs: it has 0 photographs .* in the same languages\.$"),
        ((0.0, 0.0), {}, "All 2 caption sources have weight 0"),
    ],
)
def test_sources_without_pairs_are_refused(weights: tuple[float, ...], langs: dict[str, float], message: str) -> None:
    table = caption_table(DOGS, source=[0] * 15 + [len(weights) - 1] * 3)
    with pytest.raises(CorpusError, match=message):
        pairs_of(table, weights=weights, langs=langs)
