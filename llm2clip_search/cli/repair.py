"""``llm2clip-search repair``: mend a damaged index."""

from typing import TYPE_CHECKING, Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.approximate import captions_of
from llm2clip_search.cli.options import Device, IndexFolder, RuntimeName
from llm2clip_search.cli.progress import ProgressBar

if TYPE_CHECKING:
    import numpy as np

    from llm2clip_search.base.identity import ModelIdentity
    from llm2clip_search.indexers import RepairSummary


def repair(
    index: IndexFolder = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model that made the index. Default: the one that the index names, which only a very old one without"
            " a manifest does not.",
            show_default=False,
        ),
    ] = None,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Set damaged files of an index aside, and bring back what they held.

    What another file holds too is rebuilt from it; images whose vectors are lost are embedded again from their
    sources. Damaged files are kept in the folder 'damaged' of the index, and nothing is deleted. Images of sound
    files are not touched.

    [dim]llm2clip-search repair[/dim]
    """

    from llm2clip_search.encoders import Encoder, load_encoder
    from llm2clip_search.indexers import repair_index
    from llm2clip_search.store import Manifest, find_index

    folder = index or find_index()

    def encoder() -> Encoder:
        return load_encoder(model or Manifest.read(folder).model.name, runtime=runtime, device=device)

    def captions(count: int) -> "np.ndarray | None":
        return captions_of(Manifest.read(folder).model)(count)

    with ProgressBar() as progress:
        summary = repair_index(folder, encoder=encoder, model=_identity(model), captions=captions, progress=progress)
    if json_output:
        with console.results():
            console.print_json(summary.to_dict())
        return
    _print(summary, shown=5)


def _identity(model: str | None) -> "ModelIdentity | None":
    from llm2clip_search.encoders.registry import resolve

    return None if model is None else resolve(model).identity


def _print(summary: "RepairSummary", *, shown: int) -> None:
    if not summary.damaged and not summary.lost and not summary.embedded + summary.reused + len(summary.missing):
        console.out.print(f"nothing is damaged; {console.images(summary.total)} in {summary.index}")
        return
    for file in summary.damaged:
        console.out.print(f"{file.path}: {file.reason}", markup=False)
    for name in summary.set_aside:
        console.say(f"  kept as {name}")
    if summary.rebuilt:
        console.out.print(f"{summary.rebuilt:,} images: rebuilt with their vectors")
    if summary.lost:
        console.out.print(f"{summary.lost:,} images: lost with their vectors")
    again = summary.embedded + summary.reused
    if again or summary.missing or summary.failures:
        console.out.print(
            f"{summary.embedded:,} embedded again, {summary.reused:,} found elsewhere in the index,"
            f" {len(summary.missing):,} missing, {len(summary.failures):,} failed"
        )
    for path in summary.missing[:shown]:
        console.warn(f"{path!r} is not in its source any more")
    if len(summary.missing) > shown:
        console.warn(f"... and {len(summary.missing) - shown:,} more in damaged/lost.parquet in the index folder")
    for failure in summary.failures[:shown]:
        console.warn(f"{failure['path']!r}: {failure['reason']}")
    if summary.unnamed:
        console.warn(f"no file names {summary.unnamed:,} of the lost images; index their folders to find them")
    if summary.revived:
        console.warn(f"{summary.revived:,} deleted images may be back; index their folders to remove them")
    console.say(f"  {console.images(summary.total)} in {summary.index}")
