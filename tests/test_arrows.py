"""The arrows of the house, its links, and a start that imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llm2clip_search

PACKAGE = Path(llm2clip_search.__file__).parent
MAY_IMPORT = {
    "base": set(),
    "encoders": {"base"},
    "store": {"encoders", "base"},
    "corpora": {"encoders", "base"},
    "vectorindex": {"store", "encoders", "base"},
    "evaluation": {"base"},
    "indexers": {"corpora", "vectorindex", "store", "encoders", "base"},
    "engine": {"vectorindex", "store", "encoders", "base"},
    "benchmarks": {"engine", "indexers", "evaluation", "corpora", "vectorindex", "store", "encoders", "base"},
    "training": {"benchmarks", "evaluation", "corpora", "store", "encoders", "base"},
    "cli": {
        "engine",
        "indexers",
        "training",
        "benchmarks",
        "evaluation",
        "corpora",
        "vectorindex",
        "store",
        "encoders",
        "base",
    },
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of our own that a module imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), "imports are written out, not relative"
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("llm2clip_search.") for name in found if name.startswith("llm2clip_search.")}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        others = {name.split(".")[0] for name in imports(path)} & MAY_IMPORT.keys() - {room}
        assert others <= MAY_IMPORT[room], f"{path.name} imports {others - MAY_IMPORT[room]}"


def test_every_module_belongs_to_a_room() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0] for path in MODULES}
    assert rooms == MAY_IMPORT.keys() | {"__init__.py", "__main__.py", "errors.py"}
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "misc", "common")]


def test_no_two_modules_import_each_other() -> None:
    """At module level: what a function imports when called makes no circle.

    A package counts as its ``__init__``, so that a module may not take from it what it gives to it.
    """
    names = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        top = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        graph[name] = set()
        for node in top:
            module = (node.module or "").removeprefix("llm2clip_search.")
            for alias in node.names:  # ``from room import module`` needs the module, any other name its room
                inner = f"{module}.{alias.name}".removeprefix("llm2clip_search.")
                graph[name].add(inner if inner in names else module)
    assert graph["cli.app"] >= {"cli.console", "cli.query"}

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for step in graph.get(start, set()) - seen:
            seen.add(step)
            if step == goal or reaches(step, goal, seen):
                return True
        return False

    assert [name for name in graph if reaches(name, name, set())] == []


def test_modules_are_read_at_one_sitting() -> None:
    long = {path.name: count for path in MODULES if (count := len(path.read_text().splitlines())) > 400}
    assert long == {}


@pytest.mark.parametrize("room", ["indexers", "training", "benchmarks"])
def test_links_at_the_top_lead_into_the_package(room: str) -> None:
    link = PACKAGE.parent / room
    assert link.is_symlink()
    assert link.resolve() == PACKAGE / room


def test_help_imports_nothing_heavy() -> None:
    """Every command's help, in one process; then the modules that are there."""
    code = """
import sys
from typer.testing import CliRunner
from llm2clip_search.cli.app import app
for command in ([], ["index"], ["query"], ["info"], ["models"], ["bench"], ["train"], ["demo"]):
    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0, command
print([name for name in ("torch", "transformers", "faiss", "open_clip", "timm", "onnxruntime", "duckdb", "pyarrow")
       if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_continuous_integration_runs_the_readmes_command() -> None:
    """The script reads the command from the README; both parts must keep meeting."""
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    command = readme.split("<!-- test command -->\n```sh\n")[1].split("\n```")[0]
    for part in ("-c constraints.txt", "ruff check", "ruff format --check", "mypy", "pytest"):
        assert part in command
    assert "<!-- test command -->" in (PACKAGE.parent / ".ci" / "run").read_text(encoding="utf-8")
