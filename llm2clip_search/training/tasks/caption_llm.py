"""Stage 1: fine-tune an LLM on captions, so that captions of one photograph are close (Huang et al., section 3.1).

LoRA on a decoder with bidirectional attention, with supervised InfoNCE over pairs of captions of one photograph; the
other photographs of the batch are the negatives.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.llm import CaptionLLM, load_caption_llm, load_llm
from llm2clip_search.encoders.tokenization import LLMTokenizer
from llm2clip_search.evaluation.caption_retrieval import caption_retrieval_accuracy, queries_and_gallery
from llm2clip_search.training.data.pairs import CaptionPairSampler, Instructions, PairBatch
from llm2clip_search.training.runtime.allowed_values import contrastive_values, require_values
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.gradcache import backward_in_parts, embed_by_length, micro_batches_by_length
from llm2clip_search.training.runtime.loop import LoopRecipe
from llm2clip_search.training.runtime.micro_batches import MicroBatches, division_by_length
from llm2clip_search.training.runtime.mixed_precision import autocast
from llm2clip_search.training.runtime.parameter_groups import ParameterGroup
from llm2clip_search.training.runtime.plots import Similarities
from llm2clip_search.training.runtime.seeds import generator, seed_torch
from llm2clip_search.training.runtime.sharding import distribute_module
from llm2clip_search.training.tasks.lora import LoraRecipe, add_lora, lora_tensors, stacked_lora
from llm2clip_search.training.tasks.losses import info_nce, require_negatives

Value = TypeVar("Value")

STATISTICS_CAPTIONS = 4096
"""Number of captions that the statistics of pooled states are computed from."""
PLANNED = 1.5
"""Tokens of a caption that memory is planned with, relative to the mean of the training captions: batches of
captions of similar length are padded to the longest. For longer ones, such as joined captions, see
`division_by_length`."""
EVALUATION_BATCH = 128
"""Captions in one forward pass of the LLM without gradients."""


@dataclass(frozen=True, kw_only=True)
class CaptionLLMRecipe:
    """Stage 1, except for the data."""

    text: TextConfig
    """The LLM, and how its states are pooled."""
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    """Its low-rank updates."""
    loop: LoopRecipe
    """Steps, rates and checkpoints."""
    batch_size: int
    """Pairs per step, over all ranks."""
    micro_batch: int
    """Captions in one forward pass of the LLM, of similar length."""
    gradient_cache: bool = False
    """Embed twice and keep the graph of only one micro-batch in memory; see `gradcache`."""
    gradient_checkpointing: bool = False
    """Keep only the states between blocks, and compute the others twice."""
    temperature: float = 0.05
    """Temperature of the contrastive loss."""
    lang_weights: Mapping[str, float] = field(default_factory=dict)
    """Sampling weights of a batch's languages, for queries and for positives; languages not listed have weight 1."""
    joined: float = 0.0
    """Probability of a batch of joined captions: of each photograph, two texts that consist of one or several of its
    captions, none in both. The LLM learns from them what long captions have in common with short ones."""
    instructions: Instructions = field(default_factory=Instructions)
    """Texts before the queries."""
    bf16: bool = True
    """Compute in bfloat16; weights stay float32."""
    max_train_tokens: int = 128
    """Longer training captions are truncated."""

    def __post_init__(self) -> None:
        require_values(
            self,
            {
                **contrastive_values(self),
                "joined": (0.0 <= self.joined <= 1.0, "between 0 and 1"),
                "max_train_tokens": (self.max_train_tokens >= 1, "at least 1"),
            },
        )


class CaptionLLMTask:
    """The task of stage 1; see `loop.Task`."""

    def __init__(
        self,
        recipe: CaptionLLMRecipe,
        pairs: CaptionPairSampler,
        *,
        tokenizer: Path,
        dev: tuple[Sequence[str], np.ndarray] | None,
        world: World,
        start: Mapping[str, torch.Tensor] | None = None,
        progress: Progress = no_progress,
    ) -> None:
        """Load the LLM and add low-rank updates, which change nothing at first.

        Args:
            tokenizer: folder of its ``tokenizer.json``.
            dev: captions that it is evaluated on, and the number of the photograph of each; None for no evaluation.
            start: tensors of the caption-tuned LLM to begin from, as in its folder; None for the published one.
        """
        assert recipe.text.weights is not None, "an LLM text tower names its weights"
        self.recipe, self.pairs, self.dev, self.world = recipe, pairs, dev, world
        self._progress = progress if world.is_main else no_progress
        self.samples_per_step = 2 * recipe.batch_size
        self.micro_batches = MicroBatches(size=recipe.micro_batch, cached=recipe.gradient_cache)
        self.tokenize = LLMTokenizer(tokenizer, recipe.text)
        self._planned = PLANNED * float(np.mean(self._read(self.tokenize.count(self._sample()))))
        self.start = {name.removeprefix("text."): tensor for name, tensor in (start or {}).items()}
        if start is None:
            self.llm = CaptionLLM(load_llm(recipe.text.weights), recipe.text)
        else:
            self.llm = load_caption_llm(recipe.text, tensors=self.start)
        add_lora(self.llm.model, recipe.lora, recipe.loop.seed)
        if world.device == "cpu":
            # For captions of twenty tokens, torch's fused CPU kernel takes twice as long as plain products.
            self.llm.model.set_attn_implementation("eager")
        if recipe.gradient_checkpointing:
            self.llm.model.gradient_checkpointing_enable({"use_reentrant": False})
        distribute_module(self.llm, self.llm.model.layers, world)
        self.llm.train()
        if recipe.text.standardised and start is None:
            self._standardise()

    @torch.no_grad()
    def _standardise(self) -> None:
        """Set the mean and deviation of the untuned LLM's pooled states; training does not change them."""
        states = self._embed_shared("captions for the statistics", self._sample(), self._pooled)
        self.llm.mean.copy_(states.mean(dim=0))
        self.llm.std.copy_(states.std(dim=0) + 1e-4)

    def _sample(self) -> list[str]:
        """Captions that statistics are computed from, the same ones each time."""
        draws = generator(self.recipe.loop.seed, 0, "statistics")
        rows = draws.choice(len(self.pairs.texts), size=min(STATISTICS_CAPTIONS, len(self.pairs.texts)), replace=False)
        return [self.pairs.texts[row] for row in rows]

    def _read(self, tokens: Sequence[int]) -> list[int]:
        """How many of a caption's tokens are read, for each."""
        return [min(count, self.recipe.max_train_tokens) for count in tokens]

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(parameters={n: p for n, p in self.llm.named_parameters() if p.requires_grad})]

    def backward(self, step: int) -> dict[str, float]:
        batch = self.pairs.draw(step, self.recipe.batch_size)
        require_negatives(batch.query_photos)
        count, total = len(batch.queries), len(batch.gallery)
        own, negatives = self.world.slice(count), self.world.slice(total - count)

        def local_of(queries: list[Value], gallery: list[Value]) -> list[Value]:
            return [*queries[own], *gallery[:count][own], *gallery[count:][negatives]]

        local = local_of(batch.queries, batch.gallery)
        instructions = [*batch.instructions[own], *[""] * (len(local) - len(batch.queries[own]))]
        tokens = self.tokenize.count([*batch.queries, *batch.gallery])
        division = division_by_length(self.micro_batches, self._read(tokens), planned=self._planned)
        number = self.world.num_micro_batches(count, count, total - count, size=division.size)
        parts, inverse = micro_batches_by_length(local_of(tokens[:count], tokens[count:]), number)
        queries = len(batch.queries[own])

        def encode(part: int) -> torch.Tensor:
            seed_torch(self.recipe.loop.seed, step, "dropout", self.world.rank, part)
            rows = parts[part].tolist()
            return self.embed([local[row] for row in rows], [instructions[row] for row in rows])

        def loss_of(embedded: torch.Tensor) -> torch.Tensor:
            embedded = embedded[inverse.to(embedded.device)]
            query = self.world.gather(embedded[:queries], count)
            gallery = self.world.gather(embedded[queries : 2 * queries], count)
            if total > count:
                gallery = torch.cat([gallery, self.world.gather(embedded[2 * queries :], total - count)])
            return self._loss(batch, query, gallery)

        loss = backward_in_parts(encode, len(parts), loss_of, cache=division.cached)
        return {"loss": float(loss)}

    def _loss(self, batch: PairBatch, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
        """Symmetric InfoNCE; captions that also describe the query's photograph are not negatives."""
        scale, count = 1.0 / self.recipe.temperature, len(queries)
        same = batch.same_photograph().to(queries.device)
        forward = info_nce(queries, gallery, scale, same)
        backward = info_nce(gallery[:count], queries, scale, same[:, :count].T)
        return (forward + backward) / 2.0

    def embed(self, texts: Sequence[str], instructions: Sequence[str] | None = None) -> torch.Tensor:
        """Embed captions: float32 ``[n, width]``, L2-normalised."""
        return F.normalize(self._pooled(texts, instructions), dim=-1)

    def _pooled(self, texts: Sequence[str], instructions: Sequence[str] | None = None) -> torch.Tensor:
        tokens = self.tokenize(texts, instructions if instructions and any(instructions) else None)
        ids, attention, pooling = (torch.from_numpy(array[:, : self.recipe.max_train_tokens]) for array in tokens)
        device = self.world.device
        with autocast(device, self.recipe.bf16):
            pooled: torch.Tensor = self.llm(ids.to(device), attention.to(device), pooling.to(device))
        return pooled.float()

    def evaluate(self) -> dict[str, float]:
        """Caption retrieval accuracy on dev; see `evaluation.caption_retrieval`."""
        if self.dev is None:
            return {}
        return {"caption_retrieval": caption_retrieval_accuracy(self.embed_dev(), self.dev[1])}

    def similarities(self) -> Similarities | None:
        """Similarities between the queries and the gallery of `evaluate`; None without a dev split."""
        if self.dev is None:
            return None
        vectors, image_of = self.embed_dev(), self.dev[1]
        queries, gallery = queries_and_gallery(image_of)
        return Similarities.between(vectors[queries], vectors[gallery], image_of[queries], image_of[gallery])

    @torch.no_grad()
    def embed_dev(self) -> np.ndarray:
        """Embed dev's captions: float32 ``[n, width]``, L2-normalised."""
        assert self.dev is not None, "the recipe has a dev split"
        texts, _ = self.dev
        self.llm.eval()
        vectors = self._embed_shared("captions for the evaluation", texts, self.embed)
        self.llm.train()
        out: np.ndarray = vectors.cpu().numpy()
        return out

    def _embed_shared(
        self, task: str, texts: Sequence[str], embed: Callable[[Sequence[str]], torch.Tensor]
    ) -> torch.Tensor:
        """Embed captions, a share on each rank, and report how many have been; all ranks have to call this."""
        count, done = len(texts), 0

        def reported(rows: list[int]) -> torch.Tensor:
            nonlocal done
            embedded = embed([texts[row] for row in rows])
            done += len(rows)
            self._progress(task, min(count, done * self.world.size), count, {})
            return embedded

        return embed_by_length(self.tokenize.count(texts), EVALUATION_BATCH, reported, self.world)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The trained tensors, by their names in a model folder; collective."""
        former = {name.removeprefix("lora."): t for name, t in self.start.items() if name.startswith("lora.")}
        updates = stacked_lora(former, lora_tensors(self.llm.model))
        tensors = {f"text.lora.{name}": tensor for name, tensor in updates.items()}
        if self.recipe.text.standardised:
            tensors |= {"text.states.mean": self.llm.mean.cpu(), "text.states.std": self.llm.std.cpu()}
        return tensors
