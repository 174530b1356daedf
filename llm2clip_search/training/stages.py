"""The stages of training, one function each: read the data, run the loop, write the result."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.base.files import remove_leftovers, replace_file, replaced_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.base.memory import return_freed_memory
from llm2clip_search.base.progress import Progress
from llm2clip_search.cluster.items import texts_on_ray
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.encoders.folders import copy_terms
from llm2clip_search.encoders.llm import save_tokenizer
from llm2clip_search.encoders.model import Model
from llm2clip_search.errors import ModelError
from llm2clip_search.evaluation.caption_retrieval import queries_and_gallery
from llm2clip_search.training.data.caption_store import SHARD_ROWS, CaptionStore, StoredDtype, fill_caption_store
from llm2clip_search.training.data.caption_table import EMPTY, REPEATED, content_digest, read_caption_table
from llm2clip_search.training.data.dev_captions import read_dev_captions
from llm2clip_search.training.data.image_check import ImageCheck
from llm2clip_search.training.data.left_out import warn_of, write_left_out
from llm2clip_search.training.data.pairs import CaptionPairSampler
from llm2clip_search.training.data.recipe import DataRecipe
from llm2clip_search.training.data.training_captions import read_stage2_captions, read_training_captions
from llm2clip_search.training.dev_ranks import RANKS, write_ranks
from llm2clip_search.training.model_card import when_before, write_card
from llm2clip_search.training.run_page import PAGE, RunFacts, RunPage
from llm2clip_search.training.runtime.checkpoint import START_OVER
from llm2clip_search.training.runtime.distributed import World
from llm2clip_search.training.runtime.loop import LoopResult, run_loop
from llm2clip_search.training.runtime.metrics_log import read_metrics
from llm2clip_search.training.runtime.plots import plot_run
from llm2clip_search.training.tasks.caption_encoder import CaptionEncoder
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe, CaptionLLMTask
from llm2clip_search.training.tasks.clip import ClipTask
from llm2clip_search.training.tasks.clip_data import ClipData, read_clip_data
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.distillation import stored_clip_tower
from llm2clip_search.training.tasks.hard_negative_mining import NEIGHBOURS
from llm2clip_search.training.tasks.llm_folder import LLMFolder, clip_identity, read_llm, write_llm


def train_captions(
    recipe: CaptionLLMRecipe,
    data: DataRecipe,
    *,
    root: Path,
    out: Path,
    world: World,
    progress: Progress,
    start: LLMFolder | None = None,
    again: bool = False,
) -> dict[str, float]:
    """Stage 1: fine-tune an LLM on captions and write it to ``out``.

    Args:
        root: the folder that paths in ``data`` are relative to.
        out: an interrupted run in this folder is resumed; a finished one is not repeated.
        start: the caption-tuned LLM to begin from, whose text tower is that of the recipe; None for the published one.
        again: train again if the folder holds a finished LLM of another recipe or of other data.

    Returns:
        Metrics on dev; empty without a dev split.

    Raises:
        CorpusError: captions are missing, or contain no pairs.
        ModelError: weights cannot be fetched, the loss is not finite, or ``out`` holds an LLM of another recipe or of
            other data.
    """
    assert recipe.text.weights is not None, "an LLM text tower names its weights"
    out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, str, str]] = []
    captions, counts = read_training_captions(data.captions, data, root, lambda *row: found.append(row))
    pairs = CaptionPairSampler(
        captions,
        source_weights=[source.weight for source in data.captions],
        lang_weights=recipe.lang_weights,
        instructions=recipe.instructions,
        joined=recipe.joined,
        seed=recipe.loop.seed,
    )
    counts |= {"photographs": len(pairs), "photographs without two captions": len(pairs.without_pair)}
    counts |= {"photographs in another source too": pairs.repeated}
    if world.is_main:
        write_left_out(out, [*found, *(("photographs without two captions", name, "") for name in pairs.without_pair)])
        progress("data", 0, 0, counts)
        warn_of(found)
    dev, content = None, list[object]([content_digest(captions)])
    if data.dev:
        first = data.dev[0].captions
        table, _ = read_caption_table(root, [replace(first, langs=first.langs[:1])])
        content.append(content_digest(table))
        photos = _enumerated(table["photo"].to_pylist())
        counts["dev photographs with two captions"] = paired = len(queries_and_gallery(photos)[0])
        dev = (table["caption"].to_pylist(), photos) if paired > 1 else None
    if len(set(weights := [source.weight for source in data.captions])) > 1:
        content.append(weights)
    inputs = json_sha256([asdict(recipe), content, *([start.fingerprint] if start else [])])[:16]
    if (done := finished(out, inputs, again=again)) is not None:
        return done
    if world.is_main:
        if start is None:
            save_tokenizer(recipe.text.weights, out)
        else:
            shutil.copyfile(start.folder / "tokenizer.json", out / "tokenizer.json")
    world.barrier()
    task = CaptionLLMTask(
        recipe,
        pairs,
        tokenizer=out,
        dev=dev,
        world=world,
        start=start.tensors() if start is not None else None,
        progress=progress,
    )
    result = run_loop(task, recipe.loop, out=out, inputs=inputs, world=world, progress=progress)
    tensors, similarities = task.tensors(), task.similarities()
    if world.is_main:
        plot_run(out, similarities)
        write_llm(out, recipe.text, tensors)
        write_run(out, "captions", asdict(recipe), asdict(data), counts, result, inputs)
    return result.figures


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
    dev = [read_dev_captions(root, split) for split in data.dev]
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
    start: Model | None = None,
    again: bool = False,
    page: Path | None = None,
) -> dict[str, float]:
    """Stage 2: train a vision tower and an adaptor, and write a model folder to ``out``.

    Args:
        root: the folder that paths in ``data`` are relative to.
        llm: folder that stage 1 wrote.
        store: folder of the caption store that `train_embed` wrote.
        out: an interrupted run in this folder is resumed; a finished one is not repeated.
        start: the model to begin from, which is evaluated before the first step; None for published base weights.
        again: train again if the folder holds a finished model of another recipe or of other data.
        page: HTML file that shows the run, written at each evaluation and at the end; by default in ``out``.

    Returns:
        Metrics on dev; empty without a dev split.

    Raises:
        CorpusError: images or captions are missing or do not match.
        ModelError: weights cannot be fetched, the loss is not finite, or ``out`` holds a model of another recipe or of
            other data.
        StoreError: the store was made by another LLM, or lacks some of the captions.
    """
    out.mkdir(parents=True, exist_ok=True)
    page = page or out / PAGE
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
        check=ImageCheck(out, world, progress),
    )
    if world.is_main:
        for path in (page, out / RANKS):
            remove_leftovers(path)
        write_left_out(out, read.left_out)
        progress("data", 0, 0, counts)
        warn_of([row for row in read.left_out if row[0] in (EMPTY, REPEATED)])
    inputs = clip_inputs(recipe, folder, read, start)
    if (done := finished(out, inputs, again=again)) is not None:
        return done
    return_freed_memory()  # of reading the data, and of the LLM that may have embedded it
    task = ClipTask(recipe, read, world=world, scratch=out, progress=progress, start=start)
    facts = RunFacts(
        name=recipe.model.name,
        steps=recipe.loop.steps,
        start=start.reference if start else "",
        before=when_before(folder.folder),
        counts=counts,
    )
    shown = RunPage(page, out, facts, task.dev_vectors() if start is not None else None)

    def evaluated(step: int, improved: bool) -> None:
        if improved:
            write_ranks(out, task.dev, task.ranks)
        shown.write(task.evaluated, step)

    result = run_loop(
        task,
        recipe.loop,
        out=out,
        inputs=inputs,
        world=world,
        progress=progress,
        evaluate_first=start is not None,
        evaluated=evaluated,
    )
    tensors, kept = folder.tensors() | task.tensors(), task.dev_vectors()
    if world.is_main:
        plot_run(out, kept.similarities() if kept else None)
        shown.write(kept, result.selected)
        from safetensors.torch import save_file

        with replaced_file(out / "model.safetensors") as temporary:
            save_file(tensors, temporary)
        for scratch in (*out.glob("views-*"), *out.glob(NEIGHBOURS)):
            scratch.unlink()
        shutil.copyfile(folder.folder / "tokenizer.json", out / "tokenizer.json")
        if start is not None and start.folder is not None:
            copy_terms(start.folder, out)
        (out / "config.json").write_text(json.dumps(recipe.model.to_dict(), indent=1) + "\n", encoding="utf-8")
        bank = len(tensors["vision.querybank.bank"]) if recipe.model.querybank else 0
        write_card(out, recipe, counts=counts, result=result, bank=bank, llm=folder.folder, start=start)
        write_run(out, "clip", asdict(recipe), asdict(data), counts, result, inputs)
    return result.figures


def clip_inputs(recipe: ClipRecipe, llm: LLMFolder, read: ClipData, start: Model | None) -> str:
    """Digest of all that a run of stage 2 depends on: 16 hex digits, the same on every machine."""
    content: list[object] = [content_digest(read.captions), read.captioned.image_ids]
    content.append(start.identity.fingerprint if start else "")
    image_of = [[each.tolist() for _, each in dev.captions.values()] for dev in read.dev]
    content += [[dev.name, dev.image_ids, dev.texts, of] for dev, of in zip(read.dev, image_of, strict=True)]
    # Usual ones are left out, so that runs of versions which did not look at them are known again.
    if len(set(weights := read.captioned.weights.tolist())) > 1:
        content.append(weights)
    if not all(selects := [dev.selects for dev in read.dev]):
        content.append(selects)
    return json_sha256([asdict(recipe), llm.fingerprint, read.store.info.clip, content])[:16]


def finished(out: Path, inputs: str, *, again: bool = False) -> dict[str, float] | None:
    """The metrics of a stage that ended in a folder with these inputs; None if it has not ended yet.

    Raises:
        ModelError: a stage has ended there with other inputs, and is not to be done ``again``.
    """
    try:
        run = json.loads((out / "run.json").read_text(encoding="utf-8"))
        figures, known = dict(run["figures"]), run["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if known == inputs:
        (out / "last.pt").unlink(missing_ok=True)  # a kill may have left it
        return figures
    if not again:
        raise ModelError(
            f"{out} holds the result of another recipe or of other data (digest {known}, now {inputs}).",
            hint=START_OVER,
        )
    return None


def before_training(out: Path) -> dict[str, float]:
    """The metrics of a finished stage before its first step; empty if it did not begin from a model."""
    return dict(json.loads((out / "run.json").read_text(encoding="utf-8"))["before"])


def _enumerated(names: Sequence[str]) -> np.ndarray:
    """Names as int64 numbers in order of first occurrence."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def write_run(
    out: Path,
    stage: str,
    recipe: Mapping[str, object],
    data: Mapping[str, object],
    counts: Mapping[str, int],
    result: LoopResult,
    inputs: str,
) -> None:
    """Write ``run.json``: the recipe and data of a stage, its counts and metrics, and the seconds its steps took.

    It says that the stage has ended, so that its checkpoint is of no more use and is removed.

    Args:
        inputs: see `finished`.
    """
    run = {
        "stage": stage,
        "recipe": recipe,
        "data": data,
        "counts": counts,
        "inputs": inputs,
        "steps": result.steps,
        "selected": result.selected,
        "before": result.before,
        "figures": result.figures,
        "seconds": round(sum(line.get("seconds", 0.0) for line in read_metrics(out / "metrics.jsonl"))),
    }
    replace_file(out / "run.json", json.dumps(run, indent=1, default=str).encode() + b"\n")
    (out / "last.pt").unlink(missing_ok=True)
