"""Rating, keywords and caption of a picture, as photo programs write them: XMP (ISO 16684-1) and IPTC records."""

import codecs
import math
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from llm2clip_search.encoders.packets import Packets

MAX_BYTES = 16 << 20
"""Larger packets are not read. Sidecars with all steps of an edit reach a few megabytes."""
_MAX_DEPTH = 100
_RDF, _DC = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://purl.org/dc/elements/1.1/}"
_RATING = "{http://ns.adobe.com/xap/1.0/}Rating"
_WINDOWS = tuple(f"{{http://ns.microsoft.com/photo/{version}/}}Rating" for version in ("1.0", "1.2"))
_PERCENT = (1, 25, 50, 75, 99)
"""What Windows writes for 1 to 5 stars."""
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_KEYWORDS, _CAPTION, _TITLE = (2, 25), (2, 120), (2, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a packet says of a picture; None for what it does not say."""

    rating: int | None = None
    """Stars, 0 to 5; -1 for rejected."""
    keywords: list[str] | None = None
    caption: str | None = None

    def or_else(self, other: "Description") -> "Description":
        """This one, with what it does not say from another one."""
        return Description(
            rating=other.rating if self.rating is None else self.rating,
            keywords=self.keywords or other.keywords,
            caption=self.caption or other.caption,
        )


def describe(packets: Packets) -> Description:
    """What the packets of a file say, XMP before IPTC; a damaged packet says nothing."""
    found = Description()
    with suppress(ValueError):
        found = read_xmp(packets.xmp)
    return found.or_else(read_iptc(packets.iptc))


def read_xmp(data: bytes) -> Description:
    """What an XMP packet or a sidecar file says.

    Raises:
        ValueError: it is not well-formed XML, is too large, or declares a document type, whose entities could make a
            small file large.
    """
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.strip(b"\x00 \r\n\t")
    if not data:
        return Description()
    described = list(_parse(data).iter(f"{_RDF}Description"))
    caption = _text(described, f"{_DC}description") or _text(described, f"{_DC}title")
    return Description(rating=_rating(described), keywords=_keywords(described), caption=caption)


def read_iptc(records: Mapping[tuple[int, int], Any]) -> Description:
    """What IPTC records say."""

    def values(key: tuple[int, int]) -> list[str]:
        found = records.get(key, [])
        texts = [_decoded(each) for each in _listed(found)]
        return [text for text in texts if text]

    caption = next(iter(values(_CAPTION) or values(_TITLE)), None)
    return Description(keywords=list(dict.fromkeys(values(_KEYWORDS))) or None, caption=caption)


def _parse(data: bytes) -> Element:
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data):,} bytes, more than {MAX_BYTES:,}")
    parser = expat.ParserCreate(namespace_separator="}")
    builder, depth = TreeBuilder(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"its elements are nested more than {_MAX_DEPTH} deep")
        builder.start(_qualified(name), {_qualified(key): value for key, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_qualified(name))

    def refuse(*_: Any) -> NoReturn:
        raise ValueError("it declares a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not well-formed XML: {error}") from error
    root: Element = builder.close()
    return root


def _qualified(name: str) -> str:
    return f"{{{name}" if "}" in name else name


def _rating(described: list[Element]) -> int | None:
    stars = next((found for each in described if (found := _number(each, _RATING)) is not None), None)
    if stars is not None:
        return stars if -1 <= stars <= 5 else None
    percents = (_number(each, name) for each in described for name in _WINDOWS)
    percent = next((found for found in percents if found is not None), None)
    return None if percent is None else bisect_right(_PERCENT, percent)


def _number(described: Element, name: str) -> int | None:
    text = described.get(name) or described.findtext(name) or ""
    with suppress(ValueError):
        value = float(text)
        return round(value) if math.isfinite(value) else None
    return None


def _keywords(described: list[Element]) -> list[str] | None:
    words = (text for each in described for text, _ in _items(each, f"{_DC}subject"))
    return list(dict.fromkeys(words)) or None


def _text(described: list[Element], name: str) -> str | None:
    """A text that may be there in several languages: in the default one, else the first."""
    found = [item for each in described for item in _items(each, name)]
    return next((text for text, language in found if language == "x-default"), found[0][0] if found else None)


def _items(described: Element, name: str) -> list[tuple[str, str]]:
    """Texts of a property with their languages: an attribute, a plain element, or members of a bag, list or choice."""
    elements = [inner for each in described.findall(name) for inner in (each.findall(f"*/{_RDF}li") or [each])]
    found = [("".join(each.itertext()), each.get(_LANGUAGE, "")) for each in elements]
    found.append((described.get(name, ""), ""))
    return [(text.strip(), language) for text, language in found if text.strip()]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _decoded(value: Any) -> str:
    """Text of a record: UTF-8, whether or not the file declares it, else the characters of Windows."""
    data = value if isinstance(value, bytes) else b""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return text.strip("\x00 \r\n")
