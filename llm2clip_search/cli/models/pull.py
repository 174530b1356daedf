"""``llm2clip-search models pull``: fetch a model, so that it works offline afterwards."""

from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import RuntimeName


def pull_model(
    name: Annotated[str, typer.Argument(help="A model's name, as for --model.", show_default=False)],
    runtime: RuntimeName = "auto",
) -> None:
    """Fetch a model's weights, so that it works offline afterwards.

    An LLM2CLIP checkpoint is fetched with its LLM, compared with the hub's hashes and converted into a model folder
    in the cache; a folder that is there is compared with the hashes of its conversion. Any other model is prepared by
    running both of its towers once.

    [dim]llm2clip-search models pull llm2clip-llama3.2-1b-eva02-l-14-336[/dim]
    """
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.catalogue import convertible_model
    from llm2clip_search.encoders.checkpoints.pull import pull, verify

    if published := convertible_model(name):
        folder = pull(published)
        verify(published)
        console.out.print(f"{published.name} is ready in {folder}.", markup=False)
        return
    import numpy as np

    encoder = load_encoder(name, runtime=runtime)
    size = encoder.preprocess
    encoder.encode_pixels(np.zeros((1, size.height, size.width, 3), dtype=np.uint8))
    encoder.encode_texts(["a caption"])
    console.out.print(f"{encoder.name} is ready ({encoder.fingerprint}).", markup=False)
