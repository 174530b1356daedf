"""``llm2clip-search compact``: merge small shards of an index and drop deleted rows from disk."""

from llm2clip_search.cli import console
from llm2clip_search.cli.options import IndexFolder


def compact(index: IndexFolder = None) -> None:
    """Merge the small shards of an index and drop deleted rows from disk.

    Indexing does this by itself when there is enough to merge; this command does all of it. Queries that run at the
    same time are not disturbed.

    [dim]llm2clip-search compact[/dim]
    """
    from llm2clip_search.store import Manifest, Writer, find_index
    from llm2clip_search.store.compaction import compact as compact_index

    folder = index or find_index()
    manifest = Manifest.read(folder)
    with Writer.open(folder, model=manifest.model, dim=manifest.dim) as writer:
        result = compact_index(writer, everything=True)
        shards = len(writer.manifest.shards)
    if result.merged:
        console.out.print(
            f"{result.merged:,} shards merged into {result.written:,}, {result.dropped_rows:,} deleted rows dropped;"
            f" the index has {shards:,} shards"
        )
    else:
        console.out.print(f"nothing to do; the index has {shards:,} shards")
