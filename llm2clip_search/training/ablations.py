"""Ablations: variants of a recipe, trained one after the other on the same data, each with several seeds.

What variants have in common is made once: the LLM of stage 1, the embeddings of the captions, and the features of a
frozen vision tower. A variant then costs only the steps of stage 2.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress
from llm2clip_search.encoders.model import Model
from llm2clip_search.errors import InputError, ModelError, first_line
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.training.ablation_results import QuestionResult, StudyResult, VariantResult, VariantRun
from llm2clip_search.training.comparison import named, timed_steps
from llm2clip_search.training.data.image_check import ImageCheck
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.recipes.registry import find_recipe
from llm2clip_search.training.recipes.study import Study, Variant
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.stages import clip_inputs, train_captions, train_embed
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.clip_data import ClipData, read_clip_data
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.distillation import stored_clip_tower
from llm2clip_search.training.tasks.joint import JointTask, joint_recipe
from llm2clip_search.training.tasks.llm_folder import LLMFolder, clip_identity, read_llm
from llm2clip_search.training.tasks.start_model import fetch_start, start_config
from llm2clip_search.training.tasks.vision_features import VisionFeatures, open_vision

RUNS = "runs.json"
"""The file of a study's folder with every run that has ended, by digest of its recipe and data."""


def run_study(
    study: Study,
    recipe: str,
    settings: Sequence[str] = (),
    *,
    root: Path,
    out: Path,
    llm: Path | None = None,
    seeds: int,
    device: str,
    progress: Progress,
) -> StudyResult:
    """Train every variant of a study and evaluate it on the recipe's dev splits.

    A variant whose weights cannot be fetched or whose loss is not finite is left out, with the reason; the others go
    on.

    Args:
        recipe: name or file of the recipe, see `find_recipe`.
        settings: values that replace some of the recipe's in all variants.
        root: the folder that paths in the recipe are relative to.
        out: folder of the study; runs that it holds are not repeated.
        llm: folder of a caption-tuned LLM or of a model with one, for all variants whose stage 1 is that of the recipe;
            None trains it.
        seeds: number of runs of each variant.

    Raises:
        InputError: a setting is wrong, or a variant takes fewer than two steps.
        CorpusError: images or captions are missing or do not match.
        ModelError: no variant can be trained; the message is that of the first.
        StoreError: another process writes to ``out``.
    """
    base = find_recipe(recipe, settings)
    recipes = {
        (question.name, variant.name): find_recipe(
            recipe, [*settings, *variant.settings], begins_from_model=bool(variant.start)
        )
        for question in study.questions
        for variant in question.variants
    }
    for (_, name), each in recipes.items():
        if each.stage2.loop.steps < 2:
            raise InputError(f"The variant {name!r} takes {each.stage2.loop.steps} steps, but its speed needs two.")
    out.mkdir(parents=True, exist_ok=True)
    with writer_lock(out):
        trainer = _VariantTrainer(base, root=root, out=out, llm=llm, device=device, progress=progress)
        questions = tuple(
            QuestionResult(
                name=question.name,
                variants=tuple(
                    trainer.train(variant, recipes[question.name, variant.name], seeds) for variant in question.variants
                ),
            )
            for question in study.questions
        )
    result = StudyResult(recipe=base.name, device=device, seeds=seeds, questions=questions)
    if not any(variant.runs for variant in result.variants):
        raise ModelError(f"No variant could be trained: {result.variants[0].failure}")
    return result


class _VariantTrainer:
    """Trains variants, and keeps what the next one may have in common with them."""

    def __init__(
        self, base: Recipe, *, root: Path, out: Path, llm: Path | None, device: str, progress: Progress
    ) -> None:
        self.base, self.root, self.out, self.llm, self.progress = base, root, out, llm, progress
        self.world = World(device=device)
        try:
            held = json.loads((out / RUNS).read_text(encoding="utf-8"))
            self._runs = {key: VariantRun(**run) for key, run in held.items()}
        except FileNotFoundError:
            self._runs = {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{out / RUNS} does not hold runs of a study: {first_line(error)}.") from error
        self._trained: set[Path] = set()
        self._data: dict[str, ClipData] = {}
        self._towers: dict[str, VisionFeatures] = {}

    def train(self, variant: Variant, recipe: Recipe, seeds: int) -> VariantResult:
        """Train a variant with each seed."""
        runs = []
        try:
            for seed in range(min(seeds, variant.seeds or seeds)):
                loop = replace(recipe.stage2.loop, seed=seed)
                runs.append(self._run(variant, replace(recipe, stage2=replace(recipe.stage2, loop=loop))))
        except ModelError as error:
            return VariantResult(name=variant.name, failure=first_line(error))
        return VariantResult(name=variant.name, runs=tuple(runs))

    def _run(self, variant: Variant, recipe: Recipe) -> VariantRun:
        start = fetch_start(variant.start, variant.start) if variant.start else None
        llm = read_llm(start.llm_folder if start else self._llm_folder(recipe))
        stage2 = recipe.stage2
        if start:
            model = start_config(start, recipe.name, licence=stage2.model.licence, training_data=())
        else:
            own = stage2.model.text
            model = replace(stage2.model, text=replace(llm.text, adaptor=own.adaptor, clip=own.clip))
        stage2 = replace(stage2, model=model)
        data = self._clip_data(stage2, recipe, llm)
        joint = joint_recipe(recipe.stage1, stage2) if variant.joint else None
        begins = start.model if start else None
        inputs = clip_inputs(stage2, llm, data, begins)
        key = json_sha256([asdict(joint), inputs])[:16] if joint else inputs
        if key not in self._runs:
            vision = self._vision(stage2, recipe, data, begins)
            if joint:
                task: ClipTask = JointTask(
                    joint, data, llm=llm, world=self.world, scratch=self.out, progress=self.progress, vision=vision
                )
            else:
                task = ClipTask(
                    stage2,
                    data,
                    world=self.world,
                    scratch=self.out,
                    progress=self.progress,
                    start=begins,
                    vision=vision,
                )
            self._runs[key] = self._timed(task, variant)
            runs = {name: asdict(run) for name, run in self._runs.items()}
            replace_file(self.out / RUNS, json.dumps(runs, indent=1).encode() + b"\n")
        return self._runs[key]

    def _timed(self, task: ClipTask, variant: Variant) -> VariantRun:
        before = task.evaluate() if variant.start else {}
        loop, scratch = task.recipe.loop, self.out / "run"
        shutil.rmtree(scratch, ignore_errors=True)  # of a call that was killed
        scratch.mkdir()
        timed = timed_steps(
            task,
            loop.steps,
            out=scratch,
            world=self.world,
            progress=named(self.progress, f"{variant.name}, seed {loop.seed}"),
        )
        shutil.rmtree(scratch)
        return VariantRun(
            seed=loop.seed,
            seconds_per_step=timed.seconds,
            images_per_step=task.samples_per_step,
            before=before,
            figures=timed.recall,
        )

    def _llm_folder(self, recipe: Recipe) -> Path:
        """The LLM of a variant's stage 1, which is trained if nobody has."""
        captions = recipe.data.captions
        if self.llm is not None and (recipe.stage1, captions) == (self.base.stage1, self.base.data.captions):
            return self.llm
        name = json_sha256([asdict(recipe.stage1), [asdict(source) for source in captions]])[:8]
        out = self.out / f"llm-{name}"
        if out not in self._trained:
            train_captions(
                recipe.stage1,
                recipe.data,
                root=self.root,
                out=out,
                world=self.world,
                progress=self.progress,
                again=True,
            )
            self._trained.add(out)
        return out

    def _clip_data(self, stage2: ClipRecipe, recipe: Recipe, llm: LLMFolder) -> ClipData:
        """The images of stage 2 and the embeddings of their captions, which are made if nobody has."""
        clip = stored_clip_tower(stage2.model, stage2.keep)
        name = json_sha256([llm.fingerprint, clip_identity(clip)])[:8]
        key = json_sha256([name, asdict(recipe.data), stage2.max_missing])
        if key not in self._data:
            store = self.out / f"captions-{name}"
            train_embed(
                stage2,
                recipe.data,
                root=self.root,
                llm=llm.folder,
                out=store,
                device=self.world.device,
                progress=self.progress,
            )
            self._data[key], counts = read_clip_data(
                recipe.data,
                root=self.root,
                llm=llm,
                store=store,
                clip=clip,
                max_missing=stage2.max_missing,
                check=ImageCheck(self.out, self.world, self.progress),
            )
            self.progress("data", 0, 0, counts)
        return self._data[key]

    def _vision(self, stage2: ClipRecipe, recipe: Recipe, data: ClipData, start: Model | None) -> VisionFeatures | None:
        """A frozen tower as an earlier variant has opened it, with the features that it has computed; or None."""
        if stage2.vision.mode != "frozen":
            return None
        begins = start.identity.fingerprint if start else ""
        parts = [asdict(stage2.model.vision), asdict(stage2.augmentation), asdict(recipe.data)]
        key = json_sha256([*parts, stage2.kept_views, stage2.micro_batch, stage2.bf16, begins])
        if key not in self._towers:
            self._towers[key] = open_vision(stage2, data, world=self.world, start=start)
        return self._towers[key]
