"""The published figures: their sources, and their values as printed there."""

import json
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from llm2clip_search.benchmarks.datasets.registry import DATASETS
from llm2clip_search.benchmarks.paper import (
    PaperFigure,
    all_figures,
    comparable_figures,
    figures_of,
    headline_figures,
    paper_sources,
)
from tests.support.results import result_of

KEYS = {f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 5, 10)}


def figure(model: str, dataset: str, source: str, language: str = "en") -> PaperFigure:
    (found,) = (f for f in figures_of(dataset, language) if (f.model, f.source) == (model, source))
    return found


def test_every_figure_has_a_source_that_can_be_looked_up() -> None:
    assert {f.source for f in all_figures()} == paper_sources().keys(), (
        "no source without a figure, and the other way round"
    )
    for key, source in paper_sources().items():
        assert source.title, key
        assert source.url.startswith("https://"), key


def test_figures_are_recalls_in_percent_of_data_sets_and_splits_that_are_read_here() -> None:
    assert len(all_figures()) > 300
    for found in all_figures():
        info = DATASETS[found.dataset]
        assert found.split in info.splits, found
        assert found.language in info.langs or found.language == f"mean of {len(info.langs)}", found
        assert found.recalls.keys() <= KEYS, found
        assert found.recalls, found
        assert all(0 < value <= 100 for value in found.recalls.values()), found
        for way in ("image_retrieval", "text_retrieval"):
            rising = [found.recalls[f"{way}_recall@{k}"] for k in (1, 5, 10) if f"{way}_recall@{k}" in found.recalls]
            assert rising == sorted(rising), found


def test_the_file_holds_nothing_that_is_not_read() -> None:
    raw = json.loads(files("llm2clip_search.benchmarks").joinpath("paper.json").read_text("utf-8"))
    known = {"model", "resolution", "dataset", "split", "language", "source", "place", "remark", "headline"}
    assert raw.keys() == {"sources", "figures"}
    assert set().union(*raw["figures"]) == known | KEYS


def test_no_source_prints_a_model_twice() -> None:
    times = Counter((f.model, f.dataset, f.language, f.source) for f in all_figures())
    assert times.most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    ("model", "dataset", "source", "language", "i2t", "t2i"),
    [
        ("CLIP B/16-224", "flickr30k", "llm2clip-v6", "en", 82.3, 62.2),
        ("CLIP L/14-336", "docci", "llm2clip-v6", "en", 67.4, 65.7),
        ("EVA02 L/14-224", "urban1k", "llm2clip-v6", "en", 73.3, 68.5),
        ("SigLIP So400m-224", "docci", "llm2clip-v6", "en", 42.3, 44.8),
        ("SigLIP2 So400m/14-224", "mscoco_captions", "llm2clip-v6", "en", 72.0, 55.5),
        ("MetaCLIP L/14-224", "sharegpt4v-1k", "llm2clip-v6", "en", 86.4, 79.5),
        ("Long-CLIP B/16-224", "urban1k", "llm2clip-v6", "en", 79.1, 79.1),
        ("jina-clip-v2", "docci", "llm2clip-v6", "en", 77.6, 78.2),
        ("LLM2CLIP-3M on EVA02 L/14-224", "mscoco_captions", "llm2clip-v6", "en", 65.2, 56.0),
        ("LLM2CLIP-15M on CLIP B/16-224", "flickr30k", "llm2clip-v6", "en", 91.8, 80.7),
        ("LLM2CLIP-60M on SigLIP2 So400m/14-224", "urban1k", "llm2clip-v6", "en", 96.2, 97.3),
        ("VLM2Vec 7B-1344", "docci", "llm2clip-v6", "en", 80.5, 86.0),
        ("LLM2CLIP on EVA02 B/16-224", "urban1k", "llm2clip-v1", "en", 84.7, 89.7),
        ("LLM2CLIP-3M on EVA02 L/14-224", "flickr30k", "llm2clip-v1", "en", 89.6, 77.3),
        ("LLM2CLIP on EVA02 L/14-336", "docci", "llm2clip-v1", "en", 89.2, 91.3),
        ("LLM2CLIP-15M on CLIP L/14, re-run", "mscoco_captions", "proclip", "en", 67.0, 50.6),
        ("LLM2CLIP-30M on CLIP B/16, re-run", "dci", "proclip", "en", 73.1, 74.8),
        ("ProCLIP-30M on CLIP L/14", "urban1k", "proclip", "en", 93.0, 94.4),
        ("EVA02 L-224", "coco-cn", "llm2clip-v6", "zh", 2.6, 1.0),
        ("LLM2CLIP on SigLIP2 So400m", "flickr30k-cn", "llm2clip-v6", "zh", 90.0, 76.1),
        ("CN-CLIP", "flickr30k-cn", "llm2clip-v6", "zh", 80.2, 68.0),
        ("LLM2CLIP on EVA02 L-224", "crossmodal3600", "llm2clip-v6", "mean of 36", 68.3, 56.0),
        ("SigLIP2 B/16-224", "flickr30k", "siglip2", "en", 93.0, 80.7),
        ("mSigLIP So/16-256", "crossmodal3600", "siglip2", "mean of 36", 62.8, 50.0),
        ("NLLB-SigLIP-MRL large", "crossmodal3600", "nllb-siglip", "mean of 36", 57.41, 60.79),
        ("DFN H/14", "mscoco_captions", "siglip2", "en", None, 63.1),
        ("MetaCLIP 2 H/14", "crossmodal3600", "metaclip2", "mean of 36", 64.3, None),
        ("FLAME", "docci", "flame", "en", 75.8, 76.2),
        ("SAIL-L", "flickr30k", "sail", "en", 87.6, 75.7),
        ("VLM2Vec 7B", "urban1k", "retllm", "en", 91.0, 82.4),
        ("UniME 7B", "mscoco_captions", "retllm", "en", 70.1, 53.7),
        ("CLIP L/14", "mscoco_captions", "eccv-caption", "en", 56.36, 36.58),
    ],
)
def test_values_are_as_printed_and_in_the_right_direction(
    model: str, dataset: str, source: str, language: str, i2t: float | None, t2i: float | None
) -> None:
    """I2T in papers is text retrieval: the query is an image."""
    found = figure(model, dataset, source, language)
    assert found.recalls.get("text_retrieval_recall@1") == i2t
    assert found.recalls.get("image_retrieval_recall@1") == t2i


def test_recalls_at_five_and_ten_where_they_were_printed() -> None:
    assert figure("ViT-B-32 openai", "mscoco_captions", "clip-benchmark").recalls == {
        "image_retrieval_recall@5": 55.846,
        "text_retrieval_recall@5": 74.82,
    }
    siglip = figure("SigLIP SO400M-384", "mscoco_captions", "open-clip")
    assert siglip.printed("image_retrieval") == "54.2 / 76.8 / 84.2"
    assert siglip.printed("text_retrieval") == "72.4 / 90.0 / 94.5"
    chinese = figure("LLM2CLIP on EVA02 L/14-336", "flickr30k-cn", "llm2clip-v1", "zh")
    assert (chinese.printed("image_retrieval"), chinese.printed("text_retrieval")) == (
        "75.1 / 92.9 / -",
        "86.9 / 98.1 / -",
    )


def test_a_result_is_compared_with_a_selection_of_figures() -> None:
    result = replace(result_of("nano"), dataset="flickr30k", split="test")
    every, few = comparable_figures(result), headline_figures(result)
    assert {f.model for f in few} >= {"CLIP L/14-336", "EVA02 L/14-336", "SigLIP2 So400m/14-224", "jina-clip-v2"}
    assert 5 < len(few) < 15 < len(every)
    assert {(f.dataset, f.language, f.split) for f in every} == {("flickr30k", "en", "test")}
    assert headline_figures(replace(result, captions_per_image="5")) == few


@pytest.mark.parametrize(
    "other", [{"split": "val"}, {"language": "zh"}, {"captions_per_image": "joined 5"}, {"captions_per_image": "1"}]
)
def test_results_without_comparable_figures_get_none(other: dict[str, Any]) -> None:
    result = replace(result_of("nano"), dataset="flickr30k", split="test")
    assert comparable_figures(replace(result, **other)) == []
    assert figures_of("a data set of one's own", "en") == []
