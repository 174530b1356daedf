"""Ablations with tiny random towers: what is compared, what is made once, and what goes wrong."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from llm2clip_search.base.progress import no_progress
from llm2clip_search.errors import InputError, ModelError
from llm2clip_search.training import Recipe
from llm2clip_search.training.ablation_results import QuestionResult, StudyResult, VariantResult, VariantRun
from llm2clip_search.training.ablations import run_study
from llm2clip_search.training.recipes.recipe_file import recipe_toml
from llm2clip_search.training.recipes.study import Question, Study, Variant, read_study
from llm2clip_search.training.tasks.vision_features import VisionFeatures
from llm2clip_search.training.tasks.vision_training import VisionTraining
from tests.support import tiny_stages
from tests.support.commands import RunCli
from tests.support.corpus import jpeg, write_tar
from tests.support.tiny_training import write_flickr8k

UNTUNED = ("captions.loop.steps=0", "captions.loop.warmup_steps=0")


@pytest.fixture(scope="module")
def frozen(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe file with a frozen tower and stored views, which is evaluated on short and on joined captions."""
    dev = recipe.data.dev[0]
    english = replace(dev.captions, langs=("en",))
    data = replace(recipe.data, dev=(dev, replace(dev, name="joined", captions=english, joined=2)))
    stage2 = replace(recipe.stage2, vision=VisionTraining(), kept_views=2)
    stage2 = replace(stage2, loop=replace(stage2.loop, steps=3, evaluate_every=0))
    path = tmp_path_factory.mktemp("recipe") / "frozen.toml"
    path.write_text(recipe_toml(replace(recipe, name="frozen", data=data, stage2=stage2)), encoding="utf-8")
    return str(path)


def study_of(*variants: Variant) -> Study:
    return Study(questions=(Question(name="Which?", variants=variants),))


@pytest.fixture
def run(frozen: str, root: Path, made: Path, tmp_path: Path) -> Callable[..., StudyResult]:
    def call(*variants: Variant, seeds: int = 1, recipe: str = frozen) -> StudyResult:
        return run_study(
            study_of(*variants),
            recipe,
            root=root,
            out=tmp_path / "out",
            llm=made / "llm",
            seeds=seeds,
            device="cpu",
            progress=no_progress,
        )

    return call


def test_variants_are_what_training_them_gives(
    run: Callable[..., StudyResult], frozen: str, root: Path, made: Path, tmp_path: Path
) -> None:
    """A variant has the recalls of the model that ``train clip`` makes of the same recipe, LLM and seed."""
    from llm2clip_search.training import find_recipe

    (tmp_path / "llm").symlink_to(made / "llm")
    settings = ("model.text.adaptor.blocks=1", "clip.long_ratio=0")
    (plain, deeper) = run(Variant(name="plain"), Variant(name="deeper", settings=settings), seeds=2).variants
    assert [each.seed for each in plain.runs] == [each.seed for each in deeper.runs] == [0, 1]
    for variant, changed in ((plain, ()), (deeper, settings)):
        recipe = find_recipe(frozen, changed)
        tiny_stages.embed(recipe, root, made / "llm", tmp_path / "store")
        figures = tiny_stages.run("clip", recipe, root, tmp_path, tmp_path / variant.name)
        assert variant.runs[0].figures == pytest.approx(figures)
    names = {"flickr8k/en/mean_recall", "flickr8k/cs/mean_recall", "joined/en/mean_recall"}
    assert names <= plain.runs[0].figures.keys()


def test_each_part_is_made_once(run: Callable[..., StudyResult], monkeypatch: pytest.MonkeyPatch) -> None:
    """Views and features of the frozen tower serve all variants and seeds, and equal variants share their runs."""
    seen: list[int] = []
    whole = VisionFeatures._run

    def counted(self: VisionFeatures, part: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if part is self.tower.backbone:
            seen.append(len(x))
        return whole(self, part, x)

    monkeypatch.setattr(VisionFeatures, "_run", counted)
    first = run(Variant(name="a"), Variant(name="b"), seeds=2)
    assert first.variants[0].runs == first.variants[1].runs
    images, dev, views = 6, 6, 2
    assert sum(seen) == images + dev + views * images  # statistics, both dev splits, views
    seen.clear()
    deeper = Variant(name="c", settings=("model.text.adaptor.blocks=1",))
    again = run(Variant(name="a"), deeper, seeds=2)
    assert again.variants[0] == first.variants[0]
    assert sum(seen) == images + dev  # a new process would compute these again, but not the views
    seen.clear()
    assert run(Variant(name="a"), deeper, seeds=2) == again
    assert seen == []


def test_stage_1_joint_training_and_a_start_model(run: Callable[..., StudyResult], made: Path, tmp_path: Path) -> None:
    """The LLM as published is another one than the tuned one; a model that training begins from is measured before."""
    untuned, joint, start = run(
        Variant(name="untuned", settings=UNTUNED),
        Variant(name="joint", joint=True, seeds=1),
        Variant(
            name="start",
            start=f"dir:{made / 'model'}",
            settings=("clip.anchor={images=1.0, captions=1.0}", "clip.long_ratio=1.0"),
        ),
        seeds=2,
    ).variants
    assert [len(each.runs) for each in (untuned, joint, start)] == [2, 1, 2]
    (llm,) = (tmp_path / "out").glob("llm-*")
    described = json.loads((llm / "run.json").read_text())
    assert described["steps"] == 0
    assert described["figures"].keys() == {"caption_retrieval"}
    assert len(list((tmp_path / "out").glob("captions-*"))) == 3
    before = start.runs[0].before
    assert before["flickr8k/en/mean_recall"] > 0
    assert before.keys() == start.runs[0].figures.keys()
    assert untuned.runs[0].before == joint.runs[0].before == {}


def test_a_variant_that_cannot_be_trained_is_left_out(run: Callable[..., StudyResult]) -> None:
    """Its reason is told, and the others go on; if none can be trained, the study fails."""
    lost = Variant(name="lost", settings=("model.vision.weights=dir:/nowhere/tower.pth",))
    result = run(lost, Variant(name="plain"))
    assert list(result.failures()) == ["lost"]
    assert "/nowhere" in result.failures()["lost"]
    assert [name for name, _ in result.rows(result.questions[0])] == ["plain"]
    assert "- Not measured: lost. " in result.to_markdown()
    with pytest.raises(ModelError, match="No variant could be trained"):
        run(lost)


def test_broken_images_and_leftovers_of_a_kill_do_no_harm(frozen: str, made: Path, tmp_path: Path) -> None:
    """What cannot be decoded is left out and counted; half a run is no run."""
    write_flickr8k(tmp_path)
    images = {f"train-{number}.jpg": jpeg(number) if number else b"no image" for number in range(6)}
    write_tar(tmp_path / "flickr8k" / "flickr8k-train-000.tar", images)
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "last.pt").write_bytes(b"half of a checkpoint")
    seen: list[Mapping[str, float]] = []
    result = run_study(
        study_of(Variant(name="plain")),
        frozen,
        root=tmp_path,
        out=tmp_path / "out",
        llm=made / "llm",
        seeds=1,
        device="cpu",
        progress=lambda what, done, total, figures: seen.append(figures if what == "data" else {}),
    )
    assert len(result.variants[0].runs) == 1
    assert [figures["broken images"] for figures in seen if figures] == [1]
    assert not (tmp_path / "out" / "run").exists()


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant(name="x", settings=("clip.loop.stepz=3",)), "did you mean 'steps'"),
        (Variant(name="x", settings=("clip.loop.steps=1", "clip.loop.warmup_steps=0")), "takes 1 steps"),
        (Variant(name="x", settings=("clip.anchor={}",)), "needs a model to begin from"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(
    variant: Variant, message: str, run: Callable[..., StudyResult], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run(Variant(name="plain"), variant)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_runs_is_refused(run: Callable[..., StudyResult], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"a": {"seed": 0}}'):
        (tmp_path / "out" / "runs.json").write_text(text)
        with pytest.raises(InputError, match="does not hold runs of a study"):
            run(Variant(name="plain"))


def test_means_and_deviations() -> None:
    """Of recalls 0.50, 0.52 and 0.54: 52.0 in percent, with a deviation of 2.0; of rates: their mean."""

    def ran(seed: int, recall: float, before: float | None = None) -> VariantRun:
        return VariantRun(
            seed=seed,
            seconds_per_step=(seed + 1) / 2,
            images_per_step=6,
            before={} if before is None else {"a/en/mean_recall": before},
            figures={"mean_recall": 0.1, "a/en/mean_recall": recall, "a/en/image_retrieval_recall@1": 0.2},
        )

    several = VariantResult(name="several", runs=tuple(ran(seed, 0.5 + seed / 50) for seed in range(3)))
    started = VariantResult(name="started", runs=(ran(1, 0.25, 0.75),))
    question = QuestionResult(name="Which?", variants=(several, VariantResult(name="none", failure="No."), started))
    result = StudyResult(recipe="x", device="cpu", seeds=3, questions=(question,))
    assert result.to_markdown().splitlines() == [
        "**Which?**",
        "",
        "|  | images/s | a, en |",
        "| --- | ---: | ---: |",
        "| several | 7 | 52.0 ± 2.0 |",
        "| before training |  | 75.0 |",
        "| started | 6 | 25.0 |",
        "",
        "- Not measured: none. No.",
    ]


def test_the_study_of_the_paper_fits_its_recipe() -> None:
    """Every setting of the included study is one of the recipe that it is written for."""
    from llm2clip_search.training import find_recipe

    study = read_study()
    assert len(study.questions) == 6
    for question in study.questions:
        for variant in question.variants:
            changed = find_recipe("nano-frozen", variant.settings, begins_from_model=bool(variant.start))
            assert changed.stage2.vision.mode == "frozen"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks 'questions'"),
        ("questions = 3", "has to be an array of tables"),
        ('[[questions]]\nname = "a"\nvariants = [{name = "b", setings = []}]', "did you mean 'settings'"),
        ('[[questions]]\nname = "a"\nvariants = [{name = "b", seeds = -1}]', "seeds"),
        ('[[questions]]\nname = "a"\nvariants = [{name = "b", joint = true, start = "nano"}]', "has no start"),
        ("[[", "is not TOML"),
    ],
)
def test_a_wrong_study_is_refused(text: str, message: str, run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_study(tmp_path / "study.toml")
    done = run_cli("bench", "ablations", "--study", tmp_path / "study.toml")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_missing_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study gone\.toml cannot be read") as caught:
        read_study(Path("gone.toml"))
    assert str(tmp_path) not in str(caught.value)


def test_the_command_prints_and_writes_tables(
    run_cli: RunCli, frozen: str, root: Path, made: Path, tmp_path: Path
) -> None:
    (tmp_path / "study.toml").write_text('[[questions]]\nname = "Which?"\nvariants = [{name = "plain"}]\n')
    arguments = ["bench", "ablations", frozen, "--data", root, "--llm", made / "llm", "--out", tmp_path / "out"]
    arguments += ["--study", tmp_path / "study.toml", "--seeds", "2"]
    done = run_cli(*map(str, arguments))
    assert done.returncode == 0, done.stderr
    assert "Which?" in done.stdout
    assert "±" in done.stdout
    assert "| plain |" in (tmp_path / "out" / "ablations.md").read_text(encoding="utf-8")
    again = run_cli(*map(str, arguments), "--json")
    (question,) = json.loads(again.stdout)["questions"]
    assert [run["seed"] for run in question["variants"][0]["runs"]] == [0, 1]
    unknown = run_cli(*map(str, arguments[:6]), "nosuch")
    assert unknown.returncode == 1
    assert "nosuch" in unknown.stderr
