"""TOML files as dataclasses: every value is checked, and an error names the file, the line and the field."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from llm2clip_search.errors import InputError, Llm2ClipError, first_line

Kind = TypeVar("Kind")
Keys = tuple[str | int, ...]
"""Where a value is: names of tables and positions in arrays, from the top of the file."""
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


class TomlFile:
    """The values of a TOML file, some of them replaced by settings such as ``clip.loop.steps=200``."""

    def __init__(self, text: str, name: str, settings: Sequence[str] = ()) -> None:
        """Parse a text.

        Args:
            name: of the file, for messages.

        Raises:
            InputError: the text is not TOML, or a setting is not ``FIELD=VALUE`` or leads into what is no table.
        """
        self.name = name
        try:
            self.values: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{name} is not TOML: {first_line(error)}.") from error
        self._lines = _lines(text)
        self._set: set[Keys] = set()
        for setting in settings:
            self._override(setting)

    def _override(self, setting: str) -> None:
        field, sign, value = setting.partition("=")
        keys: Keys = tuple(part.strip() for part in field.split("."))
        if not sign or not all(keys):
            raise InputError(f"{setting!r} is no setting: one is written FIELD=VALUE, such as clip.loop.steps=200.")
        try:
            parsed: Any = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value  # a text without quotation marks
        table = self.values
        for key in keys[:-1]:
            table = table.setdefault(str(key), {})
            if not isinstance(table, dict):
                raise InputError(f"The setting {setting!r} leads into {key}, which is no table in {self.name}.")
        table[str(keys[-1])] = parsed
        self._set.add(keys)

    def place(self, keys: Keys) -> str:
        """``my.toml, line 12``, or the setting that a value comes from."""
        if any(keys[: len(each)] == each for each in self._set):
            return f"the setting {_dotted(keys)}"
        known = (self._lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in self._lines)
        line = next(known, None)
        return f"{self.name}, line {line}" if line else self.name

    def refuse(self, keys: Keys, what: str) -> InputError:
        """An error about a value; ``what`` is the rest of the sentence behind the field's name."""
        return InputError(f"{self.place(keys)}: {_dotted(keys)} {what}.")

    def build(self, kind: type[Kind], keys: Keys = (), *, given: Mapping[str, Any] | None = None) -> Kind:
        """A dataclass from the table at ``keys``; the whole file by default.

        Args:
            given: fields that do not come from the file.

        Raises:
            InputError: a field is unknown, missing or of another type, or its value is impossible.
        """
        table: Any = self.values
        for key in keys:
            if key not in table:
                raise InputError(f"{self.name} has no table [{_dotted(keys)}].")
            table = table[key]
        return self._dataclass(kind, table, keys, given or {})

    def check_names(self, table: Mapping[str, Any], known: Sequence[str], keys: Keys) -> None:
        """Refuse names that are not known.

        Raises:
            InputError: the message has the most similar name that is known.
        """
        for name in table:
            if name not in known:
                near = get_close_matches(name, known, 1, 0.6)
                meant = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
                owner = f"[{_dotted(keys)}]" if keys else "a recipe"
                raise InputError(f"{self.place((*keys, name))}: {owner} has no field {name!r}; {meant}")

    def _dataclass(self, kind: type[Kind], table: Any, keys: Keys, given: Mapping[str, Any]) -> Kind:
        if not isinstance(table, dict):
            raise self.refuse(keys, f"is {table!r:.60}, but it has to be a table")
        assert is_dataclass(kind), "only dataclasses are built"
        hints, own = get_type_hints(kind), [each for each in fields(kind) if each.name not in given]
        self.check_names(table, [each.name for each in own], keys)
        for each in own:
            if each.name not in table and each.default is MISSING and each.default_factory is MISSING:
                where = f"[{_dotted(keys)}]" if keys else "the recipe"
                raise InputError(f"{self.place(keys)}: {where} lacks {each.name!r}.")
        values = {name: self._value(hints[name], value, (*keys, name)) for name, value in table.items()}
        try:
            return kind(**values, **given)
        except (ValueError, TypeError, Llm2ClipError) as error:
            named = [name for name in table if re.search(rf"\b{name}\b", str(error))]
            at = (*keys, max(named, key=str(error).rfind)) if named else keys
            raise InputError(f"{self.place(at)}: {first_line(error)}.") from error

    def _value(self, kind: Any, value: Any, keys: Keys) -> Any:
        arguments = get_args(kind)
        if NoneType in arguments:
            return self._value(next(each for each in arguments if each is not NoneType), value, keys)
        if is_dataclass(kind):
            return self._dataclass(kind, value, keys, {})  # type: ignore[arg-type]
        if get_origin(kind) is tuple and is_dataclass(arguments[0]):
            if not isinstance(value, list):
                raise self.refuse(keys, f"is {value!r:.60}, but it has to be an array of tables")
            return tuple(self._value(arguments[0], each, (*keys, number)) for number, each in enumerate(value))
        if get_origin(kind) is Literal and value not in arguments:
            near = get_close_matches(str(value), arguments, 1, 0.5)
            meant = f"did you mean {near[0]!r}?" if near else f"it has to be {' or '.join(map(repr, arguments))}"
            raise InputError(f"{self.place(keys)}: {_dotted(keys)} is {value!r:.60}; {meant}")
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            why = str(error).partition(" - at")[0].replace("`", "")
            raise self.refuse(keys, f"is {value!r:.60}, but {why[0].lower()}{why[1:]}") from error


def to_toml(values: Mapping[str, Any], keys: Keys = ()) -> str:
    """Values as TOML: plain ones first, then tables; None is left out, because TOML cannot say it."""
    plain, tables = list[str](), list[str]()
    for name, value in values.items():
        if value is None:
            continue
        inner: Keys = (*keys, name)
        if isinstance(value, Mapping) and value:
            header = f"\n[{_dotted(inner)}]\n" if any(map(_is_plain, value.values())) else ""
            tables.append(header + to_toml(value, inner))
        elif not _is_plain(value) and value:
            tables += [f"\n[[{_dotted(inner)}]]\n{to_toml(each, inner)}" for each in value]
        else:
            plain.append(f"{_name(name)} = {_plain(value)}\n")
    return "".join((*plain, *tables))


def _is_plain(value: Any) -> bool:
    """Whether a value is written in the table itself, and not as a table of its own."""
    in_array = isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)
    return not (in_array or (isinstance(value, Mapping) and bool(value)) or value is None)


def changed(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, those of fields that are dataclasses likewise."""
    found = dict[str, Any]()
    for each in fields(value):
        held = getattr(value, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if default is MISSING or held != default:
            found[each.name] = _changed(held)
    return found


def _changed(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return changed(value) or asdict(value)
    return [_changed(each) for each in value] if isinstance(value, tuple) else value


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_name(name)} = {_plain(each)}" for name, each in value.items()) + "}"
    if isinstance(value, bool | str):
        return msgspec.json.encode(value).decode()  # JSON's texts are TOML's
    return repr(value)


def _name(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else msgspec.json.encode(name).decode()


def _dotted(keys: Keys) -> str:
    """``data.dev.0.path``; positions are left out, because a reader counts tables by their lines."""
    return ".".join(_name(key) for key in keys if isinstance(key, str))


def _lines(text: str) -> dict[Keys, int]:
    """Line of every table and every value that begins a line, by its keys.

    Values that span lines are passed over: a line within one that looks like a key is known under a name that no field
    has.
    """
    found, lengths = dict[Keys, int](), dict[Keys, int]()
    table: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = ()
            for name in _names(header[2]):  # of tables in arrays, the last one is meant
                table = (*table, name)
                table = (*table, lengths[table] - 1) if table in lengths else table
            if header[1] == "[[":
                array = table[:-1] if isinstance(table[-1], int) else table
                lengths[array] = lengths.get(array, 0) + 1
                table = (*array, lengths[array] - 1)
            found.setdefault(table, number)
        elif match := _KEY.match(line):
            found.setdefault((*table, *_names(match[1])), number)
    return found


def _names(dotted: str) -> Keys:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
