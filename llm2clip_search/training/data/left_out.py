"""The list of what training does not use: ``left_out.jsonl``, with the reason, name and details of each.

Repeated captions, which are used, are in it too.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from llm2clip_search.base.files import replace_file

LEFT_OUT = "left_out.jsonl"

logger = logging.getLogger(__name__)


def write_left_out(out: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write the list to a folder.

    Args:
        rows: reason, name, and details of each.
    """
    lines = (json.dumps({"reason": r, "name": n, "detail": d}, ensure_ascii=True) for r, n, d in rows)
    replace_file(out / LEFT_OUT, "".join(f"{line}\n" for line in lines).encode())


def warn_of(rows: Sequence[tuple[str, str, str]]) -> None:
    """Log a warning for each reason, with the number of its rows and the first one.

    Args:
        rows: as for `write_left_out`.
    """
    for reason in dict.fromkeys(reason for reason, _, _ in rows):
        names = [name for why, name, _ in rows if why == reason]
        logger.warning("%s: %s, such as %s", reason, f"{len(names):,}", names[0])
