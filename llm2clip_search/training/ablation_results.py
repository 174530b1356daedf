"""What a study has measured, and its tables."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llm2clip_search.base.markdown import markdown_table


@dataclass(frozen=True, kw_only=True)
class VariantRun:
    """A variant, trained with one seed."""

    seed: int
    seconds_per_step: float
    """Mean over all steps but the first, which is slower."""
    images_per_step: int
    before: Mapping[str, float]
    """Recalls of the model that training begins from, see `ClipTask.evaluate`; empty without one."""
    figures: Mapping[str, float]
    """Recalls after the last step."""


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """A variant with all its seeds, or why it could not be trained."""

    name: str
    runs: tuple[VariantRun, ...] = ()
    failure: str = ""
    """The reason; empty if there are runs."""


@dataclass(frozen=True, kw_only=True)
class QuestionResult:
    """The variants of a question."""

    name: str
    variants: tuple[VariantResult, ...]


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """All questions of a study."""

    recipe: str
    device: str
    seeds: int
    questions: tuple[QuestionResult, ...]

    @property
    def variants(self) -> list[VariantResult]:
        """The variants of all questions."""
        return [variant for question in self.questions for variant in question.variants]

    @property
    def measures(self) -> list[str]:
        """Names of the mean recalls by dev split and language, such as ``flickr8k/en/mean_recall``."""
        runs = [run for variant in self.variants for run in variant.runs]
        names = dict.fromkeys(name for run in runs for name in run.figures)
        return [name for name in names if name.endswith("/mean_recall")]

    def columns(self) -> list[str]:
        """Titles of the columns that `rows` fills, after that of the names."""
        return ["images/s", *(name.removesuffix("/mean_recall").replace("/", ", ") for name in self.measures)]

    def rows(self, question: QuestionResult) -> Iterator[tuple[str, list[str]]]:
        """A name and its cells, for every variant that was trained, and for every model that one begins from."""
        shown: list[Mapping[str, float]] = []
        for variant in question.variants:
            if not variant.runs:
                continue
            before = variant.runs[0].before
            if before and before not in shown:
                shown.append(before)
                yield "before training", ["", *(_cell([before[name]]) for name in self.measures)]
            rate = statistics.mean(run.images_per_step / run.seconds_per_step for run in variant.runs)
            recalls = (_cell([run.figures[name] for run in variant.runs]) for name in self.measures)
            yield variant.name, [f"{rate:,.0f}", *recalls]

    def failures(self) -> dict[str, str]:
        """Why variants could not be trained, by name."""
        return {variant.name: variant.failure for variant in self.variants if variant.failure}

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The tables as Markdown; each recall is the mean of the recalls at 1, 5 and 10 in both directions, in percent,
        as mean and standard deviation over the seeds."""
        lines = list[str]()
        for question in self.questions:
            rows = ([name, *cells] for name, cells in self.rows(question))
            lines += [f"**{question.name}**", "", markdown_table(["", *self.columns()], rows), ""]
        lines += [f"- Not measured: {name}. {why}" for name, why in self.failures().items()]
        return "\n".join(lines).rstrip() + "\n"


def _cell(values: list[float]) -> str:
    """``53.2``, or ``53.2 ± 0.3`` of several."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"
