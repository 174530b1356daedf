"""Distillation of CLIP's text embeddings and vision tower, fused text towers, and loading of trained folders."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.encoders.images import read_rgb
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.errors import Llm2ClipError, ModelError, StoreError
from llm2clip_search.training import stages
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.caption_store import CaptionStore, read_store_info
from llm2clip_search.training.data.caption_table import CaptionSource, caption_id
from llm2clip_search.training.data.recipe import DataRecipe, DevSplit
from llm2clip_search.training.runtime.distributed import Sharding, World, join_process_group
from llm2clip_search.training.runtime.loop import LoopRecipe, run_loop
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.clip_data import read_clip_data
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.distillation import (
    Distillation,
    distillation_loss,
    instance_alignment,
    stored_clip_tower,
    structure_alignment,
)
from llm2clip_search.training.tasks.llm_folder import read_llm, write_llm
from llm2clip_search.training.tasks.vision_training import VisionTraining
from tests.support.corpus import write_csv
from tests.support.dual import save_dual
from tests.support.images import photograph
from tests.support.models import save_llm, save_tokenizer
from tests.support.tiny_open_clip import save_open_clip
from tests.support.toy_training import free_port, start

COLOURS = ("red", "blue", "green", "black")
CAPTIONS = [f"a {colour} {thing}" for colour in COLOURS for thing in ("dog", "house", "man by a lake")]
DATA = DataRecipe(
    captions=(CaptionSource(path="captions.csv"),),
    images=("images",),
    image_captions=(CaptionSource(path="captions.csv"),),
    dev=(DevSplit(name="dev", captions=CaptionSource(path="dev.csv", langs=("en",)), images=("dev",)),),
)


@dataclass(frozen=True)
class Corner:
    """A tiny corpus, a tiny caption-tuned LLM and a tiny CLIP."""

    root: Path
    clip: VisionConfig

    @property
    def clip_text(self) -> TextConfig:
        return TextConfig(
            library="transformers", weights=self.clip.weights, max_tokens=16, attention="causal", pooling="last"
        )

    def recipe(self, *, model: Mapping[str, Any] | None = None, steps: int = 4, **changes: Any) -> ClipRecipe:
        text = TextConfig(library="llm", weights=None, max_tokens=24, adaptor=AdaptorConfig(blocks=1))
        made = ModelConfig(name="tiny", dim=24, vision=self.clip, text=text)
        values: dict[str, Any] = {
            "model": replace(made, **model or {}),
            "loop": LoopRecipe(steps=steps, learning_rate=3e-3, checkpoint_every=2),
            "batch_size": 8,
            "micro_batch": 4,
            "vision": VisionTraining(mode="full"),
            "augmentation": Augmentation(crop=0.8),
        }
        return ClipRecipe(**values | changes)

    @property
    def fused(self) -> dict[str, Any]:
        """Changes to a model: a fused text tower, and a new projection as in LLM2CLIP."""
        text = TextConfig(
            library="llm", weights=None, max_tokens=24, adaptor=AdaptorConfig(blocks=1), clip=self.clip_text
        )
        return {"dim": 16, "vision": replace(self.clip, projection=True), "text": text}

    def embed(self, recipe: ClipRecipe, out: Path) -> Path:
        stages.train_embed(
            recipe, DATA, root=self.root, llm=self.root / "llm", out=out, device="cpu", progress=lambda *_: None
        )
        return out

    def train(
        self,
        recipe: ClipRecipe,
        out: Path,
        store: Path,
        *,
        progress: Progress = no_progress,
        world: World = World(),
    ) -> Path:
        stages.train_clip(
            recipe, DATA, root=self.root, llm=self.root / "llm", store=store, out=out, world=world, progress=progress
        )
        return out

    def trained_task(self, recipe: ClipRecipe, scratch: Path, store: Path) -> ClipTask:
        """A task trained as `train` does, which is deterministic."""
        llm, clip = read_llm(self.root / "llm"), stored_clip_tower(recipe.model, recipe.keep)
        data, _ = read_clip_data(DATA, root=self.root, llm=llm, store=store, clip=clip, max_missing=0.0)
        task = ClipTask(recipe, data, world=World(), scratch=scratch, progress=no_progress)
        run_loop(task, recipe.loop, out=scratch, inputs="", world=World(), progress=no_progress)
        return task

    def dev_images(self) -> list[Path]:
        return sorted((self.root / "dev").iterdir())


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Corner:
    root = tmp_path_factory.mktemp("keeping")
    for name, first in (("images", 0), ("dev", 100)):
        (root / name).mkdir()
        for number in range(len(CAPTIONS)):
            photograph(first + number).save(root / name / f"{name}-{number:02d}.png")
        rows = [{"image_id": f"{name}-{number:02d}.png", "caption": text} for number, text in enumerate(CAPTIONS)]
        write_csv(root / {"images": "captions.csv", "dev": "dev.csv"}[name], rows)
    save_llm(root / "llm" / "base")
    save_tokenizer(root / "llm")
    torch.manual_seed(5)
    layer = "text.lora.layers.1.mlp.up_proj"
    tensors = {f"{layer}.down": torch.randn(2, 32).half() / 8, f"{layer}.up": torch.randn(64, 2).half() / 8}
    tensors |= {"text.states.mean": torch.randn(32), "text.states.std": torch.rand(32) + 0.5}
    base = f"dir:{root / 'llm' / 'base'}"
    write_llm(root / "llm", TextConfig(library="llm", weights=base, max_tokens=24, standardised=True), tensors)
    save_dual(root / "clip", "clip")
    preprocess = PreprocessConfig(height=32, width=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    clip = VisionConfig(library="transformers", architecture="", weights=f"dir:{root / 'clip'}", preprocess=preprocess)
    return Corner(root, clip)


@pytest.fixture(scope="module")
def store(corner: Corner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the embeddings of the LLM and of CLIP."""
    return corner.embed(corner.recipe(model=corner.fused), tmp_path_factory.mktemp("store"))


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    normal: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normal


@pytest.mark.parametrize("count", [2, 7, 40])
def test_losses_equal_numpy(count: int) -> None:
    student, teacher = unit(count, 6, 0), unit(count, 6, 1)
    instance = np.mean([((a - b) ** 2).sum() for a, b in zip(student, teacher, strict=True)])
    terms = []
    for i in range(count):
        for j in range(i + 1, count):
            off = abs(np.linalg.norm(student[i] - student[j]) - np.linalg.norm(teacher[i] - teacher[j]))
            terms.append(0.5 * off**2 if off < 1.0 else off - 0.5)
    ours, theirs = torch.from_numpy(student), torch.from_numpy(teacher)
    assert float(instance_alignment(ours, theirs)) == pytest.approx(instance, rel=1e-5)
    assert float(structure_alignment(ours, theirs)) == pytest.approx(np.mean(terms), rel=1e-4)
    assert float(distillation_loss(ours, theirs, 3.0)) == pytest.approx(instance + 3.0 * np.mean(terms), rel=1e-4)
    assert float(distillation_loss(ours, ours, 3.0)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("count", [4, 40])
def test_equal_captions_have_a_gradient(count: int) -> None:
    """Their distance is 0, where the square root has no derivative."""
    student = torch.from_numpy(unit(count, 6, 0)).float()
    student[1] = student[0]
    student.requires_grad_()
    distillation_loss(student, torch.from_numpy(unit(count, 6, 1)).float(), 1.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_a_fused_model_can_be_loaded(corner: Corner, store: Path, tmp_path: Path) -> None:
    """The encoder gives the vectors of the task, up to float16 matrices; the store holds both embeddings."""
    info = read_store_info(store)
    assert (info.width, info.clip_width) == (56, 24)
    assert f"dir:{corner.root / 'clip'} (" in info.clip
    recipe = corner.recipe(model=corner.fused)
    out = corner.train(recipe, tmp_path / "model", store)
    task = corner.trained_task(recipe, tmp_path / "task", store)
    encoder = load_encoder(f"dir:{out}", runtime="torch", device="cpu")
    assert resolve(f"dir:{out}").config.text.clip == corner.clip_text
    learnt, _ = task.embed_dev_captions(task.dev[0], "en")
    np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), learnt, atol=3e-3)
    np.testing.assert_allclose(
        encoder.encode_images(corner.dev_images()), task.embed_dev_images(task.dev[0]), atol=3e-3
    )
    plain = load_encoder(corner.clip.weights or "", runtime="torch", device="cpu").encode_texts(CAPTIONS)
    opened = CaptionStore(store)
    rows = opened.embeddings(opened.positions(np.array([caption_id(text) for text in CAPTIONS])))
    np.testing.assert_allclose(rows[:, 32:], plain, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(rows[:, :32].astype(np.float32), axis=1), 1.0, atol=1e-3)


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_warm_up_learns_clips_text_embeddings(corner: Corner, store: Path, tmp_path: Path) -> None:
    keep = Distillation(text_steps=60)
    loop = LoopRecipe(steps=61, learning_rate=3e-3)
    out = corner.train(corner.recipe(keep=keep, loop=loop, vision=VisionTraining()), tmp_path / "a", store)
    losses = losses_of(out)
    assert losses[59] < 0.3 * losses[0]
    clip = load_encoder(corner.clip.weights or "", runtime="torch", device="cpu")
    encoder = load_encoder(f"dir:{out}", runtime="torch", device="cpu")
    distance = ((encoder.encode_texts(CAPTIONS) - clip.encode_texts(CAPTIONS)) ** 2).sum(axis=1).mean()
    assert distance < 0.3 * losses[0]
    np.testing.assert_allclose(encoder.encode_images(corner.dev_images()), clip.encode_images(corner.dev_images()))
    assert encoder.dim == clip.dim
    assert resolve(f"dir:{out}").config.text.clip is None


def vision_change(corner: Corner, out: Path) -> float:
    """Mean squared distance between the vectors of a trained model and of CLIP, for dev's images."""
    images = [read_rgb(path) for path in corner.dev_images()]
    encoders = [load_encoder(name, runtime="torch", device="cpu") for name in (f"dir:{out}", corner.clip.weights or "")]
    trained, original = (encoder.encode_images(images) for encoder in encoders)
    return float(((trained - original) ** 2).sum(axis=1).mean())


def test_distilled_vision_embeddings_change_less(corner: Corner, store: Path, tmp_path: Path) -> None:
    loop = LoopRecipe(steps=12, learning_rate=1e-3)
    free, held = (
        vision_change(corner, corner.train(corner.recipe(keep=keep, loop=loop), tmp_path / name, store))
        for name, keep in {"free": None, "held": Distillation(vision=5.0)}.items()
    )
    assert free > 2.0 * held > 0.0


def test_cached_and_resumed_runs_give_the_same_weights(corner: Corner, store: Path, tmp_path: Path) -> None:
    """Killed during and after the warm-up: equal bit by bit; with the gradient cache, up to rounding."""
    recipe = corner.recipe(keep=Distillation(text_steps=3), steps=6)
    whole = load_file(corner.train(recipe, tmp_path / "whole", store) / "model.safetensors")

    def dying(at: int) -> Callable[..., None]:
        def report(what: str, done: int, *_: object) -> None:
            if what == "training" and done == at:
                raise KeyboardInterrupt

        return report

    for at in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            corner.train(recipe, tmp_path / "killed", store, progress=dying(at))
    resumed = load_file(corner.train(recipe, tmp_path / "killed", store) / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    cached = corner.train(replace(recipe, gradient_cache=True), tmp_path / "cached", store)
    for name, tensor in load_file(cached / "model.safetensors").items():
        torch.testing.assert_close(tensor.float(), whole[name].float(), atol=2e-3, rtol=1e-2)


def train_on_ranks(rank: int, port: int, corner: Corner, recipe: ClipRecipe, out: Path, store: Path) -> None:
    """One of two processes."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    for sharding in get_args(Sharding):
        corner.train(recipe, out / sharding, store, world=join_process_group("cpu", sharding))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_distil_like_one(corner: Corner, store: Path, tmp_path: Path) -> None:
    """Both distillations use the whole batch, replicated and sharded."""
    recipe = corner.recipe(keep=Distillation(text_steps=1), steps=3)
    whole = load_file(corner.train(recipe, tmp_path / "one", store) / "model.safetensors")
    port = free_port()
    processes = [start(train_on_ranks, rank, port, corner, recipe, tmp_path / "two", store) for rank in range(2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for sharding in get_args(Sharding):
        out = tmp_path / "two" / sharding
        np.testing.assert_allclose(losses_of(out), losses_of(tmp_path / "one"), rtol=1e-4)
        for name, tensor in load_file(out / "model.safetensors").items():
            torch.testing.assert_close(tensor.float(), whole[name].float(), atol=2e-3, rtol=1e-2)


def test_an_open_clip_tower_is_distilled(corner: Corner, tmp_path: Path) -> None:
    weights = save_open_clip(tmp_path, "tiny-kept")
    clip = VisionConfig(
        library="open_clip",
        architecture="tiny-kept",
        weights=str(weights),
        preprocess=PreprocessConfig(height=32, width=32),
    )
    recipe = corner.recipe(model={"vision": clip, "dim": 20}, keep=Distillation(text_steps=20), steps=22)
    store = corner.embed(recipe, tmp_path / "store")
    out = corner.train(recipe, tmp_path / "model", store)
    losses = losses_of(out)
    assert losses[19] < 0.7 * losses[0]
    encoder = load_encoder(f"dir:{out}", runtime="torch", device="cpu")
    assert encoder.encode_images(corner.dev_images()).shape == (len(CAPTIONS), 20)
    assert "vision.projection.weight" not in load_file(out / "model.safetensors")


def test_a_store_without_clips_embeddings_is_refused(corner: Corner, store: Path, tmp_path: Path) -> None:
    plain = corner.embed(corner.recipe(), tmp_path / "plain")
    assert (read_store_info(plain).width, read_store_info(plain).clip) == (32, "")
    for recipe in (corner.recipe(keep=Distillation(text_steps=2)), corner.recipe(model=corner.fused)):
        with pytest.raises(
            StoreError,
            match=r"plain holds text embeddings of no CLIP, but the recipe needs those of dir:.*clip \(",
        ) as raised:
            corner.train(recipe, tmp_path / "model", plain)
        assert "train embed" in raised.value.hint
        with pytest.raises(StoreError, match=r"of no CLIP, but the recipe needs those of dir:") as raised:
            corner.embed(recipe, plain)
        assert "--out" in raised.value.hint
    with pytest.raises(StoreError, match=r"of dir:.*, but the recipe needs none") as raised:
        corner.embed(corner.recipe(), store)
    assert raised.value.hint == "Name another folder with --out."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: {"model": {"vision": replace(c.clip, projection=True)}},
            r"tiny distils CLIP, .* vision\.projection",
        ),
        (
            lambda _: {"keep": Distillation(text_steps=4)},
            "Of 4 steps, 4 learn CLIP's text embeddings, so none is contrastive",
        ),
        (lambda _: {"keep": Distillation(vision=-1.0)}, r"cannot have vision -1\.0: it has to be at least 0"),
        (lambda _: {"keep": Distillation(structure=float("nan"))}, "cannot have structure nan"),
        (
            lambda c: {"model": {"vision": replace(c.clip, library="timm", architecture="test_vit")}},
            "The vision tower test_vit of timm has no text tower of its own",
        ),
        (
            lambda c: {"model": {**c.fused, "dim": 24, "vision": replace(c.clip, weights=f"{c.clip.weights}-two")}},
            r"fuses the text tower .*, but distils transformers/dir:.*-two, the vision tower's own",
        ),
        (
            lambda _: {"model": {"dim": 20}},
            r"has 24 dimensions and no .* but the model has 20; set the recipe's dim to 24",
        ),
    ],
)
def test_invalid_distillations_are_refused(
    corner: Corner, store: Path, tmp_path: Path, change: Callable[[Corner], dict[str, Any]], message: str
) -> None:
    two = Path(f"{corner.root / 'clip'}-two")
    if not two.exists():
        two.symlink_to(corner.root / "clip")
    with pytest.raises(Llm2ClipError, match=message):
        corner.train(corner.recipe(**{"keep": Distillation(text_steps=1), **change(corner)}), tmp_path, store)


def test_which_clip_the_store_has_to_hold(corner: Corner) -> None:
    assert stored_clip_tower(corner.recipe().model, None) is None
    assert stored_clip_tower(corner.recipe().model, Distillation()) is None
    assert stored_clip_tower(corner.recipe().model, Distillation(text_steps=1)) == corner.clip_text
    assert stored_clip_tower(corner.recipe(model=corner.fused).model, None) == corner.clip_text
    with pytest.raises(ModelError):
        Distillation(text_steps=-1)
