"""Dry runs: memory and time of a stage, estimated from shapes alone; nothing is fetched, read or trained.

Operations and activations are counted by running one sample through towers on torch's meta device. Times assume that
all operations run at the speed of a plain matrix product on this machine, in one process. They are lower bounds: real
steps also move data.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from llm2clip_search.base.memory import resident_bytes
from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.llm import CaptionLLM
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.runtime.costs import Cost, DeviceSpeed, cost_of, count_parameters, measure_flops
from llm2clip_search.training.tasks.caption_llm import PLANNED, CaptionLLMRecipe
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.distillation import stored_clip_tower
from llm2clip_search.training.tasks.empty_towers import clip_width, empty_backbone, empty_llm, llm_shape
from llm2clip_search.training.tasks.llm_folder import EMBED_BATCH
from llm2clip_search.training.tasks.lora import add_lora
from llm2clip_search.training.tasks.vision_training import mark_trained, split_backbone

FLOAT32_BYTES = 4
"""Weights, gradients and optimiser moments are float32, even if products are computed in bfloat16."""

BACKWARD = 0.2
"""Memory that backward passes of a vision tower take beside the activations, for gradients of feature maps and buffers
of kernels, relative to them: measured with the tower of `nano` on a CPU, in float32."""


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """Parameters of a part of the model."""

    name: str
    parameters: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """Estimated cost of a stage in one process."""

    recipe: str
    stage: str
    parts: tuple[ModelPart, ...]
    memory: Mapping[str, int]
    """Bytes by use."""
    disk: int
    """Bytes of the caption store that the stage writes or reads; 0 for stage 1."""
    samples: str
    """What the samples are: ``pairs``, ``captions`` or ``images``."""
    samples_per_step: int
    samples_per_epoch: int
    steps: int
    step_flops: int
    """Floating-point operations per step."""
    speed: DeviceSpeed
    preparation_flops: int = 0
    """Floating-point operations before the first step, for kept views and for finding hard negatives."""

    @property
    def step_seconds(self) -> float:
        """Lower bound of the time per step."""
        return self.step_flops / self.speed.flops

    @property
    def run_seconds(self) -> float:
        """Lower bound of the time of the whole run."""
        return self.steps * self.step_seconds + self.preparation_seconds

    @property
    def preparation_seconds(self) -> float:
        """Lower bound of the time before the first step."""
        return self.preparation_flops / self.speed.flops

    @property
    def epochs(self) -> float:
        return self.steps * self.samples_per_step / self.samples_per_epoch

    def to_dict(self) -> dict[str, Any]:
        derived = {name: getattr(self, name) for name in ("step_seconds", "run_seconds", "epochs")}
        return asdict(self) | derived


@dataclass(frozen=True, kw_only=True)
class VisionCost:
    """What a vision tower costs in stage 2."""

    parameters: int
    trained: int
    image: Cost
    """Cost of one image, without the frozen prefix if its outputs are cached."""
    view_bytes: int
    """Bytes of a cached view: float16 outputs of the frozen prefix, or pixels."""
    view_flops: int
    """Floating-point operations of a cached view: those of the frozen prefix."""
    querybank_bytes: int
    """Bytes that are kept of an image of the querybank: the outputs of the frozen prefix, if there is one."""


def estimate_captions(recipe: Recipe, speed: DeviceSpeed | None = None) -> StageEstimate:
    """Estimate stage 1.

    Args:
        speed: of the device; by default, this machine's CPU is measured.

    Raises:
        ModelError: the shape of the LLM is not known.
    """
    stage = recipe.stage1
    llm = _tuned(stage)
    blocks, tokens = len(llm.model.layers), min(recipe.size.tokens, stage.max_train_tokens)
    one, two = (_caption_cost(_tuned(stage, count), tokens, bf16=stage.bf16) for count in (1, 2))
    cost = _of_blocks(one, two, blocks)
    planned = min(round(PLANNED * recipe.size.tokens), stage.max_train_tokens)
    held, again = cost.activation_bytes * planned // tokens, int(stage.gradient_cache)
    if stage.gradient_checkpointing:
        # The states between blocks are kept; the forward pass of one block at a time is repeated.
        between = planned * llm.model.config.hidden_size * (2 if stage.bf16 else FLOAT32_BYTES)
        held, again = blocks * between + held // blocks, again + 1
    captions = 2 * stage.batch_size
    at_once = min(stage.micro_batch, captions) if stage.gradient_cache else captions
    whole, trained = count_parameters(llm)
    return StageEstimate(
        recipe=recipe.name,
        stage="captions",
        parts=(
            ModelPart(name="LLM", parameters=whole - trained, trained=0),
            ModelPart(name="LoRA", parameters=trained, trained=trained),
        ),
        memory=_states(whole, trained, average=bool(stage.loop.ema_decay)) | {"activations": at_once * held},
        disk=0,
        samples="pairs",
        samples_per_step=stage.batch_size,
        samples_per_epoch=recipe.size.photographs,
        steps=stage.loop.steps,
        step_flops=captions * _flops(cost, again),
        speed=speed or measure_flops("cpu", bf16=stage.bf16),
    )


def estimate_embed(recipe: Recipe, speed: DeviceSpeed | None = None) -> StageEstimate:
    """Estimate the embedding of all captions between the stages, in float32.

    Args:
        speed: of the device; by default, this machine's CPU is measured.

    Raises:
        ModelError: the shape of the LLM is not known.
    """
    llm = empty_llm(recipe.stage1.text)
    one, two = (_caption_cost(empty_llm(recipe.stage1.text, count), recipe.size.tokens) for count in (1, 2))
    whole, _ = count_parameters(llm)
    return StageEstimate(
        recipe=recipe.name,
        stage="embed",
        parts=(ModelPart(name="LLM", parameters=whole, trained=0),),
        memory=_states(whole, 0, average=False),
        disk=_store_bytes(recipe),
        samples="captions",
        samples_per_step=EMBED_BATCH,
        samples_per_epoch=recipe.size.captions,
        steps=-(-recipe.size.captions // EMBED_BATCH),
        step_flops=EMBED_BATCH * _of_blocks(one, two, len(llm.model.layers)).forward,
        speed=speed or measure_flops("cpu", bf16=False),
    )


def estimate_clip(recipe: Recipe, speed: DeviceSpeed | None = None) -> StageEstimate:
    """Estimate stage 2.

    Args:
        speed: of the device; by default, this machine's CPU is measured.

    Raises:
        ModelError: the shapes of towers are not known, or see `vision_cost`.
    """
    stage = recipe.stage2
    assert stage.model.text.adaptor is not None, "a recipe's model has an adaptor"
    tower = vision_cost(stage)
    vision = tower.image
    caption_width = _llm_width(recipe) + clip_width(stage.model.text.clip)
    with torch.device("meta"):
        projection = nn.Linear(vision.width, stage.model.tower_dim) if stage.model.vision.projection else nn.Identity()
        adaptor = Adaptor(caption_width, stage.model.tower_dim, stage.model.text.adaptor)
        caption = torch.zeros(1, caption_width)
    head = cost_of(adaptor, lambda: adaptor(caption))
    parts = tuple(
        ModelPart(name=name, parameters=size, trained=trained)
        for name, (size, trained) in (
            ("vision tower", (tower.parameters, tower.trained)),
            ("projection", count_parameters(projection)),
            ("adaptor", count_parameters(adaptor)),
        )
    )
    whole, trained = sum(part.parameters for part in parts), sum(part.trained for part in parts)
    at_once = min(stage.micro_batch, stage.batch_size) if stage.gradient_cache else stage.batch_size
    texts = stage.batch_size * stage.captions_per_image
    memory = _states(whole, trained, average=bool(stage.loop.ema_decay))
    memory["activations"] = at_once * vision.activation_bytes + texts * head.activation_bytes
    memory["backward pass"] = int(BACKWARD * memory["activations"])
    distils = stage.keep is not None and stage.keep.vision > 0
    if distils:
        memory["original tower"] = FLOAT32_BYTES * tower.parameters
    if stage.kept_views:
        memory["kept views"] = recipe.size.images * stage.kept_views * tower.view_bytes
        if stage.model.querybank and tower.querybank_bytes:
            memory["querybank images"] = min(stage.querybank_size, recipe.size.images) * tower.querybank_bytes
    mined = tower.view_flops + vision.forward if stage.hard_negatives is not None else 0
    return StageEstimate(
        recipe=recipe.name,
        stage="clip",
        parts=parts,
        memory=memory,
        disk=_store_bytes(recipe),
        samples="images",
        samples_per_step=stage.batch_size,
        samples_per_epoch=recipe.size.images,
        steps=stage.loop.steps,
        step_flops=stage.batch_size * _flops(vision, int(stage.gradient_cache) + distils) + texts * _flops(head, 0),
        speed=speed or measure_flops("cpu", bf16=stage.bf16),
        preparation_flops=recipe.size.images * (stage.kept_views * tower.view_flops + mined),
    )


def _tuned(stage: CaptionLLMRecipe, blocks: int = 0) -> CaptionLLM:
    llm = empty_llm(stage.text, blocks)
    with torch.device("meta"):
        add_lora(llm.model, stage.lora, stage.loop.seed)
    return llm.train()


def _caption_cost(llm: CaptionLLM, tokens: int, *, bf16: bool = False) -> Cost:
    """Cost of one caption."""
    with torch.device("meta"):
        ones = torch.ones(1, tokens, dtype=torch.int64)
    cast = llm.to(torch.bfloat16) if bf16 else llm
    return cost_of(cast, lambda: cast(ones, ones, ones))


def _of_blocks(one: Cost, two: Cost, blocks: int) -> Cost:
    """Cost of an LLM with ``blocks`` equal blocks, extrapolated from those with one and two."""

    def whole(name: str) -> int:
        first, both = getattr(one, name), getattr(two, name)
        return int(first + (blocks - 1) * (both - first))

    return Cost(
        forward=whole("forward"),
        backward=whole("backward"),
        activation_bytes=whole("activation_bytes"),
        width=one.width,
    )


def vision_cost(stage: ClipRecipe) -> VisionCost:
    """Count what the vision tower of a recipe costs for one image.

    With cached views the tower is split, which is checked by running it, so it needs weights. One that cannot be split
    has views of pixels, see `VisionFeatures.cache_views`.

    Raises:
        ModelError: a tower of unknown shape, or with fewer blocks than are to be trained.
    """
    config = stage.model.vision
    device = "cpu" if stage.kept_views else "meta"
    backbone = empty_backbone(config, device)
    mark_trained(backbone, stage.vision, stage.loop.seed)
    parameters, trained = count_parameters(backbone)
    view = stage.augmentation.input_of(config.preprocess)
    run, x = backbone, torch.zeros(1, 3, view.height, view.width, device=device)
    if stage.kept_views and stage.vision.mode == "frozen":
        run, x = nn.Identity(), backbone(x).detach()
    elif stage.kept_views and (parts := split_backbone(backbone, x)):
        run, x = parts[1], parts[0](x).detach()
    is_split = run is not backbone
    pixels = torch.zeros(1, 3, view.height, view.width, device=device)
    whole = cost_of(backbone, lambda: backbone(pixels)).forward if is_split else 0
    view_bytes, querybank_bytes = (2 * x.numel(), FLOAT32_BYTES * x.numel()) if is_split else (x.numel(), 0)
    if stage.bf16:
        run, x = run.to(torch.bfloat16), x.to(torch.bfloat16)
    image = cost_of(run, lambda: run(x))
    return VisionCost(
        parameters=parameters,
        trained=trained,
        image=image,
        view_flops=max(0, whole - image.forward),
        view_bytes=view_bytes,
        querybank_bytes=querybank_bytes,
    )


def _flops(cost: Cost, again: int) -> int:
    """Operations of a sample whose forward pass is repeated ``again`` times."""
    return cost.forward * (1 + again) + cost.backward


def _states(whole: int, trained: int, *, average: bool) -> dict[str, int]:
    """Bytes that are held for the whole run: by the program and its libraries, which are loaded now, and by weights;
    AdamW keeps two moments per trained parameter."""
    states = {"weights": whole, "gradients": trained, "optimiser": 2 * trained, "moving average": average * trained}
    held = {name: FLOAT32_BYTES * count for name, count in states.items() if count}
    return {"program": resident_bytes()} | held


def _llm_width(recipe: Recipe) -> int:
    text = recipe.stage1.text
    assert text.weights is not None, "an LLM text tower names its weights"
    return llm_shape(text.weights).hidden_size * len(text.hidden_layers)


def _store_bytes(recipe: Recipe) -> int:
    """Bytes of the caption store: float16 embeddings, and eight bytes per caption id."""
    width = _llm_width(recipe) + clip_width(stored_clip_tower(recipe.stage2.model, recipe.stage2.keep))
    return recipe.size.captions * (2 * width + 8)
