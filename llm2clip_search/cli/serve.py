"""``llm2clip-search serve``: a page and a REST API for one or several indices."""

import os
import sys
from typing import Annotated

import typer

from llm2clip_search.cli import console
from llm2clip_search.cli.options import Device, EngineUrl, IndexFolders, ModelName, QuantizeName, RuntimeName


def serve(
    index: IndexFolders = None,
    engine: EngineUrl = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any that is free.", min=0, max=65535)] = 8410,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name in the address of the page, such as that of a reverse proxy; may be repeated.",
            show_default=False,
            metavar="HOST[:PORT]",
        ),
    ] = None,
    hide_location: Annotated[
        bool, typer.Option("--hide-location", help="Serve neither coordinates nor original files, which hold them.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    model: ModelName = None,
    runtime: RuntimeName = "auto",
    device: Device = "auto",
    quantize: QuantizeName = "none",
) -> None:
    """Serve a search page and a REST API, on this machine only unless told otherwise.

    The page is at the address that is printed, the description of the API below it at /api/v1/openapi.json. The server
    follows the index: what `index` adds is found without a restart. Ctrl-C stops it.

    If other machines can reach the server (--host, --allow-host), everything but /api/v1/health needs a token: that
    of LLM2CLIP_TOKEN, or a new one, which is part of the address that is printed.

    [dim]llm2clip-search serve --open[/dim]
    [dim]llm2clip-search serve --index photos/.llm2clip --port 9000[/dim]
    [dim]llm2clip-search serve --engine qdrant:http://localhost:6333/photos[/dim]
    [dim]LLM2CLIP_TOKEN=... llm2clip-search serve --host 0.0.0.0 --allow-host pictures.example.org[/dim]
    """
    from llm2clip_search.server.config import ServerConfig, needs_token, new_token
    from llm2clip_search.server.run import serve as run

    token = os.environ.get("LLM2CLIP_TOKEN") or None
    if token is None and needs_token(host, allow_host or ()):
        token = new_token()
    config = ServerConfig(
        indices=tuple(index or ()),
        engine=engine,
        host=host,
        port=port,
        token=token,
        allowed_hosts=tuple(allow_host or ()),
        hide_location=hide_location,
        model=model,
        runtime=runtime,
        device=device,
        quantize=quantize,
    )

    def listening(address: str) -> None:
        console.say(f"Serving on {address} (Ctrl-C stops)")
        if open_page:
            import webbrowser

            webbrowser.open(address)

    run(config, listening=listening)
    # Threads may be loading the model; native libraries abort if the interpreter is taken down around them.
    sys.stderr.flush()
    os._exit(0)
