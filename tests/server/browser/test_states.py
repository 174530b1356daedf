"""What the page does when there is more, less or something else than results, in Chromium."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, Route, expect

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.corpora.joined import JoinedCorpus
from llm2clip_search.indexers import index_corpus, index_folder
from llm2clip_search.store import Row, Writer
from tests.server.browser.conftest import PHONE, PageOf, Serve
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph

MANY = 100_000
MOST_TILES = 100
SEARCH = "**/api/v1/search"
SHIFTS = """window.moved = 0;
new PerformanceObserver((list) => list.getEntries().forEach((each) => { moved += each.value; }))
    .observe({ type: 'layout-shift', buffered: true })"""
"""Adds up how far what is seen moved, as the Cumulative Layout Shift does but for moves after an input as well."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> Iterator[str]:
    """The address of an index of 100,000 rows, none of which has a file."""
    folder = tmp_path_factory.mktemp("many") / ".llm2clip"
    encoder = ColourEncoder()
    drawn = np.random.default_rng(7).normal(size=(MANY, encoder.dim)).astype(np.float32)
    rows = [
        Row(id=at, path=f"{at:06d}.jpg", content_hash=f"{at:016x}", size=1, mtime_ns=2, width=3 + at % 5, height=4)
        for at in range(MANY)
    ]
    with Writer.open(folder, model=ModelIdentity(**encoder.identity.__dict__), dim=encoder.dim) as writer:
        writer.commit(rows, drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    with serve(folder) as address:
        yield address


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of three images with their index in it, which a test may change."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        photograph(number, size=(80, 48)).save(folder / f"{number}.png")
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    return folder


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (2560, 1440)])
def test_a_hundred_thousand_results_take_few_tiles(
    many: str, page_of: PageOf, faults: list[str], width: int, height: int
) -> None:
    faults.append("410")
    page = page_of(many)
    page.set_viewport_size({"width": width, "height": height})
    page.goto("/?q=boat")
    expect(page.locator(".count")).to_have_text("100,000 results, best first")
    page.locator('[data-at="0"]').focus()
    tall = page.locator(".sheet").evaluate("sheet => sheet.getBoundingClientRect().height")
    for key, at in (("End", MANY - 1), ("Home", 0), ("PageDown", None), ("End", MANY - 1)):
        page.keyboard.press(key)
        if at is not None:
            expect(page.locator(f'[data-at="{at}"]')).to_be_focused()
            expect(page.locator(f'[data-at="{at}"]')).to_be_in_viewport()
            expect(page.locator(f'[data-at="{at}"]')).not_to_have_attribute("aria-label", "being loaded")
        assert 0 < page.locator(".tile").count() < MOST_TILES
    assert page.locator(".sheet").evaluate("sheet => sheet.getBoundingClientRect().height") == tall


def test_scrolling_moves_nothing_that_is_seen_and_is_kept_in_the_address(
    many: str, page_of: PageOf, faults: list[str]
) -> None:
    faults.append("410")
    page = page_of(many)
    page.add_init_script(SHIFTS)
    page.goto("/?sort=id")
    expect(page.locator(".count")).to_have_text("100,000 results")
    before = page.evaluate("moved")
    for share in (0.3, 0.31, 0.9):
        page.locator(".scroller").evaluate("(each, share) => { each.scrollTop = share * each.scrollHeight }", share)
        expect(page.locator(".tile .name").first).to_be_attached()
        expect(page.locator(".tile[aria-label$=loaded]")).to_have_count(0)
        assert page.locator(".tile").count() < MOST_TILES
    assert page.evaluate("moved") - before < 0.01
    page.wait_for_url(re.compile(r"top=(8|9)\d{4}$"))
    top = parse_qs(urlsplit(page.url).query)["top"][0]
    page.reload()
    expect(page.locator(f'[data-at="{int(top) - 1}"]')).to_be_in_viewport()


def test_a_part_is_given_by_keyboard(page: Page) -> None:
    page.goto("/?id=7")
    page.get_by_role("button", name="Search a part").press("Enter")
    sides = ("10", "20", "30", "20")
    for side, value in zip(("Left", "Top", "Right", "Bottom"), sides, strict=True):
        page.get_by_label(f"{side} of the part in per cent").fill(value)
    page.get_by_role("button", name="Search this part").press("Enter")
    expect(page.get_by_role("alert").filter(has_text="Choose a larger part")).to_be_visible()
    page.get_by_label("Bottom of the part in per cent").fill("60")
    page.keyboard.press("Enter")
    expect(page.locator(".terms li")).to_have_count(1)
    assert "like:7[0.1,0.2,0.3,0.6]^1" in parse_qs(urlsplit(page.url).query)["t"]


def test_the_plan_of_a_search_is_explained(page: Page) -> None:
    page.goto("/?q=boat")
    page.get_by_role("button", name="Filters and saved searches").click()
    expect(page.locator(".facets summary").first).to_be_visible()
    page.locator("summary", has_text="How this was searched").click()
    expect(page.get_by_role("row", name="Model colours:16")).to_be_visible()
    expect(page.get_by_role("row", name="Plan exact on cpu")).to_be_visible()


def test_near_duplicates_are_listed_and_opened(page: Page) -> None:
    page.goto("/?t=like:7^1&dup=0.1")
    expect(page.locator(".same").first).to_be_visible()
    count = int((page.locator(".same").first.text_content() or "").removeprefix("+").removesuffix(" similar"))
    page.locator(".tile", has=page.locator(".same")).first.click()
    others = page.locator(".same-rows button")
    expect(others).to_have_count(count)
    wanted = (others.first.locator("img").get_attribute("src") or "").split("/")[4]
    others.first.press("Enter")
    page.wait_for_url(f"**id={wanted}")
    assert parse_qs(urlsplit(page.url).query)["id"][0] == wanted


def test_examples_are_searched_from_the_first_visit(page: Page) -> None:
    page.goto("/")
    page.locator(".hints button").first.click()
    expect(page.locator(".count")).to_have_text("20 results, best first")
    expect(page.locator(".hints")).to_be_hidden()


@pytest.mark.parametrize(("lead", "is_weak"), [(0.1, True), (0.5, False)])
def test_weak_matches_are_called_weak(
    many: str, page_of: PageOf, faults: list[str], lead: float, *, is_weak: bool
) -> None:
    """Captions that describe nothing visible lead the rest by 0.2 here, and the one in question by ``lead``."""
    faults.append("410")
    page = page_of(many)

    def scored(route: Route) -> None:
        asked = json.loads(route.request.post_data or "{}")
        answer = route.fetch().json()
        ahead = lead if asked["terms"][0]["text"] == "boat" else 0.2
        for hit in answer["hits"]:
            hit["score"] = 0.3 if asked.get("offset") else 0.3 + ahead
        route.fulfill(json=answer)

    page.route(SEARCH, scored)
    page.add_init_script(SHIFTS)
    with page.expect_response(lambda response: "subscription" in (response.request.post_data or "") and response.ok):
        page.goto("/?q=boat")
    expect(page.locator(".count")).to_have_text("100,000 results, best first")
    if is_weak:
        expect(page.locator("#dock")).to_contain_text("matches are weak")
        page.get_by_role("button", name="Close the note").click()
    else:
        page.wait_for_load_state("networkidle")
    expect(page.locator("#dock")).to_have_text("")
    assert page.evaluate("moved") < 0.001


@pytest.mark.parametrize("options", [{}, PHONE])
def test_nothing_moves_when_the_page_opens(page_of: PageOf, address: str, options: dict[str, Any]) -> None:
    page = page_of(address, **options)
    page.add_init_script(SHIFTS)
    for place in ("/", "/?q=boat"):
        page.goto(place)
        expect(page.locator(".tile img").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("moved") < 0.001


def test_messages_of_the_server_move_nothing(page: Page, faults: list[str]) -> None:
    faults.append("ERR_")
    page.add_init_script(SHIFTS)
    page.goto("/?q=boat")
    expect(page.locator(".tile img").first).to_be_visible()
    page.route("**/api/v1/ready", lambda route: route.abort())
    expect(page.locator(".banner")).to_contain_text("cannot be reached", timeout=9000)
    page.unroute("**/api/v1/ready")
    expect(page.locator(".banner")).to_be_hidden(timeout=9000)
    assert page.evaluate("moved") < 0.001


def test_a_picture_that_the_server_was_too_busy_for_is_asked_for_again(page: Page, faults: list[str]) -> None:
    faults.append("429")
    refused: dict[str, int] = {}

    def refuse_twice(route: Route) -> None:
        refused[route.request.url] = refused.get(route.request.url, 0) + 1
        if refused[route.request.url] > 2:
            return route.fallback()
        return route.fulfill(status=429, headers={"Retry-After": "1"})

    page.route("**/images/19/thumbnail**", refuse_twice)
    page.goto("/")
    image = page.locator('[data-at="0"] img')
    expect(image).not_to_have_js_property("naturalWidth", 0, timeout=15_000)
    expect(page.locator(".tile.broken")).to_have_count(0)
    assert max(refused.values()) > 2


def test_a_busy_server_is_asked_again(page: Page, faults: list[str]) -> None:
    faults.append("429")
    refused: list[Route] = []

    def refuse_once(route: Route) -> None:
        if refused:
            return route.fallback()
        refused.append(route)
        problem = {"type": "/problems/busy", "title": "Busy", "status": 429, "detail": "Too many."}
        return route.fulfill(status=429, json=problem, headers={"Retry-After": "1"})

    page.route(SEARCH, refuse_once)
    page.goto("/?q=boat")
    expect(page.locator(".count")).to_have_text("20 results, best first")
    assert len(refused) == 1


def test_a_changed_index_is_offered_and_shown(own: Path, serve: Serve, page_of: PageOf) -> None:
    with serve(own / ".llm2clip") as address, closing(page_of(address)) as page:
        page.goto("/")
        expect(page.locator(".count")).to_have_text("3 results")
        photograph(9, size=(80, 48)).save(own / "9.png")
        index_folder(own, encoder=ColourEncoder(), index=own / ".llm2clip")
        expect(page.locator(".banner")).to_contain_text("The index has changed", timeout=15_000)
        expect(page.locator(".count")).to_have_text("3 results")
        page.get_by_role("button", name="Show its new state").click()
        expect(page.locator(".count")).to_have_text("4 results")
        expect(page.locator(".banner")).to_be_hidden()


def test_an_index_that_is_not_there_yet_is_shown_as_soon_as_it_is(
    tmp_path: Path, own: Path, serve: Serve, page_of: PageOf, faults: list[str]
) -> None:
    faults.append("503")
    with serve(tmp_path / "later", state="no-index") as address, closing(page_of(address)) as page:
        page.goto("/")
        expect(page.locator(".banner")).to_contain_text("There is no index here yet")
        index_folder(own, encoder=ColourEncoder(), index=tmp_path / "later")
        expect(page.locator(".count")).to_have_text("3 results", timeout=15_000)


def test_files_and_drives_that_are_gone_are_named(own: Path, serve: Serve, page_of: PageOf, faults: list[str]) -> None:
    faults += ["410", "404"]
    photograph(77, size=(80, 48)).save(own / "seen-nowhere-else.png")
    index_folder(own, encoder=ColourEncoder(), index=own / ".llm2clip")
    (own / "seen-nowhere-else.png").unlink()
    with serve(own / ".llm2clip") as address, closing(page_of(address)) as page:
        page.goto("/?id=3")
        expect(page.get_by_text("The file is not there any more.")).to_be_visible()
        expect(page.get_by_role("link", name="Download")).to_be_hidden()
        expect(page.locator(".tile.broken")).to_have_count(1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_are_shown_with_escapes(own: Path, serve: Serve, page_of: PageOf) -> None:
    """A mark that reverses what follows it, a tag that nobody sees, and the start of a terminal's commands."""
    odd = "a\u202egnp\U000e0001\x1b\n.png"
    photograph(80, size=(80, 48)).save(own / odd)
    pq.write_table(pa.table({"image": [odd], "k\u202ey": ["v\u202ee"]}), own.parent / "meta.parquet")
    corpus = JoinedCorpus(FolderCorpus(own), str(own.parent / "meta.parquet"))
    index_corpus(corpus, encoder=ColourEncoder(), index=own / ".llm2clip")
    shown = "a\\u202egnp\\U000e0001\\x1b\\x0a.png"
    with serve(own / ".llm2clip") as address, closing(page_of(address)) as page:
        page.goto("/?id=3")
        expect(page.get_by_role("heading", name=shown)).to_be_visible()
        expect(page.locator(".tile").get_by_alt_text(shown, exact=True)).to_have_count(1)
        expect(page.locator(".tile .name", has_text="\\u202e")).to_have_count(1)
        expect(page.get_by_role("row", name="k\\u202ey v\\u202ee")).to_be_visible()
        texts = page.evaluate("document.body.innerText")
        assert not {"\u202e", "\U000e0001", "\x1b"} & set(texts)


def test_a_drive_that_is_not_mounted_is_named(
    own: Path, tmp_path: Path, serve: Serve, page_of: PageOf, faults: list[str]
) -> None:
    faults.append("410")
    index_folder(own, encoder=ColourEncoder(), index=tmp_path / ".llm2clip")
    shutil.rmtree(own)
    with serve(tmp_path / ".llm2clip") as address, closing(page_of(address)) as page:
        page.goto("/?id=0")
        expect(page.locator("#results > .note")).to_contain_text(f"{own} cannot be found")
        expect(page.locator("#panel .note").first).to_contain_text("is its drive connected?")
