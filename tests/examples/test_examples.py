"""What stands in ``examples/`` runs, and says what it should."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llm2clip_search

EXAMPLES = Path(llm2clip_search.__file__).parents[1] / "examples"


def run(*arguments: str | Path) -> str:
    """Output of a script, in an interpreter of its own, as its docstring says to run it."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_encoder_of_ten_lines() -> None:
    assert run(EXAMPLES / "colour_words.py") == "[[1.   0.   0.  ]\n [0.   0.71 0.71]]\n"
    [encoder] = [node for node in ast.parse((EXAMPLES / "colour_words.py").read_text()).body if is_class(node)]
    assert lines_of_code(encoder) <= 10


def test_the_corpus_of_twenty_lines_is_indexed_and_searched() -> None:
    assert run(EXAMPLES / "list_corpus.py").splitlines() == [
        "4 images indexed",
        "1.000 list://images/3",
        "0.707 list://images/0",
    ]
    [corpus] = [node for node in ast.parse((EXAMPLES / "list_corpus.py").read_text()).body if is_class(node)]
    assert lines_of_code(corpus) <= 20


def test_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one namespace; the last expression of a cell is what it shows."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    notebook = json.loads((EXAMPLES / "search_from_python.ipynb").read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {}
    shown = [run_cell("".join(cell["source"]), namespace) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert shown[0] == (6, 0)
    assert shown[1][0] == ("purple.png", 1.0)
    assert [rank for rank, _ in shown[2][0]] == [2, 3]
    assert shown[3][1][0, 0] != shown[3][1][1, 0]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")


def run_cell(code: str, namespace: dict[str, Any]) -> Any:
    body = ast.parse(code).body
    last = body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)


def is_class(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef)


def lines_of_code(node: ast.stmt) -> int:
    """Lines that are neither empty nor a docstring."""
    return len([line for line in ast.unparse(node).splitlines() if line.strip() and '"""' not in line])
