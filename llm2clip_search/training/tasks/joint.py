"""The joint baseline of stage 2: the same training, but with the LLM trained in every step, by LoRA.

It cannot use a caption store: each step embeds its captions and backpropagates through the LLM (Huang et al., table
A4, "LoRA LLM").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from llm2clip_search.base.progress import Progress
from llm2clip_search.encoders.llm import CaptionLLM
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.gradcache import backward_in_parts, embed_by_length, micro_batches_by_length
from llm2clip_search.training.runtime.mixed_precision import autocast
from llm2clip_search.training.runtime.parameter_groups import ParameterGroup
from llm2clip_search.training.runtime.seeds import seed_torch
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.clip_data import ClipData, Dev
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.llm_folder import LLMFolder
from llm2clip_search.training.tasks.lora import LoraRecipe, add_lora
from llm2clip_search.training.tasks.losses import require_negatives
from llm2clip_search.training.tasks.vision_features import VisionFeatures


@dataclass(frozen=True, kw_only=True)
class JointRecipe:
    """Stage 2, and how the LLM is trained along with it."""

    stage2: ClipRecipe
    lora: LoraRecipe
    llm_scale: float
    """Factor on stage 2's learning rate for the LLM's low-rank updates."""
    micro_batch: int
    """Captions in one forward pass of the LLM, of similar length."""
    gradient_checkpointing: bool
    max_train_tokens: int


def joint_recipe(stage1: CaptionLLMRecipe, stage2: ClipRecipe) -> JointRecipe:
    """The joint baseline of a recipe: its stage 2, with LoRA and the LLM's learning rate as in its stage 1.

    Gradients are cached, because the LLM's graph of a whole batch does not fit in memory. CLIP's own text tower is
    not used: the comparison is about the LLM alone.
    """
    model = stage2.model
    return JointRecipe(
        stage2=replace(
            stage2, gradient_cache=True, keep=None, model=replace(model, text=replace(model.text, clip=None))
        ),
        lora=stage1.lora,
        llm_scale=stage1.loop.learning_rate / stage2.loop.learning_rate,
        micro_batch=stage1.micro_batch,
        gradient_checkpointing=stage1.gradient_checkpointing,
        max_train_tokens=stage1.max_train_tokens,
    )


class JointTask(ClipTask):
    """The task of the joint baseline; see `loop.Task`."""

    def __init__(
        self,
        recipe: JointRecipe,
        data: ClipData,
        *,
        llm: LLMFolder,
        world: World,
        scratch: Path,
        progress: Progress,
        vision: VisionFeatures | None = None,
    ) -> None:
        """Set up stage 2, see `ClipTask`, and load the LLM."""
        super().__init__(recipe.stage2, data, world=world, scratch=scratch, progress=progress, vision=vision)
        self.joint = recipe
        self.texts: list[str] = data.captions["caption"].to_pylist()
        embedder = llm.embedder(world.device)
        assert isinstance(embedder.states, CaptionLLM), "no CLIP text tower was requested"
        self.llm, self.tokenize = embedder.states, embedder.tokenize
        add_lora(self.llm.model, recipe.lora, recipe.stage2.loop.seed)
        if recipe.gradient_checkpointing:
            self.llm.model.gradient_checkpointing_enable({"use_reentrant": False})

    def groups(self) -> list[ParameterGroup]:
        updates = {f"llm.{name}": p for name, p in self.llm.named_parameters() if p.requires_grad}
        return [*super().groups(), ParameterGroup(parameters=updates, scale=self.joint.llm_scale)]

    def backward(self, step: int) -> dict[str, float]:
        batch = self.data.draw(step)
        count, own = len(batch.images), self.world.slice(len(batch.images))
        require_negatives(torch.from_numpy(batch.images))
        size, at_once = own.stop - own.start, self.micro_batches.size
        images = np.array_split(np.arange(own.start, own.stop), -(-size // at_once))
        # The first caption of every image, then the second of every image, and so on.
        texts = [self.texts[row] for row in batch.captions[own].T.reshape(-1)]
        captions_at_once = max(1, self.joint.micro_batch * at_once // self.recipe.micro_batch)
        captions, inverse = micro_batches_by_length(self.tokenize.count(texts), -(-len(texts) // captions_at_once))
        self.heads.train()
        self.llm.train()

        def encode(part: int) -> torch.Tensor:
            seed_torch(self.recipe.loop.seed, step, "joint dropout", own.start, part)
            if part < len(images):
                outputs = self.vision.prefix_outputs(batch, images[part], step)
                return self.heads.image_vectors(self.vision.features(outputs))
            rows = captions[part - len(images)].tolist()
            return self.heads.caption_vectors(self._pooled([texts[row] for row in rows]))

        def loss_of(embedded: torch.Tensor) -> torch.Tensor:
            everyone = self.world.gather(embedded[:size], count)
            ordered = embedded[size:][inverse.to(embedded.device)].split(size)  # type: ignore[no-untyped-call]
            losses = [
                self._loss(everyone, self.world.gather(part, count), rows)
                for part, rows in zip(ordered, batch.captions.T, strict=True)
            ]
            return torch.stack(losses).mean()

        loss = backward_in_parts(encode, len(images) + len(captions), loss_of, cache=self.micro_batches.cached)
        return {"loss": float(loss), "temperature": float(1.0 / self.heads.scale.detach())}

    def embed_dev_captions(self, dev: Dev, lang: str) -> tuple[np.ndarray, np.ndarray]:
        """As in `ClipTask`, but with the LLM's current weights instead of stored embeddings."""
        return self._embed_texts(dev.texts[lang]).cpu().numpy(), dev.captions[lang][1]

    def _embed_rows(self, rows: np.ndarray) -> torch.Tensor:
        return self._embed_texts([self.texts[row] for row in rows])

    @torch.no_grad()
    def _embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed captions: float32 ``[n, tower_dim]``, L2-normalised."""
        self.heads.eval()
        self.llm.eval()
        lengths, size = self.tokenize.count(texts), self.joint.micro_batch
        pooled = embed_by_length(lengths, size, lambda rows: self._pooled([texts[row] for row in rows]), self.world)
        return self.heads.caption_vectors(pooled)

    def _pooled(self, texts: Sequence[str]) -> torch.Tensor:
        """Pooled states of captions, float32 ``[n, width]``."""
        tokens = (torch.from_numpy(array[:, : self.joint.max_train_tokens]) for array in self.tokenize(texts))
        with autocast(self.world.device, self.recipe.bf16):
            pooled: torch.Tensor = self.llm(*(array.to(self.world.device) for array in tokens))
        return pooled.float()
