"""The command tree: it describes every command without importing it, and imports the one that runs."""

import inspect
import subprocess
import sys

import pytest
import typer

from llm2clip_search.cli.app import COMMANDS, app


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_help_says(name: str) -> None:
    group = typer.main.get_command(app)
    help_text = inspect.cleandoc(group.commands[name].help)  # type: ignore[attr-defined]
    assert " ".join(help_text.split("\n\n")[0].split()) == COMMANDS[name].summary


@pytest.mark.parametrize(("words", "imported"), [(["--help"], []), (["verify", "--help"], ["verify"])])
def test_a_process_imports_the_command_that_it_runs(words: list[str], imported: list[str]) -> None:
    code = """
import sys
from typer.testing import CliRunner
from llm2clip_search.cli.app import COMMANDS, app
done = CliRunner().invoke(app, sys.argv[1:])
assert done.exit_code == 0, done.output
assert sys.argv[1] != "--help" or all(name in done.stdout for name in COMMANDS)
print([name for name in COMMANDS if f"llm2clip_search.cli.{name}" in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(imported)


def test_help_imports_neither_a_markdown_parser_nor_pygments() -> None:
    code = """
import sys
from llm2clip_search.cli.app import main
sys.argv = ["llm2clip-search", "--help"]
try:
    main()
except SystemExit:
    print(sorted({"markdown_it", "pygments"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Measure recall and speed." in done.stdout


def test_what_was_put_off_is_imported_when_an_object_is_made() -> None:
    code = """
import sys
from llm2clip_search.cli.later import import_later
import_later("rich.markdown", "Markdown")
from rich.markdown import Markdown
assert "markdown_it" not in sys.modules
first, second = Markdown("*a*"), Markdown("b")
from rich.markdown import Markdown as Real
assert type(first) is type(second) is Real
import_later("rich.markdown", "Markdown")
assert sys.modules["rich.markdown"].Markdown is Real
"""
    subprocess.run([sys.executable, "-c", code], check=True)
