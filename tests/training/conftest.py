"""A recipe with tiny random towers, its data, and what its stages make."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm2clip_search.training import Recipe, find_recipe
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.tasks.vision_training import VisionTraining
from tests.support.tiny_stages import embed, run
from tests.support.tiny_training import TinyTowers, of_flickr8k, save_towers, shrink, write_flickr8k


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> TinyTowers:
    return save_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_flickr8k(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(towers: TinyTowers) -> Recipe:
    """`nano` with tiny towers, in float32: eight steps, a checkpoint every three, all randomness enabled, and the last
    two blocks of the vision tower trained."""
    tiny = shrink(of_flickr8k(find_recipe("nano")), towers, steps=8)
    captions = replace(tiny.stage1, loop=replace(tiny.stage1.loop, checkpoint_every=3, evaluate_every=4))
    captions = replace(captions, lora=replace(captions.lora, rank=2, dropout=0.1), bf16=False)
    clip = replace(
        tiny.stage2,
        loop=replace(tiny.stage2.loop, checkpoint_every=3, evaluate_every=4),
        vision=VisionTraining(mode="last", blocks=2, scale=0.1),
        kept_views=8,
        long_ratio=0.5,
        lang_weights={"en": 1.0, "de": 0.6, "zh": 0.6, "fr": 0.4, "cs": 0.4},
        augmentation=Augmentation(crop=0.5, aspect=1.33, flip=True, colour=0.4),
        caption_noise=0.1,
        bf16=False,
    )
    return replace(tiny, stage1=captions, stage2=clip)


@pytest.fixture(scope="module")
def made(recipe: Recipe, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``llm``, ``store`` and ``model`` from uninterrupted runs.

    They use one thread, as runs in other processes do: bits depend on how many there are.
    """
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    run("captions", recipe, root, folder, folder / "llm")
    embed(recipe, root, folder / "llm", folder / "store")
    run("clip", recipe, root, folder, folder / "model")
    return folder
