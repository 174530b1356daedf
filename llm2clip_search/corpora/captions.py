"""Operations on the text of captions."""

from collections.abc import Sequence


def join_sentences(texts: Sequence[str]) -> str:
    """Join several captions into one text; a full stop is added to captions without final punctuation."""
    stops = ".!?\u3002\uff01\uff1f"  # the last three are Chinese
    return " ".join(text if text[-1] in stops else f"{text}." for text in texts)
