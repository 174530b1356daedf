"""What the library promises its callers: it does not print, its messages name no flag, and it imports anywhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import llm2clip_search

PACKAGE = Path(llm2clip_search.__file__).parent
LIBRARY = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("cli",))
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+|llm2clip-search [a-z]")
UNIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def texts(node: ast.AST) -> Iterator[str]:
    """String constants within an expression, those of f-strings included."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def test_messages_are_true_for_every_caller() -> None:
    """A flag or a command belongs in the hint, which the command line alone prints."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {text}"
        for path in LIBRARY
        for node in nodes(path)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        for argument in node.exc.args
        for text in texts(argument)
        if FLAG.search(text)
    ]
    assert found == []


def test_the_library_does_not_print() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in LIBRARY
        for node in nodes(path)
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout.write", "sys.stderr.write"))
    ]
    assert found == []


def test_no_module_needs_unix_to_be_imported() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not UNIX_ONLY & {name.partition(".")[0] for name in names}, path.relative_to(PACKAGE)
