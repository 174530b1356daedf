"""Comparison of finished runs of stage 2: what differs in their recipes, data, metrics and time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llm2clip_search.errors import ModelError
from llm2clip_search.evaluation.statistics import paired_differences, recall_intervals
from llm2clip_search.training.data.own_data import read_summary
from llm2clip_search.training.dev_ranks import DevRanks, read_ranks
from llm2clip_search.training.model_card import RECALLS

Part = Literal["recipe", "data", "training"]
_NAMING = ("model.name", "model.training_data")
"""Fields of a recipe that say what a model is called and what it has seen; data is compared by itself."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run, as its folder describes it."""

    name: str
    """The folder, as it was given."""
    recipe: Mapping[str, Any]
    """Fields by dotted names."""
    data: Mapping[str, Any]
    """Counts by what is counted, and the digest of own data."""
    training: Mapping[str, Any]
    """Steps, the selected step, and seconds."""
    figures: Mapping[str, float]
    """Metrics of the kept weights."""
    ranks: Mapping[str, DevRanks]
    """By split and language; empty for a run of an earlier version."""


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """A value that is not the same in all runs."""

    part: Part
    field: str
    values: Mapping[str, Any]
    """By run; None where a run does not have the field."""

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "field"} | asdict(self)


@dataclass(frozen=True, kw_only=True)
class RecallOfRun:
    """One recall of one run, and how it differs from that of the first run. All are shares in [0, 1]."""

    split: str
    language: str
    metric: str
    run: str
    value: float | None
    """None if the run was not evaluated on this split."""
    low: float | None = None
    """Lower bound of the 95 % interval; None without ranks. ``high`` is the upper bound."""
    high: float | None = None
    difference: float | None = None
    """The run's recall minus that of the first run; None for the first run."""
    difference_low: float | None = None
    """Lower bound of its 95 % interval; None unless both runs have ranks of the same images and captions."""
    difference_high: float | None = None
    p: float | None = None
    """p-value of the paired test, likewise; not corrected for multiple comparisons."""

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "recall"} | asdict(self)


@dataclass(frozen=True, kw_only=True)
class TrainingRunsComparison:
    """What differs between runs."""

    runs: Sequence[str]
    fields: Sequence[FieldDifference]
    recalls: Sequence[RecallOfRun]
    """By split, language, metric and run."""


def read_run(folder: Path) -> TrainedRun:
    """Read the folder of a run, or the model folder in it.

    Raises:
        ModelError: no run of stage 2 has finished there.
    """
    model = folder / "model" if (folder / "model" / "run.json").exists() else folder
    path = model / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        stage, figures, counts = run["stage"], dict(run["figures"]), dict(run["counts"])
        training = {name: run[name] for name in ("steps", "selected", "seconds")}
        recipe = {name: value for name, value in _flat(run["recipe"]).items() if name not in _NAMING}
    except OSError as error:
        raise ModelError(f"No run has finished in {folder}: it has no run.json.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} does not describe a run of this version: {error!r}.") from error
    if stage != "clip":
        raise ModelError(f"{path} is that of the stage {stage!r}, but runs of stage 2 ('clip') are compared.")
    digest = read_summary(model.parent / "data").get("digest")
    return TrainedRun(
        name=str(folder),
        recipe=recipe,
        data=counts | ({"digest": digest} if digest else {}),
        training=training,
        figures=figures,
        ranks=read_ranks(model),
    )


def compare_training_runs(runs: Sequence[TrainedRun]) -> TrainingRunsComparison:
    """Compare runs with the first of them."""
    return TrainingRunsComparison(
        runs=[run.name for run in runs],
        fields=[
            *_differences("recipe", {run.name: run.recipe for run in runs}),
            *_differences("data", {run.name: run.data for run in runs}),
            *_differences("training", {run.name: run.training for run in runs}),
        ],
        recalls=_recalls(runs),
    )


def _differences(part: Part, values: Mapping[str, Mapping[str, Any]]) -> list[FieldDifference]:
    names = dict.fromkeys(name for each in values.values() for name in each)
    found = [
        FieldDifference(part=part, field=name, values={run: each.get(name) for run, each in values.items()})
        for name in names
    ]
    return [each for each in found if any(value != next(iter(each.values.values())) for value in each.values.values())]


def _recalls(runs: Sequence[TrainedRun]) -> list[RecallOfRun]:
    groups = dict.fromkeys(name.rpartition("/")[0] for run in runs for name in run.figures if "/" in name)
    by_run = {group: [_group(group, run, runs[0]) for run in runs] for group in groups}
    return [each[metric] for group in groups for metric in RECALLS for each in by_run[group]]


def _group(group: str, run: TrainedRun, first: TrainedRun) -> dict[str, RecallOfRun]:
    """All recalls of a run on a split and language."""
    split, _, language = group.rpartition("/")
    own, other = _checked_ranks(group, run), _checked_ranks(group, first)
    bounds = recall_intervals(own.ranks, own.image_of) if own else {}
    is_first = run is first
    paired = (
        paired_differences(other.ranks, own.ranks, own.image_of)
        if own and other and not is_first and own.data == other.data
        else {}
    )
    found = {}
    for metric in RECALLS:
        value, reference = (each.figures.get(f"{group}/{metric}") for each in (run, first))
        low, high = bounds.get(metric, (None, None))
        test = paired.get(metric)
        found[metric] = RecallOfRun(
            split=split,
            language=language,
            metric=metric,
            run=run.name,
            value=value,
            low=low,
            high=high,
            difference=None if is_first or value is None or reference is None else value - reference,
            difference_low=test.low if test else None,
            difference_high=test.high if test else None,
            p=test.p if test else None,
        )
    return found


def _checked_ranks(group: str, run: TrainedRun) -> DevRanks | None:
    """The ranks of a split; None if they are not those that the run's figures come from."""
    ranks = run.ranks.get(group)
    if ranks is None or not len(ranks.image_of):
        return None
    measured = ranks.ranks.recalls()
    same = all(run.figures.get(f"{group}/{metric}") == measured[metric] for metric in RECALLS)
    return ranks if same else None


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values by dotted names; lists are values."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
