"""Encoders that other installed packages provide, found through entry points.

A package claims a scheme in its ``pyproject.toml``:

    [project.entry-points."llm2clip_search.encoders"]
    myscheme = "my_package:load"

``load_encoder("myscheme:anything")`` then returns ``my_package.load("myscheme:anything")``: the callable takes the
whole reference and chooses device and runtime itself. The encoder's name must be that reference, because an index
stores it to find the encoder again.
"""

from typing import cast

from llm2clip_search.base.plugins import Plugins
from llm2clip_search.encoders.encoder import Encoder
from llm2clip_search.errors import ModelError

ENCODER_PLUGINS = Plugins("llm2clip_search.encoders")


def load_plugin(reference: str) -> Encoder:
    """Let the package that claims a reference's scheme load its encoder.

    Raises:
        ModelError: no installed package claims the scheme, or the one that does fails; the message names it.
    """
    scheme = reference.partition(":")[0]
    try:
        return cast("Encoder", ENCODER_PLUGINS.load(scheme, reference, error=ModelError))
    except LookupError as error:
        raise ModelError(f"No installed package provides encoders of the scheme {scheme!r}.") from error
