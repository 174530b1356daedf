"""``llm2clip-search models pull``: fetch a model so that it works offline afterwards."""

from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import RuntimeName


def pull_model(
    name: Annotated[str, typer.Argument(help="Name of the model, as for --model.", show_default=False)],
    runtime: RuntimeName = "auto",
) -> None:
    """Fetch a model's weights so that it works offline afterwards.

    An LLM2CLIP checkpoint is fetched with its LLM, checked against the hub's hashes and converted to a model folder
    in the cache; a folder that is already there is checked against the hashes of its conversion. Any other model is
    prepared by running both towers once.

    [dim]llm2clip-search models pull llm2clip-llama3.2-1b-eva02-l-14-336[/dim]
    """
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.catalogue import convertible_model
    from llm2clip_search.encoders.checkpoints.pull import pull, verify

    if checkpoint := convertible_model(name):
        folder = pull(checkpoint)
        verify(checkpoint)
        console.out.print(f"{checkpoint.name} is ready in {folder}.", markup=False)
        return
    import numpy as np

    encoder = load_encoder(name, runtime=runtime)
    size = encoder.preprocess
    encoder.encode_pixels(np.zeros((1, size.height, size.width, 3), dtype=np.uint8))
    encoder.encode_texts(["a caption"])
    console.out.print(f"{encoder.name} is ready ({encoder.fingerprint}).", markup=False)
