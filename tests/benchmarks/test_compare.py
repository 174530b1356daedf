"""Comparison of two runs."""

from dataclasses import replace

import numpy as np
import pytest

from llm2clip_search.benchmarks.compare import compare_runs, stored_ranks
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import NEVER
from tests.support.results import IMAGES, result_of


def test_ranks_come_back_as_they_were_measured() -> None:
    result = result_of("nano", never=[3, 7])
    ranks = stored_ranks(result)
    assert np.flatnonzero(ranks.text_retrieval == NEVER).tolist() == [3, 7]
    assert ranks.image_retrieval.dtype == ranks.text_retrieval.dtype == np.int64
    assert ranks.recalls() == result.metrics, "a query that never hits is no hit at rank -1"


def test_one_row_per_language_and_metric_with_the_second_run_minus_the_first() -> None:
    a = [result_of("nano", language=lang) for lang in ("en", "de")]
    b = [result_of("large", language=lang, better=4) for lang in ("de", "en")]
    found = compare_runs(a, b).differences
    metrics = list(a[0].metrics)
    assert [(row.language, row.metric) for row in found] == [(lang, key) for lang in ("en", "de") for key in metrics]
    for row in found:
        first = next(r for r in a if r.language == row.language)
        second = next(r for r in b if r.language == row.language)
        assert (row.a, row.b) == (first.metrics[row.metric], second.metrics[row.metric])
        assert row.difference == pytest.approx(row.b - row.a, abs=1e-6)
        assert row.low <= row.difference <= row.high
        assert 0 <= row.p <= 1
        assert (row.dataset, row.split, row.model_a, row.model_b) == ("flickr8k", "dev", "nano", "large")
    best = next(row for row in found if row.metric == "image_retrieval_recall@5")
    assert best.low > 0, "four times lower ranks are no chance"
    assert best.p < 0.01


def test_the_other_way_round_only_signs_change() -> None:
    a, b = [result_of("nano")], [result_of("large", better=1.5, seed=1)]
    for there, back in zip(compare_runs(a, b).differences, compare_runs(b, a).differences, strict=True):
        assert (there.a, there.b) == (back.b, back.a)
        assert there.difference == pytest.approx(-back.difference)
        assert there.p == pytest.approx(back.p, abs=0.02), "by resampling, so not to the bit"


def test_a_run_differs_from_itself_in_nothing() -> None:
    for row in compare_runs([result_of("nano")], [result_of("nano")]).differences:
        assert (row.difference, row.low, row.high) == (0, 0, 0)
        assert row.p == pytest.approx(1)


def test_what_only_one_run_has_is_reported() -> None:
    a = [result_of("nano", language=lang) for lang in ("en", "de")]
    b = [result_of("large"), result_of("large", language="zh"), result_of("large", dataset="urban1k")]
    found = compare_runs(a, b)
    assert {row.language for row in found.differences} == {"en"}
    assert found.only_a == [("flickr8k", "dev", "de")]
    assert found.only_b == [("flickr8k", "dev", "zh"), ("urban1k", "dev", "en")]


def test_other_data_is_refused_naming_both_digests() -> None:
    other = replace(result_of("large"), data="other digest")
    with pytest.raises(CorpusError, match=r"flickr8k dev in en .* nano on digest of flickr8k en .* on other digest"):
        compare_runs([result_of("nano")], [other])


def test_runs_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(CorpusError, match="flickr8k dev in en against flickr8k dev in de"):
        compare_runs([result_of("nano")], [result_of("large", language="de")])


def test_a_run_that_holds_a_part_twice_is_refused() -> None:
    with pytest.raises(CorpusError, match="flickr8k dev in en is in one run twice, by nano and other"):
        compare_runs([result_of("nano"), result_of("other")], [result_of("large")])


@pytest.mark.parametrize("key", ["image_retrieval", "text_retrieval", "image_of"])
def test_a_result_without_its_ranks_is_refused(key: str) -> None:
    whole = result_of("large")
    without = replace(whole, ranks={name: rows for name, rows in whole.ranks.items() if name != key})
    with pytest.raises(CorpusError, match=f"large on flickr8k dev in en has 0 ranks of {key}, not"):
        compare_runs([result_of("nano")], [without])
    short = replace(whole, ranks={**whole.ranks, key: whole.ranks[key][1:]})
    with pytest.raises(
        CorpusError, match=rf"has {len(whole.ranks[key]) - 1} ranks of {key}, not {len(whole.ranks[key])}\."
    ):
        compare_runs([result_of("nano")], [short])


@pytest.mark.parametrize("image", [-1, IMAGES])
def test_captions_of_an_image_that_is_not_there_are_refused(image: int) -> None:
    whole = result_of("large")
    damaged = replace(whole, ranks={**whole.ranks, "image_of": [image, *whole.ranks["image_of"][1:]]})
    with pytest.raises(CorpusError, match="has captions of images beyond its 40: its file is damaged"):
        compare_runs([damaged], [result_of("nano")])
