"""Columns from the texts and JSON that a webdataset sample holds beside its image."""

import json
from collections.abc import Callable, Mapping
from typing import Any

_TEXTS = {
    **dict.fromkeys((".txt", ".text", ".caption"), "caption"),
    **dict.fromkeys((".cls", ".class"), "class"),
    **{f".{name}": name for name in ("title", "transcript", "prompt", "license", "url", "id", "index", "count")},
}
"""Columns by the extensions of members that hold one text."""
_NUMBERS = frozenset({"class", "id", "index", "count"})
"""Those whose text is a number, if it looks like one."""
_JSON = (".json", ".jsn")
_MAX_BYTES = 4 << 20
"""Of a text or JSON, which is held in memory and stored in a row."""
_MAX_COLUMNS = 200
"""Of one sample. There are more where a dot within the name makes one sample of thousands of files, such as
``frame.0001.json``, or where the keys of JSON are data."""


class SampleColumns:
    """Columns of one sample, filled as its members pass."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        """By the sample's own names. Where two members say different things of one, the second has its extension in the
        name: ``txt_caption``."""

    @staticmethod
    def reads(suffix: str) -> bool:
        """True for the lower-case suffix of a member that holds columns."""
        return suffix in _TEXTS or suffix in _JSON

    def add(self, extension: str, size: int, read: Callable[[], bytes]) -> str:
        """Take the columns of a member: the keys of a JSON object, or the one that its extension stands for.

        Args:
            extension: all of it, without its first dot; ``en.txt`` is the column ``en``.
            size: bytes.
            read: returns them.

        Returns:
            Why it holds none; empty otherwise.
        """
        stem, _, suffix = extension.lower().rpartition(".")
        stem = stem.replace(".", "_")
        if size > _MAX_BYTES:
            return f"it has {size:,} bytes, more than the {_MAX_BYTES:,} that a column may have"
        data = read()
        if len(data) < size:
            return f"the tar ends within it, after {len(data):,} of {size:,} bytes"
        text = data.decode("utf-8-sig", "replace")
        if f".{suffix}" not in _JSON:
            name = _TEXTS[f".{suffix}"]
            return self._set(extension, {stem or name: _number(text.strip()) if name in _NUMBERS else text.strip()})
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"it is not JSON: {error}"
        return self._set(extension, value if isinstance(value, dict) else {stem or suffix: value})

    def _set(self, extension: str, values: Mapping[str, Any]) -> str:
        if len(self.values) + len(values) > _MAX_COLUMNS:
            return f"its sample would have more than {_MAX_COLUMNS} columns"
        for name, value in values.items():
            plain = _plain(value)
            is_taken = name in self.values and self.values[name] != plain
            self.values[f"{extension.replace('.', '_')}_{name}" if is_taken else name] = plain
        return ""


def _number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    """A value of JSON as a column has it: texts, numbers and lists of texts as they are, all else as JSON."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [_sound(each) for each in value] or None
    if isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False)
    return _sound(value) if isinstance(value, str) else value


def _sound(text: str) -> str:
    """A text without the halves of pairs that JSON can spell and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
