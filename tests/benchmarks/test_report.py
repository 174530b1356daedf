"""Reports on runs: Markdown, CSV and plots."""

import builtins
import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from llm2clip_search.benchmarks.report import name_runs, report_csv, report_markdown, write_report
from llm2clip_search.benchmarks.report_plots import length_bins
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import NEVER
from tests.support.results import result_of


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading; the header comes first, the rule is left out."""
    below = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(below) if line.startswith("|"))
    rows = []
    for line in below[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert {len(row) for row in rows} == {len(rows[0])}, "a row of another width is no table"
    return [rows[0], *rows[2:]]


def test_one_table_per_language_has_recalls_and_intervals_of_every_run() -> None:
    nano, large = result_of("nano"), result_of("large", better=3)
    header, first, second = rows_of(report_markdown({"nano": [nano], "large": [large]}), "### flickr8k dev, en")
    assert header == ["model", *(f"{way} R@{k}" for way in ("image", "text") for k in (1, 5, 10))]
    for row, result in ((first, nano), (second, large)):
        assert row[0] == f"`{result.model}`"
        for cell, (key, value) in zip(row[1:], result.metrics.items(), strict=True):
            low, high = result.intervals[key]
            assert cell == f"**{100 * value:.1f}** ({100 * low:.1f} to {100 * high:.1f})"


def test_languages_are_in_one_table_with_their_mean() -> None:
    results = [result_of("nano", language=lang) for lang in ("en", "de", "zh")]
    partly = [result_of("large", language="de")]
    header, *rows, mean = rows_of(report_markdown({"nano": results, "large": partly}), "## flickr8k dev")
    assert header == ["R@1, image / text", "`nano`", "`large`"]
    assert [row[0] for row in rows] == ["en", "de", "zh"]
    keys = ("image_retrieval_recall@1", "text_retrieval_recall@1")
    for row, result in zip(rows, results, strict=True):
        assert row[1] == " / ".join(f"{100 * result.metrics[key]:.1f}" for key in keys)
    expected = [100 * np.mean([result.metrics[key] for result in results]) for key in keys]
    assert mean == ["mean of 3", f"{expected[0]:.1f} / {expected[1]:.1f}", ""], "a mean over fewer is another figure"


def test_what_a_reader_must_know_is_reported() -> None:
    seen = replace(result_of("nano"), trained_on="Flickr8k train and dev splits", notes=("half of the images",))
    other = replace(result_of("large"), notes=("half of the images", "captions lower-cased"))
    text = report_markdown({"nano": [seen], "large": [other]})
    assert "| `nano` † |" in text
    assert "| `large` |" in text
    assert "- † `nano`: its card says 'Flickr8k train and dev splits'" in text
    assert "- half of the images\n- `large`: captions lower-cased\n" in text
    assert "40 images, 120 captions (per image: all)." in text
    assert "cannot be compared" not in text
    mixed = report_markdown({"nano": [seen], "large": [replace(other, data="another", captions=99)]})
    assert "40 images, 120 captions (per image: all); 40 images, 99 captions (per image: all)." in mixed
    assert "**These runs used different images or captions, so their results cannot be compared.**" in mixed


def test_measures_that_only_one_run_has_are_left_open() -> None:
    more = replace(result_of("large"), measures={"rsum": 312.345})
    text = report_markdown({"nano": [result_of("nano")], "large": [more]})
    table = text.split("| further measures | `nano` | `large` |")[1]
    assert "| image_retrieval_median_rank | 4 |  |" in table
    assert "| rsum |  | 312.3 |" in table


def test_published_figures_follow_with_their_sources_as_footnotes() -> None:
    ours = replace(result_of("nano"), dataset="flickr30k", split="test")
    text = report_markdown({"nano": [ours]}, against=True)
    _, own, *few = rows_of(text, "### flickr30k test, en")
    assert own[0] == "`nano`"
    assert ["EVA02 L/14-336[^llm2clip-v6]", "78.0", "", "", "89.6", "", ""] in few
    every = rows_of(text, "published figures, by image R@1</summary>")[2:]
    best = [float(row[1] or 0) for row in every]
    assert best == sorted(best, reverse=True)
    assert len(every) > len(few)
    cited = {name for row in every for name in row[0].split("[^")[1].split("]")[:1]}
    notes = {line.split("]")[0][2:] for line in text.splitlines() if line.startswith("[^")}
    assert cited == notes
    assert "[^llm2clip-v6]: LLM2CLIP, arXiv v6 (AAAI 2026); Table 1. <https://arxiv.org/abs/2411.04997v6>." in text
    assert "[^" not in report_markdown({"nano": [ours]})


def test_published_means_are_shown_only_for_as_many_languages() -> None:
    def report(count: int) -> str:
        results = [result_of("nano", dataset="crossmodal3600", language=f"l{n}") for n in range(count)]
        return report_markdown({"nano": [replace(result, split="test") for result in results]}, against=True)

    assert "| SigLIP2 So400m[^llm2clip-v6] | 48.2 |  |  | 59.7 |  |  |" in report(36)
    assert "SigLIP2" not in report(35)


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    text = report_markdown({"a|b": [result_of("a|b")]})
    assert "| `a\\|b` |" in text


def test_csv_has_one_row_per_result_and_metric_with_clip_benchmarks_names() -> None:
    results = [
        replace(result_of("nano", language=lang), pretrained="tag", trained_on="it, all of it") for lang in ("en", "zh")
    ]
    rows = list(csv.DictReader(io.StringIO(report_csv({"nano": results}))))
    assert list(rows[0])[:6] == ["dataset", "model", "pretrained", "task", "language", "model_fullname"]
    for result in results:
        own = [row for row in rows if row["language"] == result.language]
        assert {row["metric"]: float(row["value"]) for row in own} == {**result.metrics, **result.measures}
        bounds = {row["metric"]: [float(row["low"]), float(row["high"])] for row in own if row["low"]}
        assert bounds == result.intervals
        assert {row["model_fullname"] for row in own} == {"nano tag"}
        assert {row["trained_on"] for row in own} == {"it, all of it"}


def test_files_of_one_model_are_one_run_unless_they_measure_the_same(tmp_path: Path) -> None:
    en, de = result_of("nano"), result_of("nano", language="de")
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    assert name_runs({a: [en], b: [de]}) == {"nano": [en, de]}
    assert name_runs({a: [en, de], b: [en]}) == {f"nano ({a})": [en, de], f"nano ({b})": [en]}
    with pytest.raises(CorpusError, match=r"a\.json has flickr8k dev in en by nano twice"):
        name_runs({a: [en, en]})


def test_pictures_are_drawn_for_what_there_is(tmp_path: Path) -> None:
    languages = [result_of("nano", language=lang) for lang in ("en", "de")]
    written = write_report({"nano": languages, "large": [result_of("large")]}, tmp_path / "new" / "report")
    names = ["report.md", "report.csv", "recalls.png", "lengths.png", "languages.png"]
    assert written == [tmp_path / "new" / "report" / name for name in names]
    text = written[0].read_text(encoding="utf-8")
    for path in written[2:]:
        assert f"]({path.name})" in text
        with Image.open(path) as picture:
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
        assert {(0x0B, 0x6F, 0xB8), (0xD1, 0x57, 0x0F)} <= colours, f"{path.name} has both runs' colours"
    result = result_of("nano")
    plain = replace(result, ranks={key: rows for key, rows in result.ranks.items() if key != "caption_tokens"})
    written = write_report({"nano": [plain]}, tmp_path / "plain")
    assert [path.name for path in written] == ["report.md", "report.csv", "recalls.png"]


def test_without_matplotlib_an_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CorpusError, match=r"pip install 'llm2clip-search\[bench\]'"):
        write_report({"nano": [result_of("nano")]}, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CorpusError, match=r"taken cannot be created: File exists\."):
        write_report({"nano": [result_of("nano")]}, tmp_path / "taken")


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.sampled_from([0, 1, 5, 40, NEVER]), st.integers(1, 40)), min_size=1, max_size=300),
    k=st.sampled_from([1, 5, 10]),
)
def test_bins_of_lengths_hold_every_caption_once(pairs: Sequence[tuple[int, int]], k: int) -> None:
    ranks, tokens = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    bins = length_bins(ranks, tokens, k=k)
    assert sum(found.captions for found in bins) == len(pairs)
    assert sum(found.recall * found.captions for found in bins) == pytest.approx(sum(rank < k for rank, _ in pairs))
    means = [found.tokens for found in bins]
    assert means == sorted(means)
    assert len(set(means)) == len(means), "captions of one length are in one bin"
    for found in bins:
        assert -1e-12 <= found.low <= found.recall + 1e-12
        assert found.recall - 1e-12 <= found.high <= 1 + 1e-12


def test_the_interval_is_wilsons() -> None:
    """Ten of forty; the formula is (p + z2/2n -+ z sqrt(p q / n + z2/4n2)) / (1 + z2/n)."""
    ranks = np.array([0] * 10 + [5] * 30)
    (found,) = length_bins(ranks, np.full(40, 7))
    assert (found.recall, found.tokens, found.captions) == (0.25, 7, 40)
    assert [found.low, found.high] == pytest.approx([0.14187, 0.40194], abs=1e-4)


def test_lower_recall_of_short_captions_is_visible() -> None:
    tokens = np.repeat([4, 8, 16, 32], 100)
    hits = np.concatenate([np.arange(100) < share for share in (10, 30, 50, 90)])
    bins = length_bins(np.where(hits, 0, 20), tokens)
    assert [(found.tokens, found.recall) for found in bins] == [(4, 0.1), (8, 0.3), (16, 0.5), (32, 0.9)]
