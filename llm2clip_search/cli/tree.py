"""The command tree, of which a process imports only the command that it runs.

Importing all commands and reading their options takes longer than many of them run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from llm2clip_search.base.visible import visible

_UsageError: Any = typer.BadParameter.__base__
"""That of the click that typer brings along, which is not public."""


@dataclass(frozen=True)
class Place:
    """Where a command, or a `typer.Typer` of commands, is found."""

    module: str
    """Below ``llm2clip_search.cli``; its attribute of the same name is the command."""
    summary: str
    """The first paragraph of its help."""
    command: type[TyperCommand] | None = None
    """Class of the command, if not the usual one."""

    def load(self, name: str) -> Any:
        """The command, with its options."""
        found = getattr(import_module(f"llm2clip_search.cli.{self.module}"), self.module)
        holder = typer.Typer(add_completion=False, rich_markup_mode="rich")
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name)
        else:
            holder.command(name, cls=self.command)(found)
        return get_group(holder).commands[name]


class Commands(Mapping[str, Any]):
    """Commands by name, each imported when it is first looked up."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places
        self._loaded = dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._places[name].load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def _errors_shown_as_written() -> Iterator[None]:
    """Escape what steers a terminal in the words that an error of usage repeats."""
    try:
        yield
    except _UsageError as error:
        error.message = visible(error.message, keep="\n")
        raise


def tree_of(places: Mapping[str, Place]) -> type[TyperGroup]:
    """The class of a group with these commands."""

    class Tree(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands: Any = Commands(places)

        def make_context(self, *args: Any, **further: Any) -> Any:
            with _errors_shown_as_written():
                return super().make_context(*args, **further)

        def invoke(self, ctx: Any) -> Any:
            with _errors_shown_as_written():
                return super().invoke(ctx)

        def list_commands(self, ctx: Any) -> list[str]:
            return list(places)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            """Help names each command with its summary, for which none needs to be imported."""
            loaded = self.commands
            self.commands = {
                name: TyperCommand(name=name, short_help=place.summary, rich_markup_mode=self.rich_markup_mode)
                for name, place in places.items()
            }
            try:
                super().format_help(ctx, formatter)
            finally:
                self.commands = loaded

    return Tree
