"""Blocks of results, which arrive in any order, put into that of their units."""

from collections.abc import Iterator

from llm2clip_search.cluster.work import Outcome


class Arrivals:
    """Names of stored blocks that wait for those before them; nothing of their content is held."""

    def __init__(self, units: int) -> None:
        """``units``: how many there are."""
        self.missing = set(range(units))
        """Units of which not all blocks have arrived."""
        self._waiting: dict[int, dict[int, Outcome]] = {}
        self._unit = self._position = 0

    def add(self, outcome: Outcome) -> None:
        """Note that a block is stored; one that a repeated task has stored again is left out."""
        if outcome.unit in self.missing:
            blocks = self._waiting.setdefault(outcome.unit, {})
            blocks.setdefault(outcome.first, outcome)
            self._complete(outcome.unit, blocks)

    def in_order(self) -> Iterator[tuple[str, int]]:
        """Names of the blocks whose turn it is, each with the number of its first rows that were there before."""
        while (blocks := self._waiting.get(self._unit)) is not None:
            at = next((f for f, each in blocks.items() if f <= self._position < f + each.rows + each.is_last), None)
            if at is None:
                return
            outcome, skipped = blocks.pop(at), self._position - at
            self._position = at + outcome.rows
            if outcome.is_last:
                del self._waiting[self._unit]
                self._unit, self._position = self._unit + 1, 0
            yield outcome.name, skipped

    def forget_incomplete(self) -> None:
        """The units that are missing begin anew; what was taken of one stays taken."""
        for unit in self.missing & self._waiting.keys():
            del self._waiting[unit]

    def _complete(self, unit: int, blocks: dict[int, Outcome]) -> None:
        """Note a unit of which all blocks have arrived."""
        position = self._position if unit == self._unit else 0
        while True:
            found = next((b for f, b in blocks.items() if f <= position < f + b.rows + b.is_last), None)
            if found is None:
                return
            if found.is_last:
                self.missing.discard(unit)
                return
            position = found.first + found.rows
