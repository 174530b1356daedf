"""Sources that an index has moved away from. Every query of an index that has moved asks for them."""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm2clip_search.store.lost import lost_images
from llm2clip_search.store.manifest import SourceEntry
from llm2clip_search.store.names import decode
from llm2clip_search.store.paths import PathChange
from llm2clip_search.store.recent_parts import RecentParts
from llm2clip_search.store.snapshot import Snapshot, is_uri

SAMPLE = 8
"""Rows of each shard whose files are looked for when an index lies in another folder than before."""


def stranded_sources(snapshot: Snapshot) -> list[SourceEntry]:
    """Sources whose files are not where the index says, but where it would say if it lay where it did before.

    That is so when an index was moved or copied without its images. A few files of each are looked for.
    """
    old = Path(snapshot.manifest.base)
    if not snapshot.manifest.base or old == snapshot.base:
        return []
    sample: list[str] = []
    recent = RecentParts()
    for shard in snapshot.shards:
        rows = shard.live_rows[:: max(1, len(shard.live_rows) // SAMPLE)]
        sample += [record["path"] for record in shard.records(rows, recent)]
    lost = lost_images(snapshot.folder).column("path")  # they have been indexed too, and may be all that there was
    sample += lost.take(pa.array(np.arange(0, len(lost), max(1, len(lost) // SAMPLE)))).to_pylist()
    relative = [each for each in snapshot.manifest.sources if not is_uri(each.uri) and not Path(each.uri).is_absolute()]
    bases = {"along": snapshot.base, "behind": old}
    whereabouts = dict.fromkeys(relative, "nowhere")
    for source in relative:
        files = [path for path in sample if not Path(path).is_absolute() and snapshot.is_under(path, source.uri)]
        # The folder itself tells least: there may be another one of the same name.
        for paths, (place, base) in product((files, [source.uri] if source.uri != "." else []), bases.items()):
            if any((base / decode(path)).exists() for path in paths):
                whereabouts[source] = place
                break
    behind = {"behind"} if "along" in whereabouts.values() else {"behind", "nowhere"}
    if "behind" not in whereabouts.values():
        return []
    return [source for source, place in whereabouts.items() if place in behind]


def change_of_base(snapshot: Snapshot, after: Path) -> PathChange:
    """How the paths of an index, which may lie in another folder than before, become relative to ``after``.

    Paths of images that were left behind lead to where they are; other relative paths start from the present folder.
    """
    before = Path(snapshot.manifest.base or snapshot.base)
    left_behind = ((before / decode(each.uri)).as_posix() for each in stranded_sources(snapshot))
    moves = (*((place, place) for place in left_behind), (before.as_posix(), snapshot.base.as_posix()))
    return PathChange(before=before, after=after, moves=moves if before != snapshot.base else ())
