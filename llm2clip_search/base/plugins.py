"""What other installed packages add, found through entry points: one group per protocol, one name per scheme."""

from typing import TYPE_CHECKING

from llm2clip_search.base.lazy import LazyModule
from llm2clip_search.errors import Llm2ClipError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

metadata = LazyModule("importlib.metadata")


class Plugins:
    """The entry points of one group; each is a callable that takes a whole reference, scheme included."""

    def __init__(self, group: str) -> None:
        self.group = group

    def schemes(self) -> list[str]:
        """Schemes that installed packages claim, sorted."""
        return sorted(metadata.entry_points(group=self.group).names)

    def distribution(self, scheme: str) -> str | None:
        """The package that claims a scheme, with its version; None if no installed package does."""
        found = self._find(scheme)
        return None if found is None else _distribution(found)

    def load(self, scheme: str, reference: str, *, error: type[Llm2ClipError]) -> object:
        """What the package that claims a scheme makes of a reference.

        Raises:
            LookupError: no installed package claims the scheme.
            Llm2ClipError: the package's own, or ``error`` naming the package if it raises anything else.
        """
        found = self._find(scheme)
        if found is None:
            raise LookupError(scheme)
        try:
            return found.load()(reference)
        except Llm2ClipError:
            raise
        except Exception as cause:  # the code of another package may raise anything
            raise error(
                f"The package {_distribution(found)} could not open {reference!r} ({type(cause).__name__}: {cause})."
            ) from cause

    def _find(self, scheme: str) -> "EntryPoint | None":
        return next(iter(metadata.entry_points(group=self.group, name=scheme)), None)


def _distribution(found: "EntryPoint") -> str:
    distribution = found.dist
    return f"{distribution.name} {distribution.version}" if distribution else found.module
