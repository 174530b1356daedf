"""Encoders that other installed packages provide, found through entry points.

A package claims a scheme in its ``pyproject.toml``:

    [project.entry-points."llm2clip_search.encoders"]
    myscheme = "my_package:load"

``load_encoder("myscheme:anything")`` then returns ``my_package.load("myscheme:anything")``. The encoder's name must be
that reference, because an index stores it to find the encoder again.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from llm2clip_search.encoders.encoder import Encoder
from llm2clip_search.errors import Llm2ClipError, ModelError

GROUP = "llm2clip_search.encoders"

EncoderPlugin = Callable[[str], Encoder]
"""Takes the whole reference, scheme included. It chooses device and runtime itself."""


def plugin_schemes() -> list[str]:
    """Schemes that installed packages claim, sorted."""
    return sorted(entry_points(group=GROUP).names)


def plugin_distribution(scheme: str) -> str | None:
    """The distribution that claims a scheme; None if no installed package does."""
    found = _entry_point(scheme)
    return None if found is None else _distribution(found)


def load_plugin(reference: str) -> Encoder:
    """Let the plug-in of a reference's scheme load its encoder.

    Raises:
        ModelError: no installed package claims the scheme, or the one that does fails; the message names it.
    """
    scheme = reference.partition(":")[0]
    found = _entry_point(scheme)
    if found is None:
        raise ModelError(f"No installed package provides encoders of the scheme {scheme!r}.")
    try:
        plugin: EncoderPlugin = found.load()
        return plugin(reference)
    except Llm2ClipError:
        raise
    except Exception as error:  # the code of another package may raise anything
        raise ModelError(
            f"{_distribution(found)}, the package that provides encoders of the scheme {scheme!r}, could not load"
            f" {reference!r} ({type(error).__name__}: {error})."
        ) from error


def _entry_point(scheme: str) -> EntryPoint | None:
    return next(iter(entry_points(group=GROUP, name=scheme)), None)


def _distribution(found: EntryPoint) -> str:
    distribution: Any = found.dist
    return f"{distribution.name} {distribution.version}" if distribution else found.module
