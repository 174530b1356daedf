"""The speed of training steps, measured on the CPU with a small tower."""

from dataclasses import replace
from pathlib import Path

import pytest

from llm2clip_search.training import find_recipe
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.step_speed import measure_step_speed


@pytest.mark.slow
def test_steps_are_a_share_of_the_matrix_rate(tmp_path: Path) -> None:
    """The same with views that were decoded before; both train on as many images as a batch has."""
    recipe = find_recipe("llama3.2-1b-openai-b16-cc3m")
    vision = replace(recipe.stage2.model.vision, architecture="ViT-S-32-alt")
    stage = replace(recipe.stage2, batch_size=6, micro_batch=3, model=replace(recipe.stage2.model, vision=vision))
    for views in (0, 1):
        (folder := tmp_path / str(views)).mkdir()
        whole = replace(recipe, stage2=replace(stage, kept_views=views))
        speed = measure_step_speed(whole, folder, steps=2, world=World())
        assert (speed.batch_size, speed.micro_batch, speed.gradient_cache, speed.kept_views) == (6, 3, True, views)
        # ViT-S/32 is stated to have 1.1 billion multiplications and additions: two passes, and one backwards.
        gflop = 1000 * speed.tflops / speed.images_per_second
        assert gflop == pytest.approx(2.2 * (2 + 2), rel=0.1)
        assert speed.share == pytest.approx(speed.tflops / speed.matrix)
        assert speed.peak_bytes > 0
