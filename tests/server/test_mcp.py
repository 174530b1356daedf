"""The tools of an assistant, over the SDK's own client: in memory, and as a process."""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.types import CallToolResult
from PIL import Image

from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.engine import open_index
from llm2clip_search.indexers import index_corpus, index_folder
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.mcp import create_server
from llm2clip_search.server.service import Service
from llm2clip_search.store import Snapshot
from tests.support.commands import COMMAND, RunCli, is_one_error
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph

Use = Callable[[Client], Awaitable[Any]]


def using(*indices: Path, use: Use, **config: Any) -> Any:
    """What ``use`` returns of a client that is connected to the tools of some indices."""
    service = Service(ServerConfig(indices=indices, **config), encoder=ColourEncoder())

    async def run() -> Any:
        async with Client(create_server(service)) as client:
            return await use(client)

    try:
        return anyio.run(run)
    finally:
        service.close()


def call(*indices: Path, tool: str, **arguments: Any) -> CallToolResult:
    """The answer of one tool."""
    answer = using(*indices, use=lambda client: client.call_tool(tool, arguments))
    assert isinstance(answer, CallToolResult)
    return answer


def text_of(answer: CallToolResult) -> str:
    return "\n".join(part.text for part in answer.content if part.type == "text")


def test_the_tools_are_described_and_only_read(indexed: Path) -> None:
    tools = {tool.name: tool for tool in using(indexed, use=lambda client: client.list_tools()).tools}
    assert set(tools) == {"search", "similar", "show_images", "describe_index"}
    for tool in tools.values():
        assert tool.annotations.read_only_hint
        assert tool.description
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        assert tool.input_schema["type"] == "object"
        for name, field in tool.input_schema["properties"].items():
            assert "description" in json.dumps(field), (tool.name, name)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("search", {"caption": "a red boat", "k": 5}),
        ("search", {"caption": "a red boat", "like": 3, "where": "width > 80", "k": "4", "offset": 2}),
        ("search", {"like": "3", "unlike": "5"}),
        ("search", {"caption": "a red boat", "where": "width > 9000"}),
        ("similar", {"id": "7", "k": 3}),
        ("describe_index", {}),
    ],
)
def test_structured_answers_match_their_schema(indexed: Path, tool: str, arguments: dict[str, Any]) -> None:
    async def use(client: Client) -> tuple[Any, Any]:
        return await client.list_tools(), await client.call_tool(tool, arguments)

    listed, answer = using(indexed, use=use)
    assert not answer.is_error, text_of(answer)
    [schema] = [each.output_schema for each in listed.tools if each.name == tool]
    jsonschema.validate(answer.structured_content, schema)


def test_a_search_finds_what_the_engine_finds(indexed: Path) -> None:
    expected = open_index(indexed, encoder=ColourEncoder()).query("a red boat", like="3", where="width > 80", k=5)
    answer = call(indexed, tool="search", caption="a red boat", like=3, where="width > 80", k=5)
    found = answer.structured_content
    assert [(hit["id"], hit["rank"]) for hit in found["hits"]] == [(str(hit.id), hit.rank) for hit in expected.hits]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected.hits])
    assert found["matches"] == 15
    for line, hit in zip(text_of(answer).splitlines(), expected.hits, strict=True):
        assert line.startswith(f"{hit.rank}. id {hit.id} {hit.score:.3f} {hit.uri}")


def test_pages_continue(indexed: Path) -> None:
    whole = call(indexed, tool="search", caption="a red boat", k=20).structured_content["hits"]
    second = call(indexed, tool="search", caption="a red boat", k=5, offset=5).structured_content["hits"]
    assert second == whole[5:10]


def test_similar_rows_are_others(indexed: Path) -> None:
    hits = call(indexed, tool="similar", id=7, k=4).structured_content["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert "7" not in [hit["id"] for hit in hits]
    expected = open_index(indexed, encoder=ColourEncoder()).query(like=7, k=5).hits
    assert [hit["id"] for hit in hits] == [str(hit.id) for hit in expected if hit.id != 7]


def test_names_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9") / "pics"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        photograph(1).save(folder / name)
    index_folder(folder, encoder=ColourEncoder(), index=tmp_path / "i")
    (folder / "b.png").unlink()
    described = call(tmp_path / "i", tool="describe_index")
    assert described.structured_content["sources"] == [f"{tmp_path}/caf\ufffd/pics"]
    shown = call(tmp_path / "i", tool="show_images", ids=[0, 1])
    assert "caf\ufffd/pics/a.png" in text_of(shown)
    assert "caf\ufffd/pics/b.png cannot be shown" in text_of(shown)
    missing = call(folder, tool="describe_index")
    assert missing.is_error
    for answer in (described, shown, missing):
        assert json.loads(answer.model_dump_json())


def test_nothing_found_says_what_the_condition_left(indexed: Path) -> None:
    answer = call(indexed, tool="search", caption="a red boat", where="width > 9000")
    assert text_of(answer) == "Nothing was found; 0 of 20 rows meet the condition."


def test_a_caption_that_is_cut_is_said(indexed: Path) -> None:
    answer = call(indexed, tool="search", caption="word " * 100, k=1)
    assert "is 101 tokens long" in text_of(answer)
    assert answer.structured_content["warnings"]


@pytest.mark.parametrize("ids", [["1", 2], '["1", "2"]'])
def test_pictures_are_shown_small(tmp_path: Path, ids: Any) -> None:
    for number in (1, 2, 3):
        photograph(number, size=(1500, 1000)).save(tmp_path / f"{number}.png")
    index_folder(tmp_path, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    answer = call(tmp_path / ".llm2clip", tool="show_images", ids=ids)
    assert [part.type for part in answer.content] == ["text", "image", "text", "image"]
    for number, (line, shown) in zip((1, 2), zip(answer.content[::2], answer.content[1::2], strict=True), strict=True):
        assert line.type == "text"
        assert line.text.startswith(f"id {number}: ")
        assert shown.type == "image"
        assert shown.mime_type == "image/jpeg"
        picture = Image.open(io.BytesIO(base64.b64decode(shown.data)))
        assert (picture.format, picture.size) == ("JPEG", (512, 341))
        with Image.open(line.text.partition(": ")[2]) as original:
            small = np.asarray(original.convert("RGB").resize((16, 16)), dtype=float)
        assert np.abs(np.asarray(picture.resize((16, 16)), dtype=float) - small).mean() < 12


def test_a_picture_that_is_gone_does_not_hide_the_others(tmp_path: Path) -> None:
    for number in (1, 2):
        photograph(number).save(tmp_path / f"{number}.png")
    index_folder(tmp_path, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    (tmp_path / "1.png").unlink()
    answer = call(tmp_path / ".llm2clip", tool="show_images", ids=[0, 1])
    assert not answer.is_error
    assert [part.type for part in answer.content] == ["text", "text", "image"]
    assert "cannot be shown" in text_of(answer)


def test_a_file_that_became_something_else_is_not_shown(tmp_path: Path) -> None:
    """A link to another picture, to a device that never ends, and a pipe that nobody writes to."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        photograph(number).save(folder / f"{number}.png")
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    photograph(9).save(tmp_path / "private.png")
    for number, target in enumerate((tmp_path / "private.png", Path("/dev/zero"))):
        (folder / f"{number}.png").unlink()
        (folder / f"{number}.png").symlink_to(target)
    (folder / "2.png").unlink()
    os.mkfifo(folder / "2.png")
    answer = call(folder / ".llm2clip", tool="show_images", ids=[0, 1, 2])
    assert [part.type for part in answer.content] == ["text"] * 3
    assert text_of(answer).count("cannot be shown") == 3
    assert "changed since it was indexed" in text_of(answer)


def test_texts_are_shown_as_text(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("A boat with red sails.")
    [corpus] = open_corpora([tmp_path], SourceOptions(modality="text"))
    index_corpus(corpus, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    [identifier] = Snapshot(tmp_path / ".llm2clip").live_ids.tolist()
    answer = call(tmp_path / ".llm2clip", tool="show_images", ids=[identifier])
    assert text_of(answer).endswith("note.txt#char=0,22\nA boat with red sails.")


def test_several_indices_are_one(indexed: Path, tmp_path: Path) -> None:
    photograph(99).save(tmp_path / "other.png")
    index_folder(tmp_path, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    both = (indexed, tmp_path / ".llm2clip")
    [first, *_] = call(*both, tool="search", like="0@2").structured_content["hits"]
    assert (first["id"], first["name"]) == ("0@2", "other.png")
    assert [part.type for part in call(*both, tool="show_images", ids=["0@2", "2@1"]).content] == ["text", "image"] * 2
    described = call(*both, tool="describe_index").structured_content
    assert described["rows"] == 21
    assert len(described["sources"]) == 2


def test_the_description_names_usable_columns(indexed: Path) -> None:
    described = call(indexed, tool="describe_index").structured_content
    assert (described["rows"], described["holds"], described["max_tokens"]) == (20, ["images"], 24)
    for name in described["columns"]:
        answer = call(indexed, tool="search", caption="a boat", where=f"{name} IS NULL OR {name} IS NOT NULL", k=1)
        assert answer.structured_content["matches"] == 20, name


def test_places_can_be_kept_back(indexed: Path) -> None:
    shown = using(indexed, use=lambda client: client.call_tool("describe_index"), hide_location=True)
    assert not {"latitude", "longitude"} & set(shown.structured_content["columns"])


@pytest.mark.parametrize(("tool", "about"), [("search", {"caption": "a boat"}), ("similar", {"id": 3})])
def test_conditions_do_not_tell_places_that_are_kept_back(indexed: Path, tool: str, about: dict[str, Any]) -> None:
    asked = {**about, "where": "latitude IS NULL OR width > 0"}
    answer = using(indexed, use=lambda client: client.call_tool(tool, asked), hide_location=True)
    assert answer.is_error
    assert "does not say where pictures were taken" in text_of(answer)


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("search", {}, "A search needs a caption or the id of a row to be like."),
        ("search", {"caption": ""}, "The query is empty."),
        ("search", {"caption": "boat", "where": "DROP TABLE images"}, "is not a valid condition"),
        ("search", {"caption": "boat", "where": "no_column = 1"}, "no_column"),
        ("search", {"caption": "boat", "k": 1000}, "k: Expected `int` <= 50."),
        ("search", {"caption": "boat", "k": "many"}, "k: Expected `int`"),
        ("search", {"caption": "boat", "min_score": 2}, "min_score: Expected `float` <= 1.0."),
        ("search", {"caption": 7}, "caption: Expected `str | null`, got `int`."),
        ("search", {"query": "boat"}, "Object contains unknown field `query`."),
        ("search", {"like": "4711"}, "has no image with id 4711"),
        ("search", {"like": "/etc/passwd"}, "'/etc/passwd' is not the id of a row"),
        ("search", {"like": -1}, "-1 is not the id of a row"),
        ("similar", {"id": 10**30}, "is not the id of a row"),
        ("similar", {"id": 4711}, "There is no row with id 4711."),
        ("similar", {"id": "1^2"}, "is not the id of a row"),
        ("similar", {}, "`id`"),
        ("show_images", {"ids": []}, "length >= 1"),
        ("show_images", {"ids": list(range(1, 10))}, "length <= 8"),
        ("show_images", {"ids": "[" * 100_000}, "Expected `array`, got `str`"),
        ("show_images", {"ids": ["../../etc/passwd"]}, "is not the id of a row"),
        ("nothing", {}, "There is no tool 'nothing'; the tools are search, similar, show_images, describe_index."),
    ],
)
def test_errors_are_sentences(indexed: Path, tool: str, arguments: dict[str, Any], sentence: str) -> None:
    answer = call(indexed, tool=tool, **arguments)
    assert answer.is_error
    text = text_of(answer)
    assert sentence in text
    assert "\n" not in text
    assert "Traceback" not in text
    assert text.endswith(".")


def test_an_error_that_nobody_expects_stays_in_the_log(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the secret of this machine")

    monkeypatch.setattr("llm2clip_search.server.tools.found_of", broken)
    answer = call(indexed, tool="search", caption="boat")
    assert answer.is_error
    assert text_of(answer) == "search failed for a reason that the server's log names."


def test_the_index_is_followed(tmp_path: Path) -> None:
    async def use(client: Client) -> list[int]:
        rows = []
        missing = await client.call_tool("describe_index")
        assert missing.is_error
        assert "no index" in text_of(missing).lower()
        for number in (1, 2):
            photograph(number).save(tmp_path / f"{number}.png")
            index_folder(tmp_path, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
            rows.append((await client.call_tool("describe_index")).structured_content["rows"])
        return rows

    assert using(tmp_path / ".llm2clip", use=use) == [1, 2]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An index that the tiny model made, so that a process of its own can search it."""
    folder = tmp_path_factory.mktemp("real")
    for number in range(4):
        photograph(number).save(folder / f"{number}.png")
    index_folder(folder, encoder=f"dir:{tiny_model}", index=folder / ".llm2clip")
    return folder


def test_the_command_serves_the_sdk_over_stdio(real: Path) -> None:
    command = StdioServerParameters(
        command=COMMAND[0], args=[*COMMAND[1:], "mcp", "--index", str(real / ".llm2clip")], env=dict(os.environ)
    )

    async def run() -> tuple[Any, Any]:
        async with Client(command) as client:
            found = await client.call_tool("search", {"caption": "a photograph", "k": 2})
            return found, await client.call_tool("show_images", {"ids": [hit["id"] for hit in _hits(found)]})

    found, shown = anyio.run(run)
    assert len(_hits(found)) == 2
    assert [part.type for part in shown.content] == ["text", "image"] * 2


def _hits(answer: CallToolResult) -> Any:
    assert not answer.is_error, text_of(answer)
    return answer.structured_content["hits"]


NOISE = """
import os
from llm2clip_search.server.service import Service
refresh = Service.refresh
def noisy(self):
    print("noise of a library")
    os.system("echo noise of a program")
    refresh(self)
Service.refresh = noisy
from llm2clip_search.cli.app import main
main()
"""


def test_stdout_holds_the_protocol_and_nothing_else(real: Path) -> None:
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "describe_index", "arguments": {}}},
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", NOISE, "mcp", "--index", str(real / ".llm2clip")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"{json.dumps(message)}\n" for message in messages))
    process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for _ in range(2)]
    rest, err = process.communicate(timeout=60)
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["result"]["structuredContent"]["rows"] == 4
    assert rest == ""
    assert err.count("noise of a") == 2
    assert process.returncode == 0


def test_a_missing_sdk_is_told_with_its_extra(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    done = run_cli("mcp")
    assert done.returncode == 1
    assert is_one_error(done.stderr)
    assert "pip install 'llm2clip-search[mcp]'" in done.stderr
    assert done.stdout == ""


def test_the_documented_configurations_name_the_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
    blocks = [json.loads(block.partition("```")[0]) for block in page.split("```json\n")[1:]]
    assert [list(block) for block in blocks] == [["mcpServers"], ["servers"]]
    for block in blocks:
        [[server]] = [list(servers.values()) for servers in block.values()]
        assert server["command"].endswith("/llm2clip-search")
        assert server["args"][:2] == ["mcp", "--index"]
