"""The errors that a user sees.

Each message is one sentence: what went wrong, with which file or id, the numbers
that disagree, and the flag or command that mends it. The command line prints the
sentence alone; ``--debug`` adds the traceback.
"""


class Llm2ClipError(Exception):
    """Base of every error that this package raises on purpose."""


class ModelError(Llm2ClipError):
    """A model cannot be resolved, fetched, verified or loaded."""


class ImageError(Llm2ClipError):
    """An image cannot be turned into pixels; ``stage`` is where: read, header, decode or encode."""

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage


class StoreError(Llm2ClipError):
    """An index on disk is missing, damaged, locked or made by another model."""


class CorpusError(Llm2ClipError):
    """A corpus cannot be read: no such folder, or nothing in it to index."""


class QueryError(Llm2ClipError):
    """A query is empty, contradicts itself or names something that is not there."""
