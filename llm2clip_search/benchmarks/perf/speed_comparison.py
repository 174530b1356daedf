"""A measurement of speed beside a recorded one: how much faster, and in which stage the difference lies."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm2clip_search.benchmarks.perf.speed import STAGES, IndexSpeed
from llm2clip_search.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one thing, as they were recorded and now."""

    recorded: float
    now: float

    @property
    def speed(self) -> float:
        """Speed relative to the recorded one; above 1 is faster."""
        return self.recorded / self.now

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "speed": self.speed}


@dataclass(frozen=True, kw_only=True)
class SpeedComparison:
    """Two measurements with the same model and images."""

    per_image: Mapping[str, Timing]
    """Seconds per image of each of `STAGES` alone, and of ``index``, the complete run. Stages overlap in it, so that
    their times do not add up to it."""
    again: Timing
    """Seconds of an index run in which nothing has changed."""
    per_caption: Timing
    """Seconds per caption of the text tower, with many captions."""
    query: Mapping[str, Timing]
    """Seconds of a query: ``search`` with index and towers loaded, ``start`` of its own process until then, and
    ``command``, which is both."""
    is_same_machine: bool

    @property
    def changed_stage(self) -> str:
        """The stage of indexing whose time has changed most."""
        return max(STAGES, key=lambda stage: abs(self.per_image[stage].now - self.per_image[stage].recorded))

    def to_dict(self) -> dict[str, Any]:
        return {
            "per_image": {name: timing.to_dict() for name, timing in self.per_image.items()},
            "again": self.again.to_dict(),
            "per_caption": self.per_caption.to_dict(),
            "query": {name: timing.to_dict() for name, timing in self.query.items()},
            "is_same_machine": self.is_same_machine,
        }


def compare_speed(recorded: IndexSpeed, now: IndexSpeed) -> SpeedComparison:
    """Compare two measurements of the same model and images, which `measure_index_speed` requires if it is asked to."""

    def start(speed: IndexSpeed) -> float:
        return max(speed.cold - speed.caption, 1e-9)

    return SpeedComparison(
        per_image={
            name: Timing(recorded=1 / getattr(recorded, name), now=1 / getattr(now, name))
            for name in (*STAGES, "index")
        },
        again=Timing(recorded=recorded.again, now=now.again),
        per_caption=Timing(recorded=1 / recorded.text_tower, now=1 / now.text_tower),
        query={
            "search": Timing(recorded=recorded.caption, now=now.caption),
            "start": Timing(recorded=start(recorded), now=start(now)),
            "command": Timing(recorded=recorded.cold, now=now.cold),
        },
        is_same_machine=all(
            recorded.machine.get(key) == now.machine.get(key) for key in ("processor", "cores", "python")
        ),
    )


def read_speed(path: Path) -> IndexSpeed:
    """Read a measurement that was written as JSON.

    Raises:
        CorpusError: the file cannot be read, or is of another kind.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return IndexSpeed.from_dict(raw)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CorpusError(
            f"{path} is not a recorded measurement of speed: {error}.", hint="'bench speed --json' prints one."
        ) from error
