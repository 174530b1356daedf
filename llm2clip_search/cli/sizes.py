"""How numbers, and sizes in parameters and bytes, are written and read."""

import re

from llm2clip_search.errors import CorpusError, StoreError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def to_bytes(text: str) -> int:
    """``4GB``, ``512 MiB`` or ``1000000`` as bytes.

    Raises:
        StoreError: a text that is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    if match is None:
        raise StoreError(f"{text!r} is not an amount of memory.", hint="Write it as 4GB, 512MB or a number of bytes.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def numbers(text: str, option: str) -> list[int]:
    """``10,1_000`` as numbers; ``option`` is what gave the text.

    Raises:
        CorpusError: something else.
    """
    try:
        return [int(each.replace("_", "")) for each in text.split(",")]
    except ValueError as error:
        raise CorpusError(f"{option} is {text!r}, which is not a list of numbers.") from error


def parameters(count: int) -> str:
    """``7.78B``, ``303M``, ``410k``."""
    if count >= 1e9:
        return f"{count / 1e9:.2f}B"
    return f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"


def gigabytes(count: int) -> str:
    """Bytes as ``1.50 GB`` or ``38 MB``."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
