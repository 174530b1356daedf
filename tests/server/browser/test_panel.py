"""The panel of a result and the column of filters: beside the results, or over them on a small screen; in Chromium."""

from contextlib import closing
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from llm2clip_search.indexers import index_folder
from tests.server.browser.conftest import PHONE, PageOf, Serve
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.photos import photos, rows_of

FOCUS_IN = "(each) => each.contains(document.activeElement)"


@pytest.fixture
def phone(address: str, page_of: PageOf) -> Page:
    return page_of(address, **PHONE)


def test_the_panel_of_a_phone_keeps_the_focus_and_gives_it_back(phone: Page) -> None:
    phone.emulate_media(color_scheme="light", reduced_motion="reduce")
    phone.goto("/?q=boat")
    phone.locator('[data-at="3"]').tap()
    panel = phone.get_by_role("dialog", name="Details")
    expect(panel).to_have_attribute("aria-modal", "true")
    expect(panel.get_by_label("Close")).to_be_focused()
    controls = panel.locator("button:not([disabled]), a[href], input").count()
    for key in ("Tab", "Shift+Tab"):
        for _ in range(controls + 3):
            phone.keyboard.press(key)
            is_in = panel.evaluate(FOCUS_IN)
            assert is_in or phone.evaluate("document.activeElement === document.body")  # the browser's own bar
    assert phone.locator("#caption").evaluate("(each) => { each.focus(); return document.activeElement !== each }")
    found = Axe().run(phone)
    assert found.violations_count == 0, found.generate_report()
    phone.emulate_media(color_scheme="dark", reduced_motion="reduce")
    found = Axe().run(phone)
    assert found.violations_count == 0, found.generate_report()
    phone.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(phone.locator('[data-at="3"]')).to_be_focused()
    assert "id" not in parse_qs(urlsplit(phone.url).query)


def test_the_panel_of_a_phone_makes_way_for_the_results_of_its_search(phone: Page) -> None:
    phone.goto("/?id=7")
    panel = phone.get_by_role("dialog", name="Details")
    panel.get_by_role("button", name="More like this").tap()
    expect(panel).to_be_hidden()
    expect(phone.locator(".count")).to_have_text("20 results, best first")
    assert parse_qs(urlsplit(phone.url).query) == {"t": ["like:7^1"]}


def test_the_filters_of_a_phone_are_a_dialog(phone: Page) -> None:
    phone.goto("/")
    button = phone.get_by_role("button", name="Filters and saved searches")
    button.tap()
    column = phone.get_by_role("dialog", name="Filters and saved searches")
    expect(column).to_have_attribute("aria-modal", "true")
    expect(column.locator(".facets summary").first).to_be_visible()
    assert column.evaluate(FOCUS_IN)
    found = Axe().run(phone)
    assert found.violations_count == 0, found.generate_report()
    phone.keyboard.press("Escape")
    expect(column).to_be_hidden()
    expect(button).to_be_focused()


def test_a_panel_follows_the_size_of_the_window(page: Page) -> None:
    page.goto("/?id=7")
    panel = page.get_by_role("dialog", name="Details")
    expect(panel.get_by_label("Close")).to_be_visible()
    assert panel.get_attribute("aria-modal") is None
    page.get_by_label("What are you looking for?").focus()  # the results can still be used
    expect(page.get_by_label("What are you looking for?")).to_be_focused()
    page.set_viewport_size({"width": 390, "height": 844})
    expect(panel).to_have_attribute("aria-modal", "true")
    page.set_viewport_size({"width": 1280, "height": 800})
    expect(panel).not_to_have_attribute("aria-modal", "true")
    expect(page.locator(".tile img").first).to_be_visible()


def test_how_many_conditions_hold_is_shown_beside_closed_filters(phone: Page) -> None:
    phone.goto('/?c=[{"column":"width","op":">","value":70}]&w=height > 1')
    expect(phone.get_by_role("button", name="Filters and saved searches, 2 in use")).to_have_text("☰ 2")


def test_half_a_place_is_none(
    tmp_path_factory: pytest.TempPathFactory, serve: Serve, page_of: PageOf, faults: list[str]
) -> None:
    faults.append("410")  # there are no files
    folder = tmp_path_factory.mktemp("half") / "i"
    places = ((51.0, None), (None, 4.0), (float("nan"), 4.0), (51.0, 4.0))
    rows = rows_of(len(places))
    photos(folder, [replace(row, latitude=a, longitude=b) for row, (a, b) in zip(rows, places, strict=True)])
    with serve(folder) as address, closing(page_of(address)) as page:
        panel = page.get_by_role("dialog", name="Details")
        for number in range(len(places)):
            page.goto(f"/?id={number}")
            expect(panel.get_by_role("row", name="Dimensions")).to_be_visible()
            expect(panel.get_by_role("row", name="Place")).to_have_count(int(number == 3))


def test_the_next_result_is_loaded_on(tmp_path_factory: pytest.TempPathFactory, serve: Serve, page_of: PageOf) -> None:
    folder = tmp_path_factory.mktemp("seventy")
    for number in range(70):
        photograph(number, size=(16, 12)).save(folder / f"{number:02d}.png")
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    with (
        serve(folder / ".llm2clip") as address,
        closing(page_of(address, viewport={"width": 1280, "height": 500})) as page,
    ):
        page.goto("/?sort=id&id=59")  # the last one of the first page
        panel = page.get_by_role("dialog", name="Details")
        following = panel.get_by_role("button", name="Next")
        following.click()
        expect(panel.get_by_role("heading", name="60.png")).to_be_visible()
        expect(page.locator('[data-at="60"]')).to_be_in_viewport()
        expect(following).to_be_focused()
        page.goto("/?sort=id&id=69")
        expect(page.locator(".tile img").first).to_be_visible()
        expect(following).to_be_disabled()  # it is not known yet where it is
        page.locator(".scroller").evaluate("(each) => { each.scrollTop = each.scrollHeight }")
        expect(panel.get_by_role("button", name="Previous")).to_be_enabled()
        expect(following).to_be_disabled()
