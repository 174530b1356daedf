"""Names and texts of strangers as people see them: what steers a terminal, or shows otherwise than it is, is escaped.

A name may hold escape sequences, line breaks, marks that reverse the direction of writing (``photo<U+202E>gnp.exe``
looks like ``photoexe.png``) and bytes that are not UTF-8. Whatever shows one, wherever, calls this.
"""

import json
import re

_JOINERS = "\u200c\u200d"
"""Not printable by themselves, but parts of emoji and of words."""
_ODD = re.compile(r"[^\x20-\x7e]+")


def visible(text: str, *, keep: str = "") -> str:
    """Text with escapes, as Python writes them, for all that is not printable: control characters, line breaks, marks
    of direction, what no font has, and bytes that are not UTF-8.

    Args:
        keep: characters that stay as they are, such as line breaks where a format quotes them.
    """
    return text if text.isprintable() else "".join(each if each in keep else _visible(each) for each in text)


def visible_json(text: str) -> str:
    """JSON of any value with the escapes of JSON for what `visible` escapes, so that its meaning stays.

    Args:
        text: without line breaks between its values.
    """
    return text if text.isprintable() else _ODD.sub(_escaped_in_json, text)


def _is_seen(character: str) -> bool:
    return character.isprintable() or character in _JOINERS


def _visible(character: str) -> str:
    if _is_seen(character):
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _escaped_in_json(match: re.Match[str]) -> str:
    return "".join(each if _is_seen(each) else json.dumps(each)[1:-1] for each in match[0])
