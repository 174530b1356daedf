"""Files of results of every released schema stay readable."""

from pathlib import Path

from llm2clip_search.benchmarks.results import SCHEMA_VERSION, read_results, write_results
from tests.support.results import IMAGES, PER_IMAGE, result_of

FIXTURES = Path(__file__).parent / "fixtures"


def test_results_of_schema_1_are_read_for_ever(tmp_path: Path) -> None:
    """0.1.0 wrote this file; what it holds is written again as it was."""
    found = read_results(FIXTURES / "results-v1.jsonl")
    assert [(each.model, each.language, each.images, each.captions) for each in found] == [
        ("nano", "en", IMAGES, IMAGES * PER_IMAGE),
        ("nano", "de", IMAGES, IMAGES * PER_IMAGE),
    ]
    for results in (found, [result_of("nano", never=[3]), result_of("nano", language="de")]):
        write_results(tmp_path / "again.jsonl", results)
        assert (tmp_path / "again.jsonl").read_bytes() == (FIXTURES / "results-v1.jsonl").read_bytes()


def test_every_schema_has_a_fixture() -> None:
    names = sorted(path.name for path in FIXTURES.iterdir())
    assert names == [f"results-v{version}.jsonl" for version in range(1, SCHEMA_VERSION + 1)]
