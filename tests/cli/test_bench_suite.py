"""``bench suite``, ``sugarcrepe`` and ``no-answer``, and ``models calibrate``, as a user types them."""

import json
import shutil
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.report import METRICS
from tests.support.commands import RunCli, is_one_error
from tests.support.images import photograph
from tests.support.layouts import write_captioned_shards, write_images, write_multilingual_flickr8k


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three data sets, each in a folder; one image is in two of them."""
    folder = tmp_path_factory.mktemp("data")
    write_multilingual_flickr8k(folder / "flickr8k", images=6)
    words = ["a red wall", "the blue sea at dusk", "two dogs", "a bus", "a dog and a bus"]
    captions = {f"{number}.jpg": [text, f"{text} again"] for number, text in enumerate(words)}
    write_captioned_shards(folder / "coco", "coco", {"val": captions})
    write_captioned_shards(folder / "rsicd", "rsicd", {"val": {"9.jpg": ["a field"], "8.jpg": ["a river"]}})
    return folder


@pytest.fixture
def measured(root: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    model = ["--model", f"dir:{tiny_model}", "--runtime", "torch"]
    return ["--root", str(root), *model, "--cache", str(tmp_path / "cache")]


def test_a_suite_prints_a_row_for_each_set_and_their_mean(measured: list[str], run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("bench", "suite", *measured, "--out", "all.json")
    assert done.returncode == 0, done.stderr
    assert "CompreCap is left out: " in done.stderr, "its images are COCO's, and its captions are not there"
    header, *rows = done.stdout.splitlines()
    assert header.split()[:3] == ["data", "set", "language"]
    assert [row.split()[:2] for row in rows] == [["flickr8k", "dev"], ["coco", "val"], ["rsicd", "val"], ["mean", "of"]]
    objects = [json.loads(line) for line in (tmp_path / "all.json").read_text().splitlines()]
    as_json = run_cli("bench", "suite", *measured, "--json")
    *results, mean = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [each["metrics"] for each in results] == [each["metrics"] for each in objects]
    assert (mean["dataset"], mean["sets"]) == ("mean", ["flickr8k dev", "coco val", "rsicd val"])
    for key in METRICS:
        assert mean["metrics"][key] == pytest.approx(sum(each["metrics"][key] for each in results) / 3)
    table = run_cli("bench", "suite", *measured, "--markdown").stdout.splitlines()
    assert table[-1].startswith(f"| mean of 3 |  |  |  | {100 * mean['metrics'][METRICS[0]]:.1f} / ")
    report = run_cli("bench", "report", "all.json", "--out", "report")
    assert report.returncode == 0, report.stderr


def test_a_suite_measures_what_is_named(measured: list[str], run_cli: RunCli) -> None:
    done = run_cli("bench", "suite", "rsicd:val", "ade20k", *measured, "--json")
    assert [json.loads(line)["dataset"] for line in done.stdout.splitlines()] == ["rsicd", "mean"]
    assert "ADE20K image descriptions is left out: there is no folder" in done.stderr


def test_published_figures_are_below_each_set(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    for number in range(3):
        for name in ("image", "caption"):
            (tmp_path / "urban1k" / name).mkdir(parents=True, exist_ok=True)
        photograph(number).save(tmp_path / "urban1k" / "image" / f"{number}.jpg")
        (tmp_path / "urban1k" / "caption" / f"{number}.txt").write_text(f"A street with {number} cars.")
    model = ["--model", f"dir:{tiny_model}", "--runtime", "torch", "--no-cache"]
    done = run_cli("bench", "suite", "urban1k", "--root", str(tmp_path), *model, "--against", "paper")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()[1:]
    figures = rest[: next(number for number, row in enumerate(rest) if row.startswith("mean of 1"))]
    assert first.startswith("urban1k test")
    assert any("LLM2CLIP" in row for row in figures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ade20k"], "holds no folder of ade20k that can be read"),
        (["flicker8k"], "There is no data set 'flicker8k'"),
        (["--root", "nowhere"], "nowhere is not a folder"),
        (["--json", "--markdown"], "Results are printed in one form"),
        (["--out", "nowhere/r.json"], "--out names the file to write"),
    ],
)
def test_what_a_suite_cannot_measure_is_one_sentence(
    measured: list[str], run_cli: RunCli, arguments: list[str], message: str
) -> None:
    done = run_cli("bench", "suite", *measured, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_sugarcrepe(run_cli: RunCli, tiny_model: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "val2017", ["1.jpg", "2.jpg"])
    said = {"caption": "a red wall", "negative_caption": "a blue wall"}
    pairs = {str(number): {"filename": f"{number}.jpg", **said} for number in (1, 2, 3)}
    (tmp_path / "swap_att.json").write_text(json.dumps(pairs))
    command = ["bench", "sugarcrepe", "--root", ".", "--model", f"dir:{tiny_model}", "--runtime", "torch", "--no-cache"]
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["category", "swap_att", "mean"]
    assert "add_att, add_obj, replace_att, replace_obj, replace_rel, swap_obj are left out" in done.stderr
    assert "1 pairs are left out, because their images are missing." in done.stderr
    found = json.loads(run_cli(*command, "--json").stdout)
    assert found["pairs"] == {"swap_att": 2}
    assert found["mean"] == found["accuracy"]["swap_att"]
    lost = run_cli("bench", "sugarcrepe", "--root", "val2017", "--model", f"dir:{tiny_model}")
    assert lost.returncode == 1
    assert is_one_error(lost.stderr)


def test_no_answer(measured: list[str], run_cli: RunCli) -> None:
    done = run_cli("bench", "no-answer", *measured, "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["dataset"] for row in rows] == ["flickr8k dev", "coco val", "rsicd val", "all in one gallery"]
    assert [row["captions"] for row in rows] == [12, 10, 2, 24]
    assert rows[-1]["images"] == 6, "the shards begin with the same pictures"
    for row in rows:
        assert list(row["auc"]) == list(row["auc_of_all"]) == ["cosine", "z_score", "lead_10", "lead"]
        assert all(value is None or 0 <= value <= 1 for value in row["auc"].values())
        assert row["calibration_error"] is None
        assert 1 <= row["hard_negative_mean_rank"] <= row["images"]
    table = run_cli("bench", "no-answer", "coco", *measured).stdout.splitlines()
    assert table[0].split()[:5] == ["data", "set", "language", "captions", "images"]
    assert len(table) == 2, "one data set has no gallery of all"


@pytest.fixture
def mine(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "mine")


def test_a_calibrated_model_shows_probabilities(root: Path, mine: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(5):
        photograph(number).save(tmp_path / "images" / f"{number}.png")
    run_cli("index", "images", "--model", "dir:mine")
    assert "probability" not in run_cli("query", "a dog").stdout
    done = run_cli(
        "models", "calibrate", "dir:mine", "flickr8k", "coco", "--root", str(root), "--langs", "en", "--no-cache"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{mine}: probability = logistic(")
    assert "fitted on flickr8k dev en, coco val en" in done.stdout
    assert "fitted on flickr8k dev en, coco val en" in run_cli("models", "show", "dir:mine").stdout
    table = run_cli("query", "a dog").stdout.splitlines()
    assert table[0].split()[:3] == ["score", "id", "probability"]
    hits = [json.loads(line) for line in run_cli("query", "a dog", "--json").stdout.splitlines()]
    assert [f"{hit['probability']:.2f}" for hit in hits] == [line.split()[2] for line in table[1:]]
    header, first, *_ = run_cli("query", "a dog", "--csv").stdout.splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(cells["probability"]) == pytest.approx(hits[0]["probability"])
    assert "probability" not in run_cli("query", "--like", "1").stdout
    again = run_cli("bench", "no-answer", "coco", "--root", str(root), "--model", "dir:mine", "--no-cache", "--json")
    result = json.loads(again.stdout)
    assert "probability" in result["auc"]
    assert 0 <= result["calibration_error"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dir:mine", "rsicd"], "The scores cannot be calibrated"),
        (["dir:nowhere", "coco"], "does not exist"),
        (["open_clip:ViT-B-32/openai", "coco"], "is a published model"),
        (["dir:mine", "ade20k"], "holds no folder of ade20k"),
    ],
)
def test_what_cannot_be_calibrated_is_one_sentence(
    root: Path, mine: Path, run_cli: RunCli, arguments: list[str], message: str
) -> None:
    before = (mine / "config.json").read_bytes()
    done = run_cli("models", "calibrate", *arguments, "--root", str(root), "--no-cache")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (mine / "config.json").read_bytes() == before
