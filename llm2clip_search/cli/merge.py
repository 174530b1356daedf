"""``llm2clip-search merge``: one new index of several."""

from pathlib import Path
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.approximate import ann_config, captions_of
from llm2clip_search.cli.options import AnnKind, Memory, Recall
from llm2clip_search.cli.progress import ProgressBar


def merge(
    out: Annotated[Path, typer.Argument(help="Folder of the new index; it must not exist, or be empty.")],
    indices: Annotated[list[Path], typer.Argument(help="Index folders to merge, made by the same model.")],
    ann: AnnKind = None,
    recall: Recall = None,
    memory: Memory = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Merge indices of one model into a new index.

    Images are not embedded again: vectors, metadata, folders and failures are copied. If two indices have the same
    path, the one named first is kept. The indices that are merged stay as they are.

    [dim]llm2clip-search merge all/.llm2clip 2023/.llm2clip 2024/.llm2clip[/dim]
    """
    from llm2clip_search.indexers import AnnConfig, merge_indices
    from llm2clip_search.store import Manifest

    with ProgressBar() as progress:
        config = ann_config(AnnConfig(), ann, recall, memory)
        captions = captions_of(Manifest.read(indices[0]).model)
        summary = merge_indices(out, indices, ann=config, captions=captions, progress=progress)
    if json_output:
        with console.results():
            console.print_json(summary.to_dict())
        return
    indices_text = "1 index" if summary.sources == 1 else f"{summary.sources} indices"
    console.out.print(f"{summary.total:,} images of {indices_text} merged in {summary.elapsed:.1f} s")
    if summary.skipped:
        console.warn(
            f"{summary.skipped:,} images have a path that an index named earlier has too; only the earlier one is kept"
        )
    search = f"approximate search ({summary.ann})" if summary.ann else "exact search"
    console.say(f"  {console.images(summary.total)} in {summary.index}, {search}")
