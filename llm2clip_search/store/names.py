"""File names as text: the metadata is UTF-8, but a name may be any bytes.

A byte that is not part of UTF-8, 0x80 to 0xFF, is written as the character U+EF80 to U+EFFF, as in MirBSD's OPTU
encoding. Names that hold such characters themselves have their UTF-8 bytes written in the same way, so that different
names stay different and each is read back as the bytes that it was. `Snapshot.stored` and `Snapshot.located` alone
convert; all other code has names as Python gives them (``surrogateescape``), or as they are stored.
"""

import os
import re
import sys
from urllib.parse import quote_from_bytes

_SPECIAL = re.compile("[\ud800-\udfff\uef80-\uefff]+")
_ESCAPES = re.compile("[\uef80-\uefff]+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_ERRORS = sys.getfilesystemencodeerrors()


def encode(name: str) -> str:
    """A name as Python gives it, as text that UTF-8 can hold; most names are that already and stay as they are."""
    return name if name.isascii() else _SPECIAL.sub(_escaped, name)


def decode(text: str) -> str:
    """The inverse of `encode`."""
    return text if text.isascii() else _ESCAPES.sub(_raw, text)


def _escaped(match: re.Match[str]) -> str:
    try:
        data = match[0].encode("utf-8", _ERRORS)
    except UnicodeEncodeError:  # half a pair, from a program: no file of this machine is called that
        data = match[0].encode("utf-8", "surrogatepass")
    return "".join(chr(0xEF00 + byte) for byte in data)


def _raw(match: re.Match[str]) -> str:
    return bytes(ord(character) - 0xEF00 for character in match[0]).decode("utf-8", _ERRORS)


def is_unicode(text: str) -> bool:
    """False for the surrogates that Python makes of bytes that are not UTF-8."""
    return text.isascii() or _SURROGATES.search(text) is None


def json_path(path: str) -> dict[str, str]:
    """A path for JSON, which cannot hold any bytes.

    Returns:
        ``path``, with U+FFFD for what is not UTF-8; and only then ``path_bytes``, the path percent-encoded as in a URI.
    """
    if is_unicode(path):
        return {"path": path}
    return {"path": _SURROGATES.sub("\ufffd", path), "path_bytes": quote_from_bytes(os.fsencode(path))}
