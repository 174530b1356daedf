"""The list of what training does not use: ``left_out.jsonl``, with the reason, name and details of each."""

import json
from collections.abc import Iterable
from pathlib import Path

from llm2clip_search.base.files import replace_file

LEFT_OUT = "left_out.jsonl"


def write_left_out(out: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write the list to a folder.

    Args:
        rows: reason, name, and details of each.
    """
    lines = (json.dumps({"reason": r, "name": n, "detail": d}, ensure_ascii=True) for r, n, d in rows)
    replace_file(out / LEFT_OUT, "".join(f"{line}\n" for line in lines).encode())
