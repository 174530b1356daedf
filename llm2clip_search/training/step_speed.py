"""Speed of the steps of stage 2 as a share of the device's matrix rate:
``python -m llm2clip_search.training.step_speed RECIPE``, in one process or in several started by torchrun.

Weights, pictures and the embeddings of captions are random, because speed does not depend on them: no hub is asked, and
the LLM does not run in stage 2.
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from llm2clip_search.base.progress import no_progress
from llm2clip_search.encoders.random_weights import write_random_weights
from llm2clip_search.training import Recipe, find_recipe
from llm2clip_search.training.comparison import timed_steps
from llm2clip_search.training.data.caption_store import fill_caption_store
from llm2clip_search.training.data.caption_table import CaptionSource
from llm2clip_search.training.data.recipe import DataRecipe
from llm2clip_search.training.data.training_captions import read_stage2_captions
from llm2clip_search.training.dry_run import estimate_clip
from llm2clip_search.training.runtime.costs import measure_flops
from llm2clip_search.training.runtime.distributed import World, join_process_group
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.clip_data import read_clip_data
from llm2clip_search.training.tasks.empty_towers import llm_shape
from llm2clip_search.training.tasks.llm_folder import LLMFolder

RANDOM = "random"
"""Stands for the fingerprint of an LLM that nothing was embedded with."""
PICTURES = 512
"""Different ones; the others have the same bytes."""
PICTURE_SIDE = 384
"""Pixels, the size that img2dataset writes in the paper's data."""


@dataclass(frozen=True, kw_only=True)
class StepSpeed:
    """Speed of a recipe's steps, without evaluations and checkpoints."""

    recipe: str
    device: str
    processes: int
    batch_size: int
    micro_batch: int
    """Images in a forward pass after memory has run out, if it has."""
    gradient_cache: bool
    kept_views: int
    """Views of an image that were decoded before; 0 if every step decodes its images."""
    images_per_second: float
    """Of all processes together."""
    peak_bytes: int
    """See `comparison.MethodMeasurement`."""
    tflops: float
    """Floating-point operations of a step by its time, in units of 10^12 a second; those of the second forward pass of
    gradient caching count, and those of the loss do not."""
    matrix: float
    """The same of plain matrix products on all devices, in the recipe's precision."""

    @property
    def share(self) -> float:
        return self.tflops / self.matrix


def measure_step_speed(recipe: Recipe, folder: Path, *, steps: int, world: World) -> StepSpeed:
    """Train on as many random images as a batch has.

    Args:
        recipe: its vision tower is one of open_clip's.
        folder: an empty one, which all processes can read; nothing in it is needed afterwards.
        steps: at least two; the first one is not counted.

    Raises:
        ModelError: memory runs out.
    """
    stage = recipe.stage2
    vision = stage.model.vision
    weights, store = folder / "weights.safetensors", folder / "captions"
    data = DataRecipe(captions=(), images=("images",), image_captions=(CaptionSource(path="captions.csv"),))
    if world.is_main:
        write_random_weights(vision.architecture, weights)
        _write_pictures(folder, stage.batch_size)
    world.barrier()
    captions, _ = read_stage2_captions(data, folder)
    if world.is_main:
        width = llm_shape(recipe.stage1.text.weights or "").hidden_size
        draw = np.random.default_rng(0)
        fill_caption_store(
            captions,
            lambda texts: draw.standard_normal((len(texts), width), dtype=np.float32),
            out=store,
            llm=RANDOM,
            llm_folder=folder,
            width=width,
            progress=no_progress,
        )
    world.barrier()
    llm = LLMFolder(folder, recipe.stage1.text, RANDOM)
    read, _ = read_clip_data(data, root=folder, llm=llm, store=store, clip=None, max_missing=0.0)
    stage = replace(stage, model=replace(stage.model, vision=replace(vision, weights=str(weights))))
    task = ClipTask(stage, read, world=world, scratch=folder, progress=no_progress)
    timed = timed_steps(task, steps, out=folder / "run", world=world, progress=no_progress)
    speed = measure_flops(world.device, bf16=stage.bf16)
    divided = replace(stage, micro_batch=task.micro_batches.size, gradient_cache=task.micro_batches.cached)
    operations = estimate_clip(replace(recipe, stage2=divided), speed).step_flops
    return StepSpeed(
        recipe=recipe.name,
        device=torch.cuda.get_device_name(world.device) if world.device.startswith("cuda") else world.device,
        processes=world.size,
        batch_size=stage.batch_size,
        micro_batch=divided.micro_batch,
        gradient_cache=divided.gradient_cache,
        kept_views=stage.kept_views,
        images_per_second=stage.batch_size / timed.seconds,
        peak_bytes=timed.peak_bytes,
        tflops=operations / timed.seconds / 1e12,
        matrix=world.size * speed.flops / 1e12,
    )


def _write_pictures(folder: Path, count: int) -> None:
    """JPEG files of coloured fields with grain, and a caption for each."""
    (folder / "images").mkdir()

    def write(number: int) -> None:
        draw = np.random.default_rng(number)
        side = (PICTURE_SIDE, PICTURE_SIDE)
        fields = Image.fromarray(draw.integers(0, 256, (12, 12, 3), np.uint8)).resize(side, Image.Resampling.BICUBIC)
        grain = draw.normal(0.0, 8.0, (*side, 1))
        path = folder / "images" / f"{number:06d}.jpg"
        Image.fromarray((np.asarray(fields) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        for other in range(number + PICTURES, count, PICTURES):
            path.with_stem(f"{other:06d}").write_bytes(path.read_bytes())

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(min(PICTURES, count))))
    rows = [f"{number:06d}.jpg,picture {number}\n" for number in range(count)]
    (folder / "captions.csv").write_text("image_id,caption\n" + "".join(rows), encoding="utf-8")


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="with a vision tower of open_clip, such as llama3.2-1b-openai-l14-cc3m")
    parser.add_argument("--batch", type=int, default=16_384, help="images in a step")
    parser.add_argument("--micro-batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kept-views", type=int, default=0, help="views of each image that are decoded before")
    parser.add_argument("--sharding", choices=("replicate", "shard"), default="replicate")
    given = parser.parse_args()
    recipe = find_recipe(given.recipe)
    stage = replace(recipe.stage2, batch_size=given.batch, micro_batch=given.micro_batch, kept_views=given.kept_views)
    world = join_process_group(sharding=given.sharding)
    with tempfile.TemporaryDirectory(prefix="llm2clip-steps-") as own:
        shared = [own]
        if world.size > 1:
            torch.distributed.broadcast_object_list(shared)
        speed = measure_step_speed(replace(recipe, stage2=stage), Path(shared[0]), steps=given.steps, world=world)
        world.barrier()
    if world.is_main:
        with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
            out.write(json.dumps(asdict(speed) | {"share": speed.share}) + "\n")


if __name__ == "__main__":
    main()
