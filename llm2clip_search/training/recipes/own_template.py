"""The commented recipe file for own data, with settings chosen by its size."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm2clip_search.training.data.own_recipe import EvaluationSource, OwnSource
from llm2clip_search.training.data.own_report import SplitReport
from llm2clip_search.training.recipes.toml_file import changed, to_toml
from llm2clip_search.training.runtime.mixed_precision import PrecisionTimes

SMALL = 2000
"""Training images up to which a set is small: its steps take minutes on two cores."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings for a number of training images."""

    batch_size: int
    steps: int
    kept_views: int

    @classmethod
    def for_images(cls, count: int) -> "Preset":
        """Few images are seen about fifteen times, many about five times."""
        batch = min(128 if count <= SMALL else 256, count)
        epochs = 15 if count <= SMALL else 5
        return cls(batch_size=batch, steps=max(20, -(-epochs * count // batch)), kept_views=4 if count <= SMALL else 2)

    @property
    def evaluate_every(self) -> int:
        return max(5, self.steps // 8)


def own_recipe_text(
    name: str,
    start: str,
    *,
    llm: str,
    tunes_llm: bool,
    train: Sequence[OwnSource],
    val: Sequence[OwnSource],
    evaluation: Sequence[EvaluationSource],
    found: SplitReport,
    vision_times: PrecisionTimes,
    llm_times: PrecisionTimes,
) -> str:
    """The text of a recipe file.

    Args:
        llm: the model whose LLM reads captions, if only the vision tower of ``start`` is taken; empty otherwise.
        tunes_llm: whether the recipe has stage 1.
        found: in the training split.
        vision_times: of training steps like those of the vision tower, which decide its precision.
        llm_times: likewise, of the LLM.
    """
    preset = Preset.for_images(found.images)
    sources = "".join(
        to_toml({"data": {kind: [changed(each) for each in listed]}})
        for kind, listed in (("train", train), ("val", val))
        if listed
    )
    negatives = "" if llm else _NEGATIVES
    stage1 = _stage1(found, llm_times) if tunes_llm else ""
    share = "" if val else "\n# Without a source for validation, this share of the photographs is not trained on.\n"
    share += "" if val else "[data]\nval_share = 0.15\nseed = 0\n"
    sets = to_toml({"evaluation": [changed(each) for each in evaluation]}) if evaluation else ""
    long = ""
    if found.most > 1:
        table = {"data": {"long": {"parts": [min(5, found.most)], "langs": list(found.langs)}}}
        long = f"\n# Long captions are made of several short ones of an image.{to_toml(table)}"
    return f"""\
# A recipe for own data. Train with it, and go on after an interruption, by:
#
#     llm2clip-search train run {name}.toml
#
# Fields that are not here have their defaults; docs/recipes.md describes all of them.

{to_toml({"name": name})}
{_start(start, llm, tunes_llm)}
# Licence of the new model, if it is not that of the start model; and the terms of the training data.
licence = ""
terms = ""
{share}
# Sources are what an index can be made from; paths are relative to this file.{sources}{long}
# Sets that are evaluated before and after training show what the model has forgotten, such as:
#
#     [[evaluation]]
#     name = "flickr8k"
#     source = "flickr8k/flickr8k-dev-*.tar"
{sets}
{stage1}# Stage 2: the last blocks of the vision tower, its projection and the adaptor are trained.
[clip]
batch_size = {preset.batch_size}
# Images in one forward pass; fewer take less memory.
micro_batch = {min(64, preset.batch_size)}
captions_per_image = {min(2, found.most)}
temperature = 0.05
# Augmented views of every image that are computed once, before training.
kept_views = {preset.kept_views}
querybank_size = {min(500, found.images)}
vision_dropout = 0.1
text_dropout = 0.1
{_precision(vision_times)}

[clip.loop]
steps = {preset.steps}
learning_rate = 3e-4
warmup_steps = 5
weight_decay = 0.1
ema_decay = 0.9
{"" if llm else _MIX}evaluate_every = {preset.evaluate_every}
checkpoint_every = {preset.evaluate_every}
# Evaluations without an improvement after which training ends early.
patience = 3

# "full" trains all blocks, "lora" low-rank updates, "frozen" none.
[clip.vision]
mode = "last"
blocks = 2
{"" if llm else _SLOW}
{_KEEP.format(text_steps=preset.steps // 4) if llm else _ANCHOR}
{negatives}[clip.augmentation]
crop = 0.6
flip = true
"""


def _start(start: str, llm: str, tunes_llm: bool) -> str:
    if not llm:
        what = "" if tunes_llm else " Its LLM is taken as it is."
        return f"# The model to begin from.{what}\n{to_toml({'start': start})}"
    what = "" if tunes_llm else ", as it is"
    return (
        f"# The model whose vision tower is taken, and the one whose LLM reads captions{what}. The adaptor is new.\n"
        f"{to_toml({'start': start, 'llm': llm})}"
    )


def _precision(times: PrecisionTimes) -> str:
    return f"# Measured by train init: {times}.\nbf16 = {str(times.prefers_bf16).lower()}"


def _stage1(found: SplitReport, times: PrecisionTimes) -> str:
    batch = min(64, found.images)
    steps = max(20, -(-5 * found.images // batch))
    every = max(5, steps // 8)
    return _STAGE1.format(batch=batch, micro=min(32, batch), precision=_precision(times), steps=steps, every=every)


_STAGE1 = """\
# Stage 1: the LLM learns which captions describe the same image. Without this table it is taken as it is.
[captions]
# Pairs of captions; images with one caption are not used.
batch_size = {batch}
# Captions in one forward pass; fewer take less memory.
micro_batch = {micro}
gradient_cache = true
{precision}

[captions.loop]
steps = {steps}
learning_rate = 3e-4
warmup_steps = 5
ema_decay = 0.9
evaluate_every = {every}
checkpoint_every = {every}
patience = 3

# Low-rank updates, which are added to those that the LLM has.
[captions.lora]
rank = 16

"""
_MIX = """\
# So large a share of the weights is that of the start model, which keeps what it knew; 0 forgets more and learns more.
mix = 0.6
"""
_SLOW = """\
# Factor on the learning rate: the tower changes less than what comes after it, which forgets less.
scale = 0.3
"""
_ANCHOR = """\
# Embeddings are held close to those of the start model.
[clip.anchor]
images = 1.0
captions = 1.0
"""
_NEGATIVES = """\
# Batches with images that the start model confuses are made by:
#
#     [clip.hard_negatives]
#     share = 0.5

"""
_KEEP = """\
# First the adaptor alone learns the embeddings of the start model's own text tower; then its vision tower is held close
# to what it was.
[clip.keep]
text_steps = {text_steps}
vision = 1.0
"""
