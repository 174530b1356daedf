"""Compaction: small shards are merged, and rows that are dead are dropped from disk.

Every row is rewritten about once per level: shards of a level are merged when `Compaction.fanout` of them have come
together, as in a log-structured merge tree (O'Neil et al. 1996). So an index that is fed one image at a time stays
at a few dozen shards, and one that is fed millions is rewritten twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llm2clip_search.store.shard import Shard
from llm2clip_search.store.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """When shards are merged."""

    fanout: int = 8
    """Shards of one level that make one of the next; a level spans this factor in rows."""
    target_rows: int = 262_144
    """Shards with this many live rows are not merged any more: 268 MB of float16 vectors of 512 dimensions."""
    dead_share: float = 0.5
    """A shard with a larger share of dead rows is rewritten without them, whatever its size."""

    def level(self, rows: int) -> int:
        """0 for fewer rows than `fanout`, 1 for fewer than its square, and so on."""
        return int(math.log(max(1, rows), self.fanout) + 1e-9)


@dataclass(frozen=True, kw_only=True)
class CompactionResult:
    """What a compaction did."""

    merged: int = 0
    """Shards that were replaced or dropped."""
    written: int = 0
    """Shards that took their place."""
    dropped_rows: int = 0
    """Dead rows that are no longer on disk."""


def compact(writer: Writer, config: Compaction = Compaction(), *, everything: bool = False) -> CompactionResult:
    """Merge what is due, in one commit; readers go on with the shards that they have.

    Args:
        everything: merge all shards below the target size and drop every dead row, instead of only what is due.
    """
    covered = frozenset(writer.manifest.ann.shards if writer.manifest.ann else ())
    groups: list[list[Shard]] = []
    dropped: list[str] = []
    # A merged shard is in the approximate index as a whole or not at all, so those that are in it stay by themselves.
    for in_ann in (True, False):
        shards = [shard for shard in writer.snapshot.shards if (shard.name in covered) is in_ann]
        dropped += [shard.name for shard in shards if not _live(shard)]
        shards = [shard for shard in shards if _live(shard)]
        due = _everything(shards, config) if everything else _due(shards, config)
        least = 0.0 if everything else config.dead_share
        # Rewriting one shard that has little to drop would change little, and its next dead row would rewrite it again.
        groups += [group for group in _in_targets(due, config) if len(group) > 1 or _dead_share(group[0]) > least]
    if not groups and not dropped:
        return CompactionResult()
    before = writer.manifest.dead
    names = (f"{number:06d}" for number in range(writer.manifest.next_shard, writer.manifest.next_shard + len(groups)))
    writer.replace_shards(dict(zip(names, groups, strict=True)), dropped=dropped)
    return CompactionResult(
        merged=sum(map(len, groups)) + len(dropped), written=len(groups), dropped_rows=before - writer.manifest.dead
    )


def _live(shard: Shard) -> int:
    return shard.entry.rows - len(shard.dead)


def _dead_share(shard: Shard) -> float:
    return len(shard.dead) / shard.entry.rows


def _due(shards: Sequence[Shard], config: Compaction) -> list[Shard]:
    """Mostly dead shards, and those of levels that are full."""
    mostly_dead = [shard for shard in shards if _dead_share(shard) > config.dead_share]
    small = [shard for shard in shards if _live(shard) < config.target_rows and shard not in mostly_dead]
    levels: dict[int, list[Shard]] = {}
    for shard in small:
        levels.setdefault(config.level(_live(shard)), []).append(shard)
    full = [shard for of_level in levels.values() if len(of_level) >= config.fanout for shard in of_level]
    return _in_order(shards, [*mostly_dead, *full])


def _everything(shards: Sequence[Shard], config: Compaction) -> list[Shard]:
    small = [shard for shard in shards if _live(shard) < config.target_rows]
    chosen = [shard for shard in shards if len(shard.dead) or (len(small) > 1 and shard in small)]
    return _in_order(shards, chosen)


def _in_order(shards: Sequence[Shard], chosen: Sequence[Shard]) -> list[Shard]:
    names = {shard.name for shard in chosen}
    return [shard for shard in shards if shard.name in names]


def _in_targets(shards: Sequence[Shard], config: Compaction) -> list[list[Shard]]:
    """Consecutive shards in groups of about the target size."""
    groups: list[list[Shard]] = []
    rows = config.target_rows
    for shard in shards:
        if rows + _live(shard) > config.target_rows:
            groups.append([])
            rows = 0
        groups[-1].append(shard)
        rows += _live(shard)
    return groups
