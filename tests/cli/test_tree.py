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
