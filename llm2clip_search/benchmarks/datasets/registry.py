"""All data sets, by name."""

from difflib import get_close_matches

from llm2clip_search.benchmarks.datasets import captioned_shards, coco, custom, flickr, long_captions, multilingual
from llm2clip_search.benchmarks.datasets.base import DatasetInfo
from llm2clip_search.errors import CorpusError

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for module in (flickr, coco, captioned_shards, long_captions, multilingual, custom)
    for info in module.DATASETS
}


def find_dataset(name: str) -> DatasetInfo:
    """The data set of that name.

    Raises:
        CorpusError: there is no such data set; the message lists similar names, or all names.
    """
    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, n=2)
        known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(DATASETS)}."
        raise CorpusError(f"There is no data set {name!r}; {known}")
    return DATASETS[name]
