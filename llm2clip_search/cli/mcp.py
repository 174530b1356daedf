"""``llm2clip-search mcp``: the index as tools of an assistant."""

from typing import Annotated

import typer

from llm2clip_search.cli.options import Device, IndexFolders, ModelName, QuantizeName, RuntimeName


def mcp(
    index: IndexFolders = None,
    hide_location: Annotated[
        bool, typer.Option("--hide-location", help="Do not tell where pictures were taken.")
    ] = False,
    model: ModelName = None,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    quantize: QuantizeName = "none",
) -> None:
    """Let an assistant search the index, by the Model Context Protocol over stdin and stdout.

    Assistants such as Claude Desktop, Cursor and VS Code start this command themselves, when they are configured to.
    The tools search, similar, show_images and describe_index only read. The model is loaded by the first search, and
    changes of the index are followed. Needs the extra \\[mcp].

    [dim]llm2clip-search mcp --index /home/me/photos/.llm2clip[/dim]
    """
    from llm2clip_search.server.config import ServerConfig
    from llm2clip_search.server.mcp import serve_stdio
    from llm2clip_search.server.service import Service

    config = ServerConfig(
        indices=tuple(index or ()),
        hide_location=hide_location,
        model=model,
        runtime=runtime,
        device=device,
        quantize=quantize,
    )
    serve_stdio(Service(config))
