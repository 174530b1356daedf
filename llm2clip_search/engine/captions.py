"""Captions as people type and paste them, made equal where they look equal."""

import re
import unicodedata

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
