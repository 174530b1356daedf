"""The mean over data sets, and which data sets a folder holds."""

from pathlib import Path

import pytest

from llm2clip_search.benchmarks.report import METRICS
from llm2clip_search.benchmarks.suite import mean_recalls, open_suite, suite_markdown
from llm2clip_search.errors import CorpusError
from tests.support.layouts import write_captioned_shards, write_multilingual_flickr8k
from tests.support.results import result_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Flickr8k in two languages, ADE20K, and a folder named after a data set that is not in it."""
    write_multilingual_flickr8k(tmp_path / "flickr8k", images=3)
    write_captioned_shards(tmp_path / "ade20k", "ade20k", {"dev": {"1.jpg": ["a room"]}, "test": {"2.jpg": ["a hall"]}})
    (tmp_path / "multi30k").mkdir()
    return tmp_path


def test_all_sets_with_a_folder_are_opened_and_the_others_said(root: Path) -> None:
    said: list[str] = []
    opened = open_suite(root, skip=said.append)
    assert [(found.name, found.split) for _, found in opened] == [("flickr8k", "dev"), ("ade20k", "dev")]
    assert len(said) == 1
    assert said[0].startswith("Multi30k is left out: ")


def test_sets_and_splits_are_named(root: Path) -> None:
    said: list[str] = []
    opened = open_suite(root, ["ade20k:test", "rsicd"], skip=said.append)
    assert [(found.split, list(found.images)) for _, found in opened] == [("test", ["2.jpg"])]
    assert said == [f"RSICD is left out: there is no folder {root / 'rsicd'}."]
    (flickr,) = open_suite(root, ["flickr8k", "ade20k"], langs=["de"], skip=said.append)
    assert list(flickr[1].captions) == ["de"]
    assert said[-1].startswith("ADE20K image descriptions is left out: ")


def test_nothing_to_measure_is_one_sentence(root: Path) -> None:
    with pytest.raises(CorpusError, match="There is no data set 'flicker8k'"):
        open_suite(root, ["flicker8k"], skip=print)
    with pytest.raises(CorpusError, match="nowhere is not a folder"):
        open_suite(root / "nowhere", skip=print)
    with pytest.raises(CorpusError, match="holds no folder of rsicd that can be read"):
        open_suite(root, ["rsicd"], skip=lambda message: None)
    with pytest.raises(CorpusError, match="holds no folder of any data set"):
        open_suite(root / "multi30k", skip=print)


def test_each_set_counts_once_in_the_mean() -> None:
    results = [
        result_of("m", dataset="flickr8k", language="en", seed=1),
        result_of("m", dataset="flickr8k", language="de", seed=2),
        result_of("m", dataset="rsicd", seed=3),
    ]
    found = mean_recalls(results)
    for key in METRICS:
        en, de, other = (result.metrics[key] for result in results)
        assert found[key] == pytest.approx((en + de) / 4 + other / 2)
    header, rule, *rows = suite_markdown(results).splitlines()
    assert header.startswith("| data set | language | captions | images | image_retrieval R@1 / 5 / 10 |")
    assert rule.count("|") == header.count("|") == 7
    assert [row.split(" | ")[0] for row in rows] == ["| flickr8k dev", "| flickr8k dev", "| rsicd dev", "| mean of 2"]
    assert f"| {100 * found[METRICS[0]]:.1f} / " in rows[-1]
