"""The arrows of the house, its links, and a start that imports nothing heavy."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import llm2clip_search

PACKAGE = Path(llm2clip_search.__file__).parent
LAYERS = (
    {"base"},
    {"encoders"},
    {"evaluation", "vectorindex", "corpora", "store", "cluster"},
    {"indexers", "engine", "training", "benchmarks"},
    {"cli", "server"},
)
"""Rooms from the ground up. A room may import every room of a lower layer, and of its own layer only what
`NEIGHBOURS` allows."""
NEIGHBOURS = {"cluster": {"corpora"}, "benchmarks": {"engine", "indexers"}, "store": {"vectorindex"}, "cli": {"server"}}
"""A cluster reads corpora; benchmarks measure the engine and the indexers as a user runs them; manifests hold the
operating points of the approximate index."""
TRAINING_LAYERS = ("runtime", "data", "tasks", "recipes")
"""Rooms of training from the ground up; what lies beside them, such as `stages`, may import all of them."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """A file's dotted name below the package; a package is named for its folder, the top one is empty."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}


def imports(path: Path) -> set[str]:
    """Our own modules that a module imports anywhere in it: at the top, in a function, or for type checking.

    ``from room import module`` counts as that module, any other name as the package that it comes from.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), "imports are absolute"
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
            package = (node.module or "").removeprefix(PACKAGE.name).lstrip(".")
            for alias in node.names:
                inner = f"{package}.{alias.name}".lstrip(".")
                found.add(inner if inner in NAMES else package)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names if alias.name.partition(".")[0] == PACKAGE.name)
            found |= {name.removeprefix(PACKAGE.name).lstrip(".") for name in names}
    return found


def test_a_room_imports_only_rooms_below_it() -> None:
    below: set[str] = set()
    for layer in LAYERS:
        for room in layer:
            allowed = below | NEIGHBOURS.get(room, set()) | {room, "errors"}
            for path in (PACKAGE / room).rglob("*.py"):
                upward = {name for name in imports(path) if name.partition(".")[0] not in allowed}
                assert not upward, f"{path.relative_to(PACKAGE)} imports {upward}"
        below |= layer


def test_a_room_of_training_imports_only_rooms_of_training_below_it() -> None:
    below: set[str] = set()
    for room in TRAINING_LAYERS:
        below.add(room)
        for path in (PACKAGE / "training" / room).rglob("*.py"):
            upward = {
                name
                for name in imports(path)
                if (parts := name.split("."))[0] == "training" and (len(parts) < 2 or parts[1] not in below)
            }
            assert not upward, f"{path.relative_to(PACKAGE)} imports {upward}"
    assert below == {path.name for path in (PACKAGE / "training").iterdir() if (path / "__init__.py").exists()}


def test_every_module_belongs_to_a_room() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0] for path in MODULES}
    assert rooms == set().union(*LAYERS) | {"__init__.py", "__main__.py", "errors.py"}
    assert not [path for path in MODULES if path.stem in ("utils", "helpers", "misc", "common")]


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions included: a lazy circle is a circle that starts later."""
    graph = {name: imports(path) for name, path in NAMES.items() if name}
    assert graph["cli.query"] >= {"cli.console", "cli.hits"}
    TopologicalSorter(graph).prepare()  # a CycleError names the modules of the circle


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
