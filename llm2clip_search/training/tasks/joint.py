"""The baseline that stage 2 is measured against: the same, but the LLM learns too, by LoRA, within every step.

No caption store can serve it: each step embeds its captions anew and carries gradients through the LLM
(Huang et al., table A4, "LoRA LLM").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from llm2clip_search.base.progress import Progress
from llm2clip_search.encoders.llm import CaptionLLM
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.gradcache import backward_in_parts, embed_by_length, micro_batches_by_length
from llm2clip_search.training.runtime.loop import ParameterGroup
from llm2clip_search.training.runtime.mixed_precision import autocast
from llm2clip_search.training.runtime.seeds import seed_torch
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.clip import ClipRecipe, ClipTask
from llm2clip_search.training.tasks.clip_data import ClipData
from llm2clip_search.training.tasks.llm_folder import LLMFolder
from llm2clip_search.training.tasks.lora import LoraRecipe, add_lora
from llm2clip_search.training.tasks.losses import require_negatives


@dataclass(frozen=True, kw_only=True)
class JointRecipe:
    """Stage 2, and how the LLM learns beside it."""

    stage2: ClipRecipe
    lora: LoraRecipe
    llm_scale: float
    """Of stage 2's learning rate, for the LLM's updates."""
    micro_batch: int
    """Captions that go through the LLM at a time, of similar length."""
    gradient_checkpointing: bool
    max_train_tokens: int


def joint_recipe(stage1: CaptionLLMRecipe, stage2: ClipRecipe) -> JointRecipe:
    """The baseline of a recipe: its stage 2, with the updates and the learning rate that its stage 1 gives the LLM.

    Gradients are cached, as the LLM's graph over a whole batch fits no machine. What stage 2 takes from CLIP's
    own text tower is left out: the LLM alone is compared.
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
    """What one step of the baseline computes; see `loop.Task`."""

    def __init__(
        self,
        recipe: JointRecipe,
        data: ClipData,
        *,
        llm: LLMFolder,
        dev_texts: Mapping[str, Sequence[str]],
        world: World,
        scratch: Path,
        progress: Progress,
    ) -> None:
        """``dev_texts`` are dev's captions by language, in the order of ``data.dev``."""
        super().__init__(recipe.stage2, data, world=world, scratch=scratch, progress=progress)
        self.joint, self.dev_texts = recipe, dev_texts
        self.texts: list[str] = data.captions["caption"].to_pylist()
        embedder = llm.embedder(world.device)
        assert isinstance(embedder.states, CaptionLLM), "only the LLM is asked for"
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
        size = own.stop - own.start
        images = np.array_split(np.arange(own.start, own.stop), -(-size // self.recipe.micro_batch))
        # The first caption of every image, then the second of every image.
        said = [self.texts[row] for row in batch.captions[own].T.reshape(-1)]
        captions, inverse = micro_batches_by_length(self.tokenize.count(said), -(-len(said) // self.joint.micro_batch))
        self.heads.train()
        self.llm.train()

        def encode(part: int) -> torch.Tensor:
            seed_torch(self.recipe.loop.seed, step, "joint dropout", own.start, part)
            if part < len(images):
                return self.heads.images(self.vision.features(self.vision.started(batch, images[part], step)))
            rows = captions[part - len(images)].tolist()
            return self.heads.captions(self._pooled([said[row] for row in rows]))

        def loss_of(embedded: torch.Tensor) -> torch.Tensor:
            everyone = self.world.gather(embedded[:size], count)
            told = embedded[size:][inverse.to(embedded.device)].split(size)  # type: ignore[no-untyped-call]
            losses = [
                self._loss(everyone, self.world.gather(part, count), rows)
                for part, rows in zip(told, batch.captions.T, strict=True)
            ]
            return torch.stack(losses).mean()

        loss = backward_in_parts(encode, len(images) + len(captions), loss_of, cache=self.recipe.gradient_cache)
        return {"loss": float(loss), "temperature": float(1.0 / self.heads.scale.detach())}

    def embed_dev_captions(self, lang: str) -> tuple[np.ndarray, np.ndarray]:
        """As `ClipTask` does, by the LLM as it is now."""
        assert self.dev is not None, "asked for only where there is a dev split"
        return self._embed(self.dev_texts[lang]).cpu().numpy(), self.dev.captions[lang][1]

    def _embed_rows(self, rows: np.ndarray) -> torch.Tensor:
        return self._embed([self.texts[row] for row in rows])

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors float32 ``[n, tower_dim]``."""
        self.heads.eval()
        self.llm.eval()
        lengths, size = self.tokenize.count(texts), self.joint.micro_batch
        return self.heads.captions(embed_by_length(lengths, size, lambda r: self._pooled([texts[row] for row in r])))

    def _pooled(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 ``[n, width]``."""
        tokens = (torch.from_numpy(array[:, : self.joint.max_train_tokens]) for array in self.tokenize(texts))
        with autocast(self.world.device, self.recipe.bf16):
            pooled: torch.Tensor = self.llm(*(array.to(self.world.device) for array in tokens))
        return pooled.float()
