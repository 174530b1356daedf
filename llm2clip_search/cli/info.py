"""``llm2clip-search info``: what an index contains."""

from typing import Annotated

import typer
from rich.markup import escape

from llm2clip_search.base.visible import visible
from llm2clip_search.cli import console
from llm2clip_search.cli.options import IndexFolder
from llm2clip_search.cli.sources import say_if_moved


def info(
    index: IndexFolder = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show an index: images, model, size on disk, and how it is searched. `verify` checks its files."""
    from pathlib import Path

    from rich.filesize import decimal

    from llm2clip_search.store import Snapshot, find_index

    snapshot = Snapshot(Path(index) if index is not None else find_index())
    manifest = snapshot.manifest
    if json_output:
        from dataclasses import asdict

        with console.results():
            console.print_json(asdict(manifest))
        return
    size = sum(path.stat().st_size for path in snapshot.folder.rglob("*") if path.is_file())
    ann = manifest.ann
    lines = {
        "index": str(snapshot.folder),
        "images": f"{manifest.live:,} ({manifest.dead:,} rows deleted or replaced, {manifest.failures:,} failures)",
        "sources": ", ".join(snapshot.located(source.uri) for source in manifest.sources) or "none",
        "model": f"{manifest.model.name} ({manifest.model.fingerprint})",
        "vectors": f"{manifest.dim} x {manifest.dtype} in {len(manifest.shards)} shards",
        "search": ann.factory if ann else "exact",
        "on disk": decimal(size),
    }
    if ann is not None:
        points = [point for point in ann.points if point.depth == ann.points[0].depth]
        measured = ", ".join(f"{point.recall:.3f} in {point.milliseconds:.1f} ms" for point in points)
        lines["recall"] = f"{measured}; exact in {ann.exact_ms:.1f} ms (recall@10 of {ann.queries})"
        if not ann.exact_ms:  # an earlier version measured no times
            lines["recall"] = f"{points[0].recall:.3f} (recall@10 of {ann.queries})"
    for name, value in lines.items():
        console.out.print(f"[bold]{name:>8}[/bold]  {escape(visible(value))}")
    say_if_moved(snapshot)
