"""Cutting texts into passages that an encoder reads as a whole."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from llm2clip_search.corpora.corpus import Item

if TYPE_CHECKING:
    from llm2clip_search.encoders import Encoder

Span = tuple[int, int]
"""Where a passage begins and ends, in characters."""

_PARAGRAPH = re.compile(r"(?<=\S)(?=[ \t]*\n[ \t]*\n)|(?<=\S)(?=[ \t]*\n#{1,6} )")
"""Behind a paragraph, and before a heading of Markdown. Space belongs to what follows it, as tokens have it."""
_CLOSING, _WIDE_CLOSING = "\"')\\]\u201d\u2019\u00bb", "\u201d\u2019\uff09\u300d\u300f"
"""Quotation marks and brackets that close, and those of languages without spaces."""
_WIDE_END = "\u3002\uff01\uff1f\uff61"
"""What ends sentences of such languages."""
_SENTENCE = re.compile(
    rf"(?<=[.!?\u2026])(?=\s)|(?<=[.!?\u2026][{_CLOSING}])(?=\s)"
    rf"|(?<=[{_WIDE_END}])(?![{_WIDE_END}{_WIDE_CLOSING}])|(?<=[{_WIDE_END}][{_WIDE_CLOSING}])"
)
_LINE = re.compile(r"(?<=\S)(?=[ \t]*\n)")
_SPACE = re.compile(r"\s")
_HEADING = re.compile(r"\s*#{1,6} ")
_RANGE = re.compile(r"(?:(?<=#)|&)char=(\d+),(\d+)$")
_CHARACTERS_PER_TOKEN = 16
"""A text with more of them than this for each token is too long, and that need not be counted."""
_COUNTED = 1 << 18
"""Characters that are counted together, which bounds memory: a token takes some hundred bytes while it is counted."""


class _Piece(NamedTuple):
    start: int
    end: int
    tokens: int


class Passages:
    """Cuts texts where paragraphs end, else where sentences end, else at spaces, else anywhere.

    Short paragraphs go together until a passage has half of what the encoder reads, and a heading begins a new one. So
    passages depend on the text around them only, and a change leaves all others as they are. The parts of a paragraph
    that is too long overlap by a sentence, or by an eighth.
    """

    def __init__(self, encoder: "Encoder") -> None:
        self._encoder = encoder

    @cached_property
    def _around(self) -> int:
        """Tokens that the encoder adds to a text; counting them loads its tokenizer."""
        return self._encoder.count_tokens([""])[0]

    @property
    def _most(self) -> int:
        """Tokens of a passage, without those that the encoder adds."""
        return max(1, self._encoder.max_tokens - self._around)

    def cut(self, text: str) -> list[Span]:
        """The passages of a text, in order; what is between them is white space. None for an empty text.

        Takes time in proportion to the text: it is counted about twice, in pieces.
        """
        whole = _stripped(text, (0, len(text)))
        if whole is None:
            return []
        if self._counts(text, [whole])[0] <= self._most:
            return [whole]
        found: list[Span] = []
        for start, end in self._fitting(text, self._packed(text, whole, self._most)):
            if found and start <= found[-1][0]:  # where words are apart, what overlaps may be all of a passage
                found.pop()
            if not found or end > found[-1][1]:
                found.append((start, end))
        return found

    def _fitting(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """Passages of which none is too long: pieces were counted by themselves, and may have more tokens together."""
        kept = [span for each in spans if (span := _stripped(text, each)) is not None]
        found: list[Span] = []
        for span, tokens in zip(kept, self._counts(text, kept), strict=True):
            if tokens <= self._most or span[1] - span[0] == 1:
                found.append(span)
            else:
                length = span[1] - span[0]
                parts = self._packed(text, span, max(1, min(self._most, length) // 2))
                if max(end - start for start, end in parts) > 3 * length // 4:  # so that this ends, and soon
                    middle = span[0] + length // 2
                    parts = [(span[0], middle), (middle, span[1])]
                found += self._fitting(text, parts)
        return found

    def _packed(self, text: str, span: Span, most: int) -> list[Span]:
        """Passages of about ``most`` tokens, by the tokens of their pieces."""
        paragraphs = _split(text, span, _PARAGRAPH)
        found: list[Span] = []
        current: _Piece | None = None
        for paragraph, tokens in zip(paragraphs, self._counts(text, paragraphs, most), strict=True):
            if tokens > most:
                pieces = self._divided(text, paragraph, most)
                found += _overlapping(text, [current, *pieces] if current else pieces, most)
                current = None
            elif current is None:
                current = _Piece(*paragraph, tokens)
            elif (
                2 * current.tokens >= most
                or current.tokens + tokens > most
                or _HEADING.match(text, paragraph[0], paragraph[1])
            ):
                found.append((current.start, current.end))
                current = _Piece(*paragraph, tokens)
            else:
                current = _Piece(current.start, paragraph[1], current.tokens + tokens)
        return [*found, (current.start, current.end)] if current else found

    def _divided(self, text: str, span: Span, most: int, level: int = 0) -> list[_Piece]:
        """Pieces of at most ``most`` tokens of a part of a text that has more, each as large as its end allows."""
        words, characters = max(1, most // 2), max(1, most // 4)
        patterns = (_SENTENCE, _LINE, re.compile(rf"(?s).{{1,{words}}}\S*"), re.compile(rf"(?s).{{1,{characters}}}"))
        if level == len(patterns):
            return [_Piece(*span, most)]
        spans, pieces = _split(text, span, patterns[level]), list[_Piece]()
        for each, tokens in zip(spans, self._counts(text, spans, most), strict=True):
            pieces += [_Piece(*each, tokens)] if tokens <= most else self._divided(text, each, most, level + 1)
        return pieces

    def _counts(self, text: str, spans: Sequence[Span], most: int | None = None) -> list[int]:
        """Tokens of each part of a text, without those that the encoder adds; too many if it is too long to count."""
        longest = _CHARACTERS_PER_TOKEN * (most or self._most)
        counts = [self._most + 1] * len(spans)
        waiting, size = list[int](), 0
        for number, (start, end) in enumerate(spans):
            if end - start <= longest:
                waiting.append(number)
                size += end - start
            if waiting and (size >= _COUNTED or number == len(spans) - 1):
                found = self._encoder.count_tokens([text[slice(*spans[each])] for each in waiting])
                for each, tokens in zip(waiting, found, strict=True):
                    counts[each] = tokens - self._around
                waiting, size = [], 0
        return counts


def cut_item(item: Item, passages: Passages) -> Iterator[Item]:
    """The passages of an item that holds a text, or the item itself if it need not be cut, or is no text."""
    try:
        text = (item.data or b"").decode()
    except UnicodeDecodeError:
        yield item
        return
    spans = passages.cut(text)
    if len(spans) < 2:
        yield item
        return
    uri, within = char_range(item.uri)
    offset = within[0] if within else 0
    for start, end in spans:
        data = text[start:end].encode()
        yield replace(item, uri=with_range(uri, offset + start, offset + end), data=data, size=len(data))


def with_range(uri: str, start: int, end: int) -> str:
    """The URI of some characters of a text, as of RFC 5147; line ends count as one character.

    >>> with_range("notes.md", 0, 812), with_range("captions.csv#row=3", 0, 812)
    ('notes.md#char=0,812', 'captions.csv#row=3&char=0,812')
    """
    return f"{uri}{'&' if '#' in uri else '#'}char={start},{end}"


def char_range(uri: str) -> tuple[str, Span | None]:
    """The inverse of `with_range`: a URI without its range of characters, and the range.

    >>> char_range("captions.csv#row=3&char=0,812")
    ('captions.csv#row=3', (0, 812))
    >>> char_range("notes.md#char=0,812")
    ('notes.md', (0, 812))
    """
    match = _RANGE.search(uri)
    return (uri[: match.start()].removesuffix("#"), (int(match[1]), int(match[2]))) if match else (uri, None)


def _overlapping(text: str, pieces: Sequence[_Piece], most: int) -> list[Span]:
    """Passages of equal size that overlap, from pieces of at most ``most`` tokens."""
    overlap = most // 8
    total = sum(each.tokens for each in pieces)
    count = max(1, -(-(total - overlap) // max(1, most - overlap)))
    wanted = overlap + (total - overlap) / count
    found: list[Span] = []
    start, tokens = pieces[0].start, pieces[0].tokens
    for before, piece in pairwise(pieces):
        if tokens < wanted and tokens + piece.tokens <= most:
            tokens += piece.tokens
            continue
        found.append((start, before.end))
        repeated = before.tokens if before.tokens <= most // 4 else overlap
        repeated = max(0, min(repeated, most - piece.tokens))
        start, tokens = _last(text, before, repeated), repeated + piece.tokens
    return [*found, (start, pieces[-1].end)]


def _last(text: str, piece: _Piece, tokens: int) -> int:
    """Where about the last ``tokens`` of a piece begin: at a word if there are spaces, or behind the last one."""
    if tokens >= piece.tokens:
        return piece.start
    start = piece.end - (piece.end - piece.start) * tokens // piece.tokens
    if word := _SPACE.search(text, start, piece.end):
        return word.start()
    return piece.end if _SPACE.search(text, piece.start + 1, piece.end) else start


def _split(text: str, span: Span, pattern: re.Pattern[str]) -> list[Span]:
    """Parts of a text that end where a pattern's matches end."""
    ends = [match.end() for match in pattern.finditer(text, *span) if span[0] < match.end() < span[1]]
    return list(pairwise([span[0], *ends, span[1]]))


def _stripped(text: str, span: Span) -> Span | None:
    """A span without the space around it; None if there is nothing else."""
    part = text[slice(*span)]
    start = span[0] + len(part) - len(part.lstrip())
    return (start, start + len(part.strip())) if part.strip() else None
