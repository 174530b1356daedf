"""``llm2clip-search demo``: index and search a few real photographs, in a minute."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import RuntimeName
from llm2clip_search.cli.progress import ProgressBar

DISTRIBUTION = "scikit-image==0.26.0"
PHOTOGRAPHS = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    "camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    "coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
    "page.png": "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
    "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
    "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
    "moon.png": "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
    "motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
}
"""Photographs in that package, with their SHA-256."""

CAPTIONS = (
    "a black and white photograph of a man with a camera on a tripod",
    "a ginger cat with green eyes looks into the camera",
    "a motorcycle stands in a garage",
)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to create for the photographs and their index.")] = Path(
        "llm2clip-demo"
    ),
    runtime: RuntimeName = "auto",
) -> None:
    """Index a few real photographs and search them, to see how it works.

    The photographs come from the scikit-image package, which is downloaded once if it is not installed.
    """
    import shutil

    from llm2clip_search.cli.hits import Style, print_hits
    from llm2clip_search.encoders import load_encoder
    from llm2clip_search.encoders.sources import fetch
    from llm2clip_search.engine import open_index
    from llm2clip_search.errors import CorpusError
    from llm2clip_search.indexers import index_folder

    photographs = folder / "photographs"
    try:
        photographs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"{photographs} cannot be created: {error.strerror}.", hint="Name another folder.") from error
    for name, sha256 in PHOTOGRAPHS.items():
        if not (photographs / name).exists():
            source = f"pypi:{DISTRIBUTION}/skimage/data/{name}#{sha256}"
            shutil.copyfile(fetch(source).path, photographs / name)
    encoder = load_encoder(runtime=runtime)
    with ProgressBar() as progress:
        summary = index_folder(photographs, encoder=encoder, index=folder / ".llm2clip", progress=progress)
    console.out.print(f"{summary.total} photographs indexed in {photographs}\n")
    opened = open_index(folder / ".llm2clip", runtime=runtime)
    for caption in CAPTIONS:
        console.out.print(f'[bold]llm2clip-search query "{caption}" -k 2[/bold]')
        print_hits(opened.query(caption, k=2), Style())
        console.out.print()
    console.say(f"Try your own: cd {folder}, then llm2clip-search query 'what you are looking for'.")
