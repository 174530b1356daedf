"""The errors that a user sees: a message that is true for every caller, and a hint for the command line.

The message is one sentence: what went wrong, with which file or id, and the numbers that disagree. The hint says
what to do about it in terms of commands and flags; only the command line prints it, because a program that calls
the library has neither.
"""

import os
from functools import partial


class Llm2ClipError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        hint: one sentence that names the command or flag that helps; empty if there is none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(Llm2ClipError, ValueError):
    """An argument has a type or a value that is not accepted; the message says which are."""


class ModelError(Llm2ClipError):
    """A model cannot be resolved, fetched, verified or loaded."""


class ImageError(Llm2ClipError):
    """An image cannot be turned into pixels or embedded.

    Attributes:
        stage: where it failed: ``read``, ``header``, ``decode`` or ``encode``.
    """

    def __init__(self, message: str, *, stage: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        """As it is in another process; exceptions otherwise lose what is given by keyword."""
        return partial(type(self), stage=self.stage, hint=self.hint), self.args


class StoreError(Llm2ClipError):
    """An index on disk is missing, damaged, locked or made by another model."""


class DamagedError(StoreError):
    """A file of an index is missing, or does not hold what was committed."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="Run 'llm2clip-search verify' to see all that is damaged, and 'llm2clip-search repair' to mend it.",
        )


class EngineError(Llm2ClipError):
    """A serving engine cannot be reached, refuses, or holds something else than is asked for."""


class CorpusError(Llm2ClipError):
    """A corpus or data set cannot be read: no such folder, or nothing in it to use."""


class ClusterError(Llm2ClipError):
    """A cluster cannot be reached or used, or lost work that it could not repeat."""


class QueryError(InputError):
    """A query is empty, contradicts itself or names something that does not exist."""


def first_line(error: Exception) -> str:
    """The first line of another library's error, to quote in a sentence; the type's name if it says nothing.

    Of an error of the system, it is what went wrong, without number and path: ``no space left on device``.
    """
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).partition("\n")[0].rstrip(".:") or type(error).__name__


class ConditionError(QueryError):
    """A condition on the metadata is wrong, not allowed, or takes too long."""
