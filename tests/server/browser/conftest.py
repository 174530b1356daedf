"""The page in Chromium, for all tests of a file."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service
from tests.support.encoders import ColourEncoder
from tests.support.server import listening, wait_until

CHROMIUM = os.environ.get("LLM2CLIP_CHROMIUM") or shutil.which("chromium")

Serve = Callable[..., AbstractContextManager[str]]
PageOf = Callable[..., Page]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
"""Options of `page_of` for a small screen."""


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Serves an index, with nothing in the user's own folders, until ``state`` is reached; gives the address."""

    @contextmanager
    def serving(index: Path, *, state: str = "ready") -> Iterator[str]:
        service = Service(ServerConfig(indices=(index,)), encoder=ColourEncoder())
        with listening(service) as address:
            wait_until(lambda: service.state == state)
            yield address

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("LLM2CLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield serving


@pytest.fixture(scope="module")
def address(indexed: Path, serve: Serve) -> Iterator[str]:
    with serve(indexed) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def faults() -> list[str]:
    """What the console may say; a test that provokes an error names its status here."""
    return []


@pytest.fixture
def page_of(browser: Browser, faults: list[str]) -> Iterator[PageOf]:
    """Pages of an address, with further options of their context.

    Errors in their consoles and requests to other hosts fail the test.
    """
    contexts, said, asked = [], [], []

    def opened(address: str, **options: Any) -> Page:
        context = browser.new_context(**{"base_url": address, "viewport": {"width": 1280, "height": 800}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(urlsplit(request.url).hostname))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in said if not any(fault in text for fault in faults)] == []
    assert set(asked) <= {"127.0.0.1", ""}


@pytest.fixture
def page(address: str, page_of: PageOf) -> Page:
    """The page of the small index."""
    return page_of(address)
