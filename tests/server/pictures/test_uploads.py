"""How long uploads are kept."""

import pytest

from llm2clip_search.server.pictures.uploads import KEPT_S, Uploads
from llm2clip_search.server.problems import Problem
from tests.support.images import png


def test_uploads_expire_after_their_last_use() -> None:
    now = [0.0]
    uploads = Uploads(clock=lambda: now[0])
    first, second = uploads.add(png(1)), uploads.add(png(2))
    now[0] = KEPT_S - 1
    assert uploads.get(second.identifier) is second
    now[0] = KEPT_S + 1
    with pytest.raises(Problem, match="expired"):
        uploads.get(first.identifier)
    assert uploads.get(second.identifier) is second


def test_uploads_are_bounded_by_their_bytes() -> None:
    uploads = Uploads(max_bytes=len(png(1)) + len(png(2)))
    first, second = uploads.add(png(1)), uploads.add(png(2))
    uploads.get(first.identifier)
    third = uploads.add(png(3)[: len(png(3))])
    with pytest.raises(Problem, match="expired"):
        uploads.get(second.identifier)
    assert uploads.get(third.identifier) is third
