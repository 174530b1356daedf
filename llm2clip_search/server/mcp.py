"""The tools of `tools` over the Model Context Protocol, with its official SDK (extra ``[mcp]``)."""

import base64
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from llm2clip_search.base.memory import keep_memory_low
from llm2clip_search.errors import Llm2ClipError
from llm2clip_search.server.hits import as_text
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.service import Service
from llm2clip_search.server.tools import TOOLS, Picture, Reply, Tool, schema_of

if TYPE_CHECKING:
    from mcp import types
    from mcp.server.lowlevel import Server

_log = logging.getLogger(__name__)

INSTRUCTIONS = (
    "Search a collection of images and texts that is indexed on this machine. Describe what you look for in one precise"
    " caption, in any language, rather than in keywords; narrow the results with conditions over the columns that"
    " describe_index lists; look at the best results with show_images before you say what they show."
)


class McpMissingError(Llm2ClipError):
    """The SDK is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "The Model Context Protocol needs the package mcp, which is not installed.",
            hint="Install it with: pip install 'llm2clip-search[mcp]'.",
        )


def create_server(service: Service) -> "Server[Any]":
    """A server of the tools; the service is asked for the index at each call, and need not be started.

    Raises:
        McpMissingError: the SDK is not installed.
    """
    try:
        from mcp import types
        from mcp.server.lowlevel import Server
    except ImportError as error:
        raise McpMissingError from error
    tools = {tool.name: tool for tool in TOOLS}

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_description(tool) for tool in TOOLS])

    async def call_tool(_: Any, call: types.CallToolRequestParams) -> types.CallToolResult:
        from anyio import to_thread

        tool = tools.get(call.name)
        if tool is None:
            return _failure(f"There is no tool {call.name!r}; the tools are {', '.join(tools)}.")
        arguments = call.arguments or {}
        try:
            return _result(await to_thread.run_sync(lambda: tool(service, arguments)))
        except (Problem, Llm2ClipError) as error:
            return _failure(str(error))
        except Exception:
            _log.exception("The tool %s failed.", tool.name)
            return _failure(f"{tool.name} failed for a reason that the server's log names.")

    return Server(
        "llm2clip-search",
        version=version("llm2clip-search"),
        title="Image search",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve_stdio(service: Service) -> None:
    """Serve an assistant over stdin and stdout until it closes them.

    Nothing else is written to stdout: while it serves, the SDK leads what libraries print there to stderr.

    Raises:
        McpMissingError: as `create_server`.
    """
    import anyio

    keep_memory_low()
    server = create_server(service)
    from mcp.server.stdio import stdio_server

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            try:
                await server.run(reading, writing, server.create_initialization_options())
            finally:
                service.close()  # so that nothing is printed once stdout is what it was

    anyio.run(serve)


def _description(tool: Tool) -> "types.Tool":
    from mcp import types

    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_of(tool.arguments),
        output_schema=None if tool.answer is None else schema_of(tool.answer),
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )


def _result(reply: Reply) -> "types.CallToolResult":
    from mcp import types

    value = None if reply.value is None else msgspec.to_builtins(reply.value)
    return types.CallToolResult(content=[_content(part) for part in reply.parts], structured_content=value)


def _content(part: str | Picture) -> "types.ContentBlock":
    from mcp import types

    if isinstance(part, str):
        return types.TextContent(type="text", text=part)
    return types.ImageContent(type="image", data=base64.b64encode(part.jpeg).decode(), mime_type="image/jpeg")


def _failure(sentence: str) -> "types.CallToolResult":
    """A tool's failure; the sentence may quote names that are not UTF-8."""
    from mcp import types

    return types.CallToolResult(content=[types.TextContent(type="text", text=as_text(sentence))], is_error=True)
