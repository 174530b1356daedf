"""Runs compared with each other, from folders as stage 2 leaves them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import ModelError
from llm2clip_search.evaluation.metrics import retrieval_ranks
from llm2clip_search.evaluation.statistics import paired_differences, recall_intervals
from llm2clip_search.training.compare_runs import compare_training_runs, read_run
from llm2clip_search.training.dev_ranks import read_ranks, write_ranks
from llm2clip_search.training.runtime.loop import LoopResult
from llm2clip_search.training.stages import write_run
from llm2clip_search.training.tasks.clip_data import Dev
from tests.support.commands import RunCli

IMAGES = 40
METRIC = "image_retrieval_recall@10"


def vectors(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Images, and captions that are as far from them as ``noise`` says."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(IMAGES, 6)).astype(np.float32)
    captions = images + noise * generator.normal(size=images.shape).astype(np.float32)
    return images / np.linalg.norm(images, axis=1, keepdims=True), captions / np.linalg.norm(
        captions, axis=1, keepdims=True
    )


def save_run(
    folder: Path,
    *,
    noise: float = 1.0,
    recipe: Mapping[str, object] | None = None,
    texts: str = "caption",
    ranks: bool = True,
) -> Path:
    """The folder of a run of which only the files that are compared are there."""
    model = folder / "model"
    model.mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "data.json").write_text(json.dumps({"digest": f"digest of {texts}"}))
    image_of = np.arange(IMAGES)
    found = retrieval_ranks(*vectors(noise), image_of)
    if ranks:
        dev = Dev(
            name="val",
            files=ImageFiles({}),
            image_ids=[str(number) for number in range(IMAGES)],
            captions={"en": (np.zeros((IMAGES, 1), dtype=np.float32), image_of)},
            texts={"en": [f"{texts} {number}" for number in range(IMAGES)]},
        )
        write_ranks(model, [dev], {"val/en": found})
    figures = {"mean_recall": 0.5} | {f"val/en/{name}": value for name, value in found.recalls().items()}
    result = LoopResult(figures=figures, before={}, steps=20, selected=10)
    write_run(model, "clip", recipe or {}, {}, {"images": 425, "captions": 836}, result, "inputs")
    return folder


def test_only_what_differs_is_said(tmp_path: Path) -> None:
    same = {"model": {"name": "a", "dim": 8}, "loop": {"steps": 20, "betas": [0.9, 0.99]}}
    a = read_run(save_run(tmp_path / "a", recipe=same))
    other = {"model": {"name": "b", "dim": 8}, "loop": {"steps": 40, "betas": [0.9, 0.99]}, "anchor": {"images": 1.0}}
    b = read_run(save_run(tmp_path / "b", recipe=other, texts="others"))
    fields = {(each.part, each.field): list(each.values.values()) for each in compare_training_runs([a, b]).fields}
    assert fields == {
        ("recipe", "loop.steps"): [20, 40],
        ("recipe", "anchor.images"): [None, 1.0],
        ("data", "digest"): ["digest of caption", "digest of others"],
    }


def test_recalls_on_the_same_data_are_compared_in_pairs(tmp_path: Path) -> None:
    runs = [read_run(save_run(tmp_path / name, noise=noise)) for name, noise in (("a", 2.0), ("b", 0.5))]
    first, second = (each for each in compare_training_runs(runs).recalls if each.metric == METRIC)
    rows = np.arange(IMAGES)
    before, after = (retrieval_ranks(*vectors(noise), rows) for noise in (2.0, 0.5))
    expected = paired_differences(before, after, rows)[METRIC]
    assert (second.difference_low, second.difference_high, second.p) == (expected.low, expected.high, expected.p)
    assert second.difference == pytest.approx(expected.difference)
    assert second.difference == 0.25
    assert (first.low, first.high) == recall_intervals(before, rows)[METRIC]
    assert (first.difference, first.p) == (None, None)


@pytest.mark.parametrize(("texts", "ranks", "has_interval"), [("others", True, True), ("caption", False, False)])
def test_other_data_or_no_ranks_give_no_paired_test(
    texts: str, ranks: bool, has_interval: bool, tmp_path: Path
) -> None:
    runs = [read_run(save_run(tmp_path / "a")), read_run(save_run(tmp_path / "b", texts=texts, ranks=ranks))]
    _, second = (each for each in compare_training_runs(runs).recalls if each.metric == METRIC)
    assert second.p is None
    assert second.difference == 0.0
    assert (second.low is not None) == has_interval


def test_ranks_of_another_evaluation_are_not_used(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "a")
    run = json.loads((folder / "model" / "run.json").read_text())
    run["figures"][f"val/en/{METRIC}"] = 0.123
    (folder / "model" / "run.json").write_text(json.dumps(run))
    recalls = compare_training_runs([read_run(folder), read_run(save_run(tmp_path / "b"))]).recalls
    assert {each.low is None for each in recalls if each.run == str(folder)} == {True}


def test_damaged_ranks_count_as_none(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "a") / "model"
    assert list(read_ranks(folder)) == ["val/en"]
    (folder / "ranks.json").write_text('{"val/en": {"data": "x"}}')
    assert read_ranks(folder) == {}


def test_the_command_prints_tables_or_json(tmp_path: Path, run_cli: RunCli) -> None:
    save_run(tmp_path / "a", recipe={"loop": {"steps": 2000}})
    save_run(tmp_path / "b", recipe={"loop": {"steps": 40}}, noise=0.5)
    save_run(tmp_path / "c", ranks=False)
    done = run_cli("train", "compare", "a", "b/model", "c")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[:2] == ["field a b/model c", "recipe loop.steps 2,000 40 -"]
    assert "split language metric (%) a b/model c" in lines
    (row,) = (line for line in lines if "image_retrieval_recall@1 " in line)
    assert row.startswith("val en image_retrieval_recall@1 ")
    assert row.count(" to ") == 2
    done = run_cli("train", "compare", "a", "b", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0] == {
        "kind": "field",
        "part": "recipe",
        "field": "loop.steps",
        "values": {"a": 2000, "b": 40},
    }
    assert {row["kind"] for row in rows} == {"field", "recall"}
    assert {row["metric"] for row in rows[1:]} >= {METRIC}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a",), "At least two different runs are compared, but a was given."),
        (("a", "a"), "At least two different runs are compared, but a, a was given."),
        (("a", "nowhere"), "No run has finished in nowhere: it has no run.json."),
        (("a", "llm"), "is that of the stage 'captions'"),
        (("a", "damaged"), "does not describe a run of this version: KeyError('stage')"),
    ],
)
def test_what_is_no_run_is_said(arguments: tuple[str, ...], message: str, tmp_path: Path, run_cli: RunCli) -> None:
    save_run(tmp_path / "a")
    for name, text in (
        (
            "llm",
            '{"stage": "captions", "figures": {}, "counts": {}, "steps": 1, "selected": 1, "seconds": 1, "recipe": {}}',
        ),
        ("damaged", "{}"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    done = run_cli("train", "compare", *arguments)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())


def test_a_folder_without_a_run_is_an_error_of_the_library(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No run has finished"):
        read_run(tmp_path)
