"""How the words of ``query`` become options and captions: a caption may begin with a dash, as in a list or a -20."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from typer.core import TyperCommand

_MARK = "Write -- before a caption that begins with a dash."


class QueryCommand(TyperCommand):
    """A command that takes a word beginning with a dash for a caption if it can be no option.

    That is a word with a space or a character beyond ASCII before any ``=``, since options have neither. Two kinds are
    refused, because they may be meant otherwise: one whose first part is an option, such as ``"--where width > 9"`` in
    quotes, and one without a space, which is taken for a mistyped option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put captions behind ``--``, where the parser takes any word for a caption."""
        if not ctx.resilient_parsing:  # as for the completion of words
            try:
                args = self._with_captions_last(ctx, args)
            except ValueError as error:
                ctx.fail(str(error))
        return super().parse_args(ctx, args)

    def _with_captions_last(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = {
            name: not getattr(param, "is_flag", False)
            for param in self.get_params(ctx)
            if param.param_type_name == "option"
            for name in (*param.opts, *param.secondary_opts)
        }
        options: list[str] = []
        captions: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                captions += words
            elif (meaning := _meaning(word, takes_value)) == "caption":
                captions.append(word)
            else:
                options.append(word)
                if meaning == "option and value":
                    if (value := next(words, None)) is None:
                        return options  # the parser says what is missing
                    options.append(value)
        return [*options, "--", *captions]


def _meaning(word: str, known: Mapping[str, bool]) -> Literal["caption", "option", "option and value"]:
    """What a word is; ``known`` says of each option whether it takes a value, which may be the next word.

    Raises:
        ValueError: it may be a caption and an option, or neither.
    """
    if not word.startswith("-") or word == "-":
        return "caption"
    name, equals, _ = word.partition("=")
    if name in known:
        return "option and value" if known[name] and not equals else "option"
    first = name.split()[0]
    if (letters := _short(word, known)) is not None:
        return letters
    if first in known and first != name:
        raise ValueError(f"{word!r} begins with the option {first}: quotes belong around its value only. {_MARK}")
    if first != name or not name.isascii():
        return "caption"
    near = get_close_matches(name, known, n=1) if name.strip("-")[:1].isalpha() else []
    raise ValueError(f"No such option: {name}.{f' Did you mean {near[0]}?' if near else ''} {_MARK}")


def _short(word: str, known: Mapping[str, bool]) -> Literal["option", "option and value"] | None:
    """The meaning of ``-0``, ``-0k`` and ``-k5``: one-letter options, of which the last may take a number."""
    for place, letter in enumerate(word[1:], start=2):
        if (takes_value := known.get(f"-{letter}")) is None:
            return None
        if takes_value:
            value = word[place:].lstrip("= ")
            return "option" if value.removeprefix("-").isdecimal() else None if value else "option and value"
    return "option"
