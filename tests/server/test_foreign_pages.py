"""A page of another site in a real browser, which tries to reach the server; skipped where there is no Chromium."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.safety import Safety
from tests.support.server import running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
TOKEN = "a-token-that-nobody-would-guess"
TRIES = {
    "fetch": "fetch(url).then(answer => answer.text())",
    "fetch without CORS": "fetch(url, {mode: 'no-cors'}).then(answer => answer.type)",
    "post": "fetch(url, {method: 'POST', mode: 'no-cors', body: '{}'}).then(answer => answer.type)",
    "script": "load(Object.assign(document.createElement('script'), {src: url}))",
    "image": "load(Object.assign(document.createElement('img'), {src: url}))",
    "style": "load(Object.assign(document.createElement('link'), {rel: 'stylesheet', href: url}))",
}
LOAD = """
const load = element => new Promise((done, fail) => {
  element.onload = () => done('loaded');
  element.onerror = () => fail('refused');
  document.body.append(element);
});
"""

reached: list[str] = []


async def handle(request: Request) -> Response:
    """Any path; remembers that it was reached."""
    reached.append(f"{request.method} {request.url.path}")
    return HTMLResponse("<!doctype html><title>the page</title>")


async def foreign(_: Request) -> Response:
    return HTMLResponse("<!doctype html><body>another site</body>")


def app(token: str | None) -> Safety:
    return Safety(Starlette(routes=[Route("/{path:path}", handle, methods=["GET", "POST"])]), ServerConfig(token=token))


@pytest.fixture
def page() -> Iterator[Page]:
    reached.clear()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_page_of_another_site_reaches_nothing(page: Page, token: str | None) -> None:
    with running(app(token)) as port, running(Starlette(routes=[Route("/", foreign)])) as other:
        server = f"http://127.0.0.1:{port}"
        page.goto(f"{server}/?token={TOKEN}" if token else server)
        assert page.title() == "the page"
        for site in ("localhost", "127.0.0.1"):  # another site, and the same one on another port
            page.goto(f"http://{site}:{other}/")
            reached.clear()
            for name, code in TRIES.items():
                tried = f"async url => {{ {LOAD} return await {code}.then(() => 'reached', () => 'refused') }}"
                assert page.evaluate(tried, f"{server}/api/v1/search?q=1") == "refused", name
            for method in ("get", "post"):
                page.goto(f"http://{site}:{other}/")
                page.set_content(f'<form method="{method}" action="{server}/api/v1/search"><button>go</button></form>')
                with page.expect_navigation():
                    page.click("button")
                assert "/problems/forbidden" in page.content()
            page.goto(f"http://{site}:{other}/")
            page.set_content(f'<iframe src="{server}/"></iframe>')
            page.wait_for_load_state("networkidle")
            assert "the page" not in [frame.title() for frame in page.frames]
            # Chromium itself asks for the icon of a page that it shows, of a refusal too.
            assert [each for each in reached if each != "GET /favicon.ico"] == []


def test_a_link_leads_on_after_a_click(page: Page) -> None:
    with running(app(None)) as port, running(Starlette(routes=[Route("/", foreign)])) as other:
        page.goto(f"http://localhost:{other}/")
        page.set_content(f'<a href="http://127.0.0.1:{port}/?q=a+dog">look</a>')
        page.click("a")
        page.get_by_role("link", name="Open the search page").click()
        page.wait_for_function("document.title === 'the page'")
        assert page.url == f"http://127.0.0.1:{port}/?q=a+dog"


def test_a_person_types_the_token_once(page: Page) -> None:
    with running(app(TOKEN)) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Open").click()
        page.wait_for_function("document.title === 'the page'")
        assert page.url == f"http://127.0.0.1:{port}/"
        page.reload()
        assert page.title() == "the page"
        assert page.evaluate("document.cookie") == ""
