"""The model card that stage 2 writes: ``README.md`` in the model folder."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path

from llm2clip_search.encoders.config import ModelConfig, TextConfig, VisionConfig
from llm2clip_search.encoders.model import Model
from llm2clip_search.training.runtime.loop import LoopResult
from llm2clip_search.training.runtime.metrics_log import read_metrics
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe

RECALLS = tuple(f"{task}_recall@{k}" for task in ("image_retrieval", "text_retrieval") for k in (1, 5, 10))


def write_card(
    out: Path,
    recipe: ClipRecipe,
    *,
    counts: Mapping[str, int],
    result: LoopResult,
    bank: int,
    llm: Path,
    start: Model | None = None,
) -> None:
    """Describe a model: its parts, its training and its metrics on dev.

    Args:
        out: the model folder, with the run's ``metrics.jsonl``.
        counts: counts of the data by name.
        result: what the loop ended with; without metrics if there is no dev split.
        bank: size of the querybank; 0 for none.
        llm: folder of the LLM, with the ``run.json`` of stage 1 if that wrote it.
        start: the model that training began from.
    """
    model, loop = recipe.model, recipe.loop
    seconds = sum(line.get("seconds", 0.0) for line in read_metrics(out / "metrics.jsonl"))
    data = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    batch = min(recipe.batch_size, counts.get("images", recipe.batch_size))
    epochs = result.steps * batch / max(1, counts.get("images", 0))
    stage1 = _stage1(llm)
    lines = [
        f"# {model.name}",
        "",
        "| part | description | weights |",
        "|---|---|---|",
        f"| vision tower | {_vision(model.vision)} | `{_source(model.vision.weights)}`, {_trained(recipe)} |",
        f"| LLM | {_llm(model.text)} | `{_source(model.text.weights)}`, low-rank updates in this folder |",
        f"| adaptor | {_adaptor(model)} | in this folder |",
        *_querybank(recipe, bank, start),
        "",
        f"Licence: {model.licence}.",
        "",
        "## Training",
        "",
        *([f"Training began from {start.reference} (licence: {start.config.licence}).", ""] if start else []),
        *([stage1, ""] if stage1 else []),
        f"{result.steps:,} steps of {batch:,} images ({epochs:.1f} epochs),"
        f" captions per image: {recipe.captions_per_image}, {recipe.loss} loss, AdamW,"
        f" learning rate {loop.learning_rate:g}, seed {loop.seed}."
        f" The weights after step {result.selected:,} were kept."
        f" The steps took {seconds / 60:.0f} minutes on {_machine()}.",
        "",
        f"Data: {data}.",
        "",
        *(f"- {line}." for line in model.training_data),
    ]
    if result.figures:
        lines += [
            "",
            "## Metrics on the dev splits",
            "",
            "| split, language | image_retrieval R@1 / 5 / 10 (%) | text_retrieval R@1 / 5 / 10 (%) |",
        ]
        lines += ["|---|---|---|", *_table(result.before, when_before(llm)), *_table(result.figures)]
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _stage1(llm: Path) -> str:
    """What stage 1 did with the LLM in a folder; empty if that is not known."""
    try:
        run = json.loads((llm / "run.json").read_text(encoding="utf-8"))
        if run["stage"] != "captions":
            return ""
        pairs, photographs = run["recipe"]["batch_size"], run["counts"]["photographs"]
        return (
            f"Stage 1 trained the LLM: {run['steps']:,} steps of {pairs:,} pairs of captions of {photographs:,} images."
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def when_before(llm: Path) -> str:
    """What to call the metrics that a model has before the first step of stage 2.

    Args:
        llm: folder of the LLM, with the ``run.json`` of stage 1 if that wrote it.
    """
    return "before stage 2" if _stage1(llm) else "before training"


def _vision(vision: VisionConfig) -> str:
    size = vision.preprocess
    return f"{vision.architecture or vision.library} at {size.width}x{size.height}"


def _llm(text: TextConfig) -> str:
    numbers = ", ".join(map(str, text.hidden_layers))
    after = "the last block" if text.hidden_layers == (-1,) else f"block {numbers}"
    return f"{text.attention} attention, {text.pooling} of the states after {after}, {text.max_tokens} tokens"


def _adaptor(model: ModelConfig) -> str:
    adaptor = model.text.adaptor
    assert adaptor is not None, "stage 2 trains an adaptor"
    blocks = f"{adaptor.blocks} residual blocks, " if adaptor.blocks else ""
    return f"{blocks}linear to {model.tower_dim}"


def _querybank(recipe: ClipRecipe, size: int, start: Model | None) -> list[str]:
    former = f", those of {start.reference} included" if start else ""
    what = f"strength {recipe.model.querybank:g}, {size:,} images with one caption each{former}; adds 2 dimensions"
    return [f"| querybank normalisation | {what} | in this folder |"] if size else []


def _source(weights: str | None) -> str:
    return (weights or "this folder").partition("#")[0]


def _trained(recipe: ClipRecipe) -> str:
    mode, blocks = recipe.vision.mode, recipe.vision.blocks
    last = "last block trained" if blocks == 1 else f"last {blocks} blocks trained"
    return {"frozen": "frozen", "last": last}.get(mode, f"trained ({mode})")


def _machine() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


def _table(figures: Mapping[str, float], when: str = "") -> list[str]:
    """One row per split and language, in percent."""
    rows = []
    for group in dict.fromkeys(name.rpartition("/")[0] for name in figures if "/" in name):
        cells = [f"{100 * figures[f'{group}/{name}']:.1f}" for name in RECALLS]
        named = ", ".join((*group.split("/"), *([when] if when else [])))
        rows.append(f"| {named} | {' / '.join(cells[:3])} | {' / '.join(cells[3:])} |")
    return rows
