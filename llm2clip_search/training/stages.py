"""The stages of training, one function each: read the data, run the loop, write the result."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.progress import Progress
from llm2clip_search.cluster.items import texts_on_ray
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.encoders.llm import save_tokenizer
from llm2clip_search.training.data.caption_store import SHARD_ROWS, CaptionStore, StoredDtype, fill_caption_store
from llm2clip_search.training.data.caption_table import read_caption_table
from llm2clip_search.training.data.pairs import CaptionPairSampler
from llm2clip_search.training.data.recipe import DataRecipe
from llm2clip_search.training.data.training_captions import read_stage2_captions, read_training_captions
from llm2clip_search.training.model_card import write_card
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.loop import run_loop
from llm2clip_search.training.runtime.metrics_log import read_metrics
from llm2clip_search.training.runtime.plots import plot_run
from llm2clip_search.training.tasks.caption_encoder import CaptionEncoder
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe, CaptionLLMTask
from llm2clip_search.training.tasks.clip import ClipRecipe, ClipTask
from llm2clip_search.training.tasks.clip_data import read_clip_data
from llm2clip_search.training.tasks.distillation import stored_clip_tower
from llm2clip_search.training.tasks.llm_folder import clip_identity, read_llm, write_llm


def train_captions(
    recipe: CaptionLLMRecipe, data: DataRecipe, *, root: Path, out: Path, world: World, progress: Progress
) -> dict[str, float]:
    """Stage 1: fine-tune an LLM on captions and write it to ``out``.

    Args:
        root: the folder that paths in ``data`` are relative to.
        out: an interrupted run in this folder is resumed.

    Returns:
        Metrics on dev; empty without a dev split.

    Raises:
        CorpusError: captions are missing, or contain no pairs.
        ModelError: weights cannot be fetched, or the loss is not finite.
    """
    assert recipe.text.weights is not None, "an LLM text tower names its weights"
    out.mkdir(parents=True, exist_ok=True)
    captions, counts = read_training_captions(data.captions, data, root)
    pairs = CaptionPairSampler(
        captions,
        source_weights=[source.weight for source in data.captions],
        lang_weights=recipe.lang_weights,
        instructions=recipe.instructions,
        joined=recipe.joined,
        seed=recipe.loop.seed,
    )
    counts["photographs"] = len(pairs)
    progress("data", 0, 0, counts)
    dev = None
    if data.dev:
        first = data.dev[0].captions
        table, _ = read_caption_table(root, [replace(first, langs=first.langs[:1])])
        dev = (table["caption"].to_pylist(), _enumerated(table["photo"].to_pylist()))
    if world.is_main:
        save_tokenizer(recipe.text.weights, out)
    world.barrier()
    task = CaptionLLMTask(recipe, pairs, tokenizer=out, dev=dev, world=world)
    inputs = json_sha256([asdict(recipe), _content(captions)])[:16]
    figures = run_loop(task, recipe.loop, out=out, inputs=inputs, world=world, progress=progress)
    tensors, similarities = task.tensors(), task.similarities()
    if world.is_main:
        plot_run(out, similarities)
        write_llm(out, recipe.text, tensors)
        write_run(out, "captions", asdict(recipe), asdict(data), counts, figures)
    return figures


def train_embed(
    recipe: ClipRecipe,
    data: DataRecipe,
    *,
    root: Path,
    llm: Path,
    out: Path,
    device: str,
    dtype: StoredDtype = "float16",
    shard_rows: int = SHARD_ROWS,
    cluster: ClusterConfig | None = None,
    progress: Progress,
) -> tuple[int, int]:
    """Between the stages: embed every caption of stage 2 and of dev once, with the LLM.

    If the recipe fuses a CLIP text tower with the LLM or distils from it, that tower embeds the captions too.

    Args:
        root: the folder that paths in ``data`` are relative to.
        llm: folder that stage 1 wrote.
        out: folder of the caption store; captions that it already holds are not embedded again.
        device: of this process, or of each process of the cluster.
        cluster: embed there; by default in this process.
        shard_rows: captions per shard, which is what an interrupted call loses at most.

    Returns:
        Number of captions embedded by this call, and number of captions in the store.

    Raises:
        CorpusError: captions are missing.
        ModelError: ``llm`` is not a caption-tuned LLM, or weights cannot be fetched.
        StoreError: ``out`` holds embeddings of other models or of another dtype.
    """
    folder = read_llm(llm)
    clip = stored_clip_tower(recipe.model, recipe.keep)
    captions, _ = read_stage2_captions(data, root)
    dev = [read_caption_table(root, [split.captions])[0] for split in data.dev]
    encoder = CaptionEncoder(llm, device=device, clip=clip)
    embed, parts = encoder.embedder, None
    if cluster is not None:
        source = encoder.source(llm, device=device, clip=clip)
        parts = partial(texts_on_ray, source=source, config=cluster, owner=str(out.absolute()))
    done = fill_caption_store(
        pa.concat_tables([captions, *dev]),
        embed,
        out=out,
        llm=folder.fingerprint,
        llm_folder=llm,
        width=embed.width,
        clip=clip_identity(clip),
        clip_width=embed.clip_width,
        dtype=dtype,
        shard_rows=shard_rows,
        embed_parts=parts,
        progress=progress,
    )
    return done, len(CaptionStore(out))


def train_clip(
    recipe: ClipRecipe,
    data: DataRecipe,
    *,
    root: Path,
    llm: Path,
    store: Path,
    out: Path,
    world: World,
    progress: Progress,
) -> dict[str, float]:
    """Stage 2: train a vision tower and an adaptor, and write a model folder to ``out``.

    Args:
        root: the folder that paths in ``data`` are relative to.
        llm: folder that stage 1 wrote.
        store: folder of the caption store that `train_embed` wrote.
        out: an interrupted run in this folder is resumed.

    Returns:
        Metrics on dev; empty without a dev split.

    Raises:
        CorpusError: images or captions are missing or do not match.
        ModelError: weights cannot be fetched, or the loss is not finite.
        StoreError: the store was made by another LLM, or lacks some of the captions.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = read_llm(llm)
    text = replace(folder.text, adaptor=recipe.model.text.adaptor, clip=recipe.model.text.clip)
    recipe = replace(recipe, model=replace(recipe.model, text=text))
    read, counts = read_clip_data(
        data,
        root=root,
        llm=folder,
        store=store,
        clip=stored_clip_tower(recipe.model, recipe.keep),
        max_missing=recipe.max_missing,
    )
    progress("data", 0, 0, counts)
    task = ClipTask(recipe, read, world=world, scratch=out, progress=progress)
    content = [_content(read.captions), read.captioned.image_ids]
    inputs = json_sha256([asdict(recipe), folder.fingerprint, read.store.info.clip, content])[:16]
    figures = run_loop(task, recipe.loop, out=out, inputs=inputs, world=world, progress=progress)
    tensors, similarities = folder.tensors() | task.tensors(), task.similarities()
    if world.is_main:
        plot_run(out, similarities)
        from safetensors.torch import save_file

        save_file(tensors, out / "model.safetensors")
        for views in out.glob("views-*"):
            views.unlink()
        shutil.copyfile(llm / "tokenizer.json", out / "tokenizer.json")
        (out / "config.json").write_text(json.dumps(recipe.model.to_dict(), indent=1) + "\n", encoding="utf-8")
        write_card(out, recipe, counts=counts, figures=figures)
        write_run(out, "clip", asdict(recipe), asdict(data), counts, figures)
    return figures


def _enumerated(names: Sequence[str]) -> np.ndarray:
    """Names as int64 numbers in order of first occurrence."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _content(captions: pa.Table) -> list[int]:
    """Identifies the content of a caption table, for the digest of a run's inputs."""
    return [len(captions), int(np.bitwise_xor.reduce(captions["caption_id"].to_numpy()))]


def write_run(
    out: Path,
    stage: str,
    recipe: Mapping[str, object],
    data: Mapping[str, object],
    counts: Mapping[str, int],
    figures: Mapping[str, float],
) -> None:
    """Write ``run.json``: the recipe and data of a stage, its counts and metrics, and the seconds its steps took."""
    run = {
        "stage": stage,
        "recipe": recipe,
        "data": data,
        "counts": counts,
        "figures": figures,
        "seconds": round(sum(line.get("seconds", 0.0) for line in read_metrics(out / "metrics.jsonl"))),
    }
    (out / "run.json").write_text(json.dumps(run, indent=1, default=str) + "\n", encoding="utf-8")
