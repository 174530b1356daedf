"""Captions as people type and paste them, made equal where they look equal."""

import re
import unicodedata

from llm2clip_search.encoders import Encoder

_UNSEEN = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]+")
"""Soft hyphen, zero-width spaces, marks of direction, byte order mark: none of them is part of what a caption says."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]+")
_JOINERS = "\u200c\u200d\ufe0e\ufe0f"
"""Zero-width joiner and non-joiner and variation selectors have a meaning in Persian, in Indic scripts and in emoji,
but not alone."""


def clean_caption(text: str) -> str:
    """A caption in Unicode's composed form (NFC), without unseen characters, with single spaces between its words.

    Line breaks, control characters and every kind of space, such as the no-break space, become a space. A caption with
    nothing to see becomes empty. What a model does with a text, such as lower-casing it, is the model's own; a model
    gets captions of benchmarks and of training as they are.
    """
    words = unicodedata.normalize("NFC", _CONTROL.sub(" ", _UNSEEN.sub("", text))).split()
    cleaned = " ".join(words)
    return cleaned if cleaned.strip(f" {_JOINERS}") else ""


def cut_at(encoder: Encoder, text: str) -> tuple[int, int | None]:
    """How many tokens a caption has, and where a model stops reading it.

    Returns:
        The tokens, and the first character that is not read; None if all are. The tokens before it are as many as the
        model reads, or fewer where the next word is more than one token.
    """
    [count] = encoder.count_tokens([clean_caption(text)])
    if count <= encoder.max_tokens:
        return count, None
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    # A caption in a language without spaces is one word, and may end anywhere.
    ends = ends if len(ends) > 1 else list(range(1, len(text) + 1))
    low, high = 0, len(ends)  # ends[:low] are read, ends[high:] are not
    while low < high:
        middle = (low + high) // 2
        [tokens] = encoder.count_tokens([clean_caption(text[: ends[middle]])])
        low, high = (middle + 1, high) if tokens <= encoder.max_tokens else (low, middle)
    return count, ends[low - 1] if low else 0
