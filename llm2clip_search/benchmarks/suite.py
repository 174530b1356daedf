"""Several data sets in one run: which of them are there, and the mean over them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2clip_search.base.markdown import markdown_table
from llm2clip_search.benchmarks.datasets.base import DatasetInfo, RetrievalSet
from llm2clip_search.benchmarks.datasets.registry import DATASETS, find_dataset
from llm2clip_search.benchmarks.report import METRICS
from llm2clip_search.benchmarks.results import RetrievalResult
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import KS


def open_suite(
    root: Path,
    names: Sequence[str] = (),
    *,
    langs: Sequence[str] = (),
    skip: Callable[[str], None],
) -> list[tuple[DatasetInfo, RetrievalSet]]:
    """Open the data sets that a folder holds, one in each of its folders.

    Args:
        names: ``NAME``, or ``NAME:SPLIT`` for another split than the default; by default all known data sets that have
            a folder.
        langs: as for `DatasetInfo.open`.
        skip: receives a sentence for each data set that is left out, because its folder is missing or it cannot be
            read.

    Raises:
        CorpusError: ``root`` is no folder, a name is unknown, or nothing is left.
    """
    if not root.is_dir():
        raise CorpusError(f"{root} is not a folder.", hint="--root names the folder that holds the data sets.")
    wanted = names or [name for name, info in DATASETS.items() if info.folder_in(root).is_dir()]
    opened = []
    for name, _, split in (each.partition(":") for each in wanted):
        info = find_dataset(name)
        folder = info.folder_in(root)
        try:
            if not folder.is_dir():
                raise CorpusError(f"there is no folder {folder}.")
            opened.append((info, info.open(folder, split=split, langs=langs)))
        except CorpusError as error:
            skip(f"{info.title} is left out: {error}")
    if not opened:
        sought = ", ".join(wanted) or "any data set"
        raise CorpusError(
            f"{root} holds no folder of {sought} that can be read.",
            hint="--root names a folder with one folder for each data set; 'bench datasets NAME' says what is in it.",
        )
    return opened


def mean_recalls(results: Sequence[RetrievalResult]) -> dict[str, float]:
    """Mean of each recall over data sets, each of which counts once: its languages are averaged first."""
    by_set = list(_by_set(results).values())
    return {key: _mean([_mean([each.metrics[key] for each in of_it]) for of_it in by_set]) for key in METRICS}


def mean_row(results: Sequence[RetrievalResult]) -> dict[str, Any]:
    """The mean as a JSON object beside those of the results; ``sets`` names what it is of."""
    first = results[0]
    return {
        "dataset": "mean",
        "model": first.model,
        "fingerprint": first.fingerprint,
        "sets": [" ".join(key) for key in _by_set(results)],
        "metrics": mean_recalls(results),
    }


def suite_markdown(results: Sequence[RetrievalResult]) -> str:
    """A Markdown table with a row for each data set and language, and their mean; recalls in percent."""
    ways = [f"{way} R@{' / '.join(map(str, KS))}" for way in ("image_retrieval", "text_retrieval")]
    rows = [
        (f"{r.dataset} {r.split}", r.language, f"{r.captions:,}", f"{r.images:,}", *recall_cells(r.metrics))
        for r in results
    ]
    rows.append((mean_title(results), "", "", "", *recall_cells(mean_recalls(results))))
    return markdown_table(("data set", "language", "captions", "images", *ways), rows)


def mean_title(results: Sequence[RetrievalResult]) -> str:
    """How tables call the mean."""
    return f"mean of {len(_by_set(results))}"


def recall_cells(metrics: Mapping[str, float]) -> tuple[str, str]:
    """Recalls of image retrieval and of text retrieval in percent, as tables show them."""
    shown = [f"{100 * metrics[key]:.1f}" for key in METRICS]
    return " / ".join(shown[: len(KS)]), " / ".join(shown[len(KS) :])


def _by_set(results: Sequence[RetrievalResult]) -> dict[tuple[str, str], list[RetrievalResult]]:
    found: dict[tuple[str, str], list[RetrievalResult]] = {}
    for result in results:
        found.setdefault((result.dataset, result.split), []).append(result)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
