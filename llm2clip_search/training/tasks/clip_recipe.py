"""The recipe of stage 2."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.hard_negatives import HardNegatives
from llm2clip_search.training.runtime.allowed_values import contrastive_values, require_values
from llm2clip_search.training.runtime.loop import LoopRecipe
from llm2clip_search.training.tasks.distillation import Anchor, Distillation, require_clip_space
from llm2clip_search.training.tasks.vision_training import VisionTraining


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """Stage 2, except for the data and the LLM."""

    model: ModelConfig
    """The model to train; the LLM of its text tower is replaced by that of the caption store."""
    loop: LoopRecipe
    """Steps, rates and checkpoints."""
    batch_size: int
    """Images per step, over all ranks."""
    micro_batch: int
    """Images in one forward pass of the vision tower."""
    gradient_cache: bool = False
    """Embed twice and keep the graph of only one micro-batch in memory; see `gradcache`."""
    loss: Literal["clip", "siglip"] = "clip"
    """That of CLIP or that of SigLIP."""
    temperature: float = 0.07
    """Initial temperature; it is learned, with a minimum of 0.01."""
    captions_per_image: int = 1
    """Captions per image and step. Each is compared in a contrastive batch of its own; the images are embedded once
    for all of them."""
    long_ratio: float = 0.5
    """Probability of a long caption for images with captions of both length classes."""
    lang_weights: Mapping[str, float] = field(default_factory=dict)
    """Sampling weights of captions by language; languages not listed have weight 1."""
    vision: VisionTraining = field(default_factory=VisionTraining)
    """Which parts of the vision tower are trained."""
    keep: Distillation | None = None
    """Distillation that preserves CLIP's knowledge; None for none."""
    anchor: Anchor | None = None
    """Distillation from the model that training begins from; None for none."""
    hard_negatives: HardNegatives | None = None
    """Batches with images that the model that training begins from confuses; None for batches drawn at random."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How images are changed at random."""
    kept_views: int = 0
    """Cached views per image: augmented views that pass through the frozen prefix of the vision tower once, before
    training. Each step uses one of them. 0 draws a new view every time and runs the whole tower."""
    vision_dropout: float = 0.0
    """Dropout on the vision tower's features."""
    text_dropout: float = 0.0
    """Dropout in the adaptor's blocks and before its projection."""
    querybank_size: int = 2000
    """Size of the querybank, if the model has one: training images, with one caption each, a long one if there is
    any. Long captions gain most from the querybank; banks of short or mixed captions help them less."""
    caption_noise: float = 0.0
    """Standard deviation of Gaussian noise on caption embeddings, relative to their own standard deviation."""
    bf16: bool = False
    """Compute in bfloat16; weights stay float32."""
    max_missing: float = 0.01
    """Largest accepted fraction of images without captions, and of captioned images that are missing; both are
    skipped."""

    def __post_init__(self) -> None:
        require_values(
            self,
            {
                **contrastive_values(self),
                "captions_per_image": (self.captions_per_image >= 1, "at least 1"),
                "long_ratio": (0.0 <= self.long_ratio <= 1.0, "between 0 and 1"),
                "kept_views": (self.kept_views >= 0, "0 or more"),
                "vision_dropout": (0.0 <= self.vision_dropout < 1.0, "at least 0 and less than 1"),
                "text_dropout": (0.0 <= self.text_dropout < 1.0, "at least 0 and less than 1"),
                "caption_noise": (self.caption_noise >= 0.0, "0 or more"),
                "max_missing": (0.0 <= self.max_missing <= 1.0, "between 0 and 1"),
            },
        )
        if self.model.querybank and self.querybank_size < 1:
            raise ValueError(f"querybank_size is {self.querybank_size}, but the model's querybank needs at least 1")
        if self.keep is not None:
            require_clip_space(self.model, self.keep, self.loop.steps)
