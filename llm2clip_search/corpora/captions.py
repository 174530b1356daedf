"""Captions as text."""

from collections.abc import Sequence


def join_sentences(texts: Sequence[str]) -> str:
    """Several captions as one text; a caption without a final stop gets one."""
    stops = ".!?\u3002\uff01\uff1f"  # the last three are Chinese
    return " ".join(text if text[-1] in stops else f"{text}." for text in texts)
