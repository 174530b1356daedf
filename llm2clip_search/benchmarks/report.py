"""A report on retrieval runs: ``report.md``, ``report.csv`` and pictures, optionally with published figures."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.markdown import markdown_table
from llm2clip_search.benchmarks.compare import Subset, subset_name, subset_of
from llm2clip_search.benchmarks.paper import (
    PaperFigure,
    PaperSource,
    comparable_figures,
    figures_of,
    headline_figures,
    paper_sources,
)
from llm2clip_search.benchmarks.report_plots import plot_report
from llm2clip_search.benchmarks.results import RetrievalResult
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import KS

Runs = Mapping[str, Sequence[RetrievalResult]]
"""Results by name of the run; a run has at most one result per data set, split and language."""
METRICS = tuple(f"{way}_recall@{k}" for way in ("image_retrieval", "text_retrieval") for k in KS)
HEADER = ("model", *(f"{way} R@{k}" for way in ("image", "text") for k in KS))
PICTURE_TITLES = {
    "recalls.png": "Recalls of all runs",
    "lengths.png": "Recall by caption length",
    "languages.png": "Recall by language",
}
COLUMNS = (
    *(
        "dataset",
        "model",
        "pretrained",
        "task",
        "language",
        "model_fullname",
    ),  # the names that clip_benchmark build uses
    *("run", "split", "images", "captions", "captions_per_image", "metric", "value", "low", "high"),
    *("trained_on", "fingerprint", "data"),
)
EXPLANATION = (
    "Recalls are in percent, as defined by CLIP_benchmark, with 95 % bootstrap intervals in parentheses. In image "
    "retrieval the query is a caption, and a hit is its image among the k best. In text retrieval the query is an "
    "image, and a hit is any of its captions among the k best. † marks models that have seen the data in training. "
    "Further measures are fractions of 1, except rsum, which is in percentage points, and ranks, which count from 1."
)


def name_runs(files: Mapping[Path, Sequence[RetrievalResult]]) -> dict[str, list[RetrievalResult]]:
    """Group results into runs, one per model and named after it.

    If two files measured the same model on the same data set, split and language, each file is a run of its own, named
    after the model and the file.

    Raises:
        CorpusError: a file has two results of one model on the same data set, split and language.
    """
    found: dict[str, dict[Path, list[RetrievalResult]]] = {}
    for path, results in files.items():
        for result in results:
            found.setdefault(result.model, {}).setdefault(path, []).append(result)
    runs: dict[str, list[RetrievalResult]] = {}
    for model, by_file in found.items():
        for path, results in by_file.items():
            if repeated := _repeated(results):
                raise CorpusError(f"{path} has {subset_name(repeated[0])} by {model} twice; keep one of them.")
        together = [result for results in by_file.values() for result in results]
        if _repeated(together):
            runs |= {f"{model} ({path})": results for path, results in by_file.items()}
        else:
            runs[model] = together
    return runs


def _repeated(results: Sequence[RetrievalResult]) -> list[Subset]:
    return [subset for subset, times in Counter(map(subset_of, results)).items() if times > 1]


def write_report(runs: Runs, out: Path, *, against: bool = False) -> list[Path]:
    """Write the report into a folder, which is created if needed.

    Args:
        against: whether to include published figures.

    Returns:
        The paths of the files that were written.

    Raises:
        CorpusError: matplotlib is not installed, or the folder cannot be created.
    """
    pictures = plot_report(runs, out)
    texts = {
        "report.md": report_markdown(runs, pictures=[path.name for path in pictures], against=against),
        "report.csv": report_csv(runs),
    }
    for name, text in texts.items():
        replace_file(out / name, text.encode())
    return [*(out / name for name in texts), *pictures]


def report_markdown(runs: Runs, *, pictures: Sequence[str] = (), against: bool = False) -> str:
    """The report as Markdown: one section per data set and language, sources of published figures as footnotes."""
    subsets: dict[Subset, dict[str, RetrievalResult]] = {}
    for name, results in runs.items():
        for result in results:
            subsets.setdefault(subset_of(result), {})[name] = result
    blocks = ["# Retrieval benchmarks", EXPLANATION]
    blocks += [f"![{PICTURE_TITLES[name]}]({name})" for name in pictures]
    cited: list[PaperFigure] = []
    for dataset, split in dict.fromkeys((dataset, split) for dataset, split, _ in subsets):
        found = {language: of for (name, part, language), of in subsets.items() if (name, part) == (dataset, split)}
        blocks.append(f"## {dataset} {split}")
        if len(found) > 1:
            means = figures_of(dataset, f"mean of {len(found)}") if against else []
            cited += means
            blocks += _languages(found, means)
        for language, of in found.items():
            first = next(iter(of.values()))
            figures = comparable_figures(first) if against else []
            cited += figures
            blocks += [
                f"### {dataset} {split}, {language}",
                *_section(of, headline_figures(first) if against else [], figures),
            ]
    if cited:
        blocks.append("\n".join(_footnotes(cited)))
    return "\n\n".join(blocks) + "\n"


def report_csv(runs: Runs) -> str:
    """The report as CSV with `COLUMNS`: one row per result and metric; only recalls have intervals."""
    out = io.StringIO()
    rows = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    rows.writeheader()
    for name, results in runs.items():
        for result in results:
            same = {column: getattr(result, column) for column in COLUMNS if hasattr(result, column)}
            same |= {"run": name, "model_fullname": f"{result.model} {result.pretrained}".strip()}
            for metric, value in {**result.metrics, **result.measures}.items():
                low, high = result.intervals.get(metric, ("", ""))
                rows.writerow({**same, "metric": metric, "value": value, "low": low, "high": high})
    return out.getvalue()


def _section(
    of: Mapping[str, RetrievalResult], headlines: Sequence[PaperFigure], figures: Sequence[PaperFigure]
) -> list[str]:
    """The blocks of one data set, split and language; ``of`` has a result per run."""
    blocks = [_sizes(of), markdown_table(HEADER, [*map(_row, of, of.values()), *map(_published_row, headlines)])]
    if len(figures) > len(headlines):
        best = sorted(figures, key=lambda figure: -figure.recalls.get(METRICS[0], 0.0))
        every = markdown_table(HEADER, [*map(_row, of, of.values()), *map(_published_row, best)])
        blocks += [
            f"<details><summary>All {len(figures)} published figures, by image R@1</summary>",
            every,
            "</details>",
        ]
    blocks += ["\n".join(f"- {note}" for note in notes)] if (notes := _notes(of)) else []
    if measures := dict.fromkeys(key for result in of.values() for key in result.measures):
        rows = [(key, *(_measure(result.measures.get(key)) for result in of.values())) for key in measures]
        blocks.append(markdown_table(("further measures", *map(_code, of)), rows))
    return blocks


def _languages(found: Mapping[str, Mapping[str, RetrievalResult]], figures: Sequence[PaperFigure]) -> list[str]:
    """R@1 in both directions by language, and its mean for runs that have all languages."""
    names = list(dict.fromkeys(name for of in found.values() for name in of))
    header = ("R@1, image / text", *map(_code, names))
    rows = [(language, *(_both(of[name]) if name in of else "" for name in names)) for language, of in found.items()]
    whole = {name: [of[name] for of in found.values() if name in of] for name in names}
    means = [_mean(results) if len(results) == len(found) else "" for results in whole.values()]
    blocks = [markdown_table(header, [*rows, (f"mean of {len(found)}", *means)])]
    if figures:
        blocks += [
            f"Published means over {len(found)} languages:",
            markdown_table(HEADER, map(_published_row, figures)),
        ]
    return blocks


def _both(result: RetrievalResult) -> str:
    return f"{100 * result.metrics[METRICS[0]]:.1f} / {100 * result.metrics[METRICS[len(KS)]]:.1f}"


def _mean(results: Sequence[RetrievalResult]) -> str:
    means = (
        100 * sum(result.metrics[key] for result in results) / len(results) for key in (METRICS[0], METRICS[len(KS)])
    )
    return " / ".join(f"{mean:.1f}" for mean in means)


def _sizes(of: Mapping[str, RetrievalResult]) -> str:
    """What was measured, with a warning if runs were measured on different images or captions."""
    sizes = dict.fromkeys(
        f"{result.images:,} images, {result.captions:,} captions (per image: {result.captions_per_image})"
        for result in of.values()
    )
    text = "; ".join(sizes) + "."
    if len({result.data for result in of.values()}) > 1:
        text += " **These runs used different images or captions, so their results cannot be compared.**"
    return text


def _row(name: str, result: RetrievalResult) -> tuple[str, ...]:
    cells = []
    for key in METRICS:
        low, high = result.intervals.get(key, (float("nan"), float("nan")))
        cells.append(f"**{100 * result.metrics[key]:.1f}** ({100 * low:.1f} to {100 * high:.1f})")
    return (_code(name) + (" †" if result.trained_on else ""), *cells)


def _published_row(figure: PaperFigure) -> tuple[str, ...]:
    remark = f" ({figure.remark})" if figure.remark else ""
    values = (figure.recalls.get(key) for key in METRICS)
    cells = ("" if value is None else f"{value:.1f}" for value in values)
    return (f"{figure.model}{remark}[^{figure.source}]", *cells)


def _notes(of: Mapping[str, RetrievalResult]) -> list[str]:
    notes: dict[str, list[str]] = {}
    for name, result in of.items():
        for note in result.notes:
            notes.setdefault(note, []).append(name)
    lines = [
        note if len(names) == len(of) else f"{', '.join(map(_code, names))}: {note}" for note, names in notes.items()
    ]
    seen = [f"† {_code(name)}: its card says {r.trained_on!r}" for name, r in of.items() if r.trained_on]
    return lines + seen


def _measure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _footnotes(cited: Iterable[PaperFigure]) -> list[str]:
    locations: dict[str, dict[str, None]] = {}
    for figure in cited:
        locations.setdefault(figure.source, {})
        if figure.location:
            locations[figure.source][figure.location] = None
    return [_footnote(key, paper_sources()[key], found) for key, found in locations.items()]


def _footnote(key: str, source: PaperSource, locations: Iterable[str]) -> str:
    return f"[^{key}]: {'; '.join((source.title, *locations))}. <{source.url}>. {source.note}".rstrip()


def _code(name: str) -> str:
    return f"`{name}`"
