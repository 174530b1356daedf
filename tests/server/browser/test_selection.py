"""What can be done with selected results, in Chromium."""

import csv
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Download, Locator, Page, expect

from llm2clip_search.indexers import index_folder
from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service
from tests.server.browser.conftest import PHONE, PageOf
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph
from tests.support.server import listening, wait_until


@pytest.fixture
def bar(page: Page) -> Locator:
    """The bar of a page on which four results are selected: places 2 to 5."""
    page.goto("/?sort=id")
    page.locator('[data-at="2"]').click(modifiers=["Control"])
    page.locator('[data-at="5"]').click(modifiers=["Shift"])
    return page.get_by_role("group", name="Selection")


def press(bar: Locator, name: str) -> Download:
    with bar.page.expect_download() as begun:
        bar.get_by_role("button", name=name, exact=True).click()
    return begun.value


def test_results_are_selected_counted_and_cleared(page: Page, bar: Locator) -> None:
    expect(bar.get_by_role("status").first).to_have_text("4 selected")
    expect(page.locator('[aria-selected="true"]')).to_have_count(4)
    page.locator('[data-at="2"]').click(modifiers=["Control"])
    expect(bar.get_by_role("status").first).to_have_text("3 selected")
    bar.get_by_role("button", name="Clear").click()
    expect(bar).to_be_hidden()
    expect(page.locator('[aria-selected="true"]')).to_have_count(0)


def test_results_are_selected_by_keyboard(page: Page) -> None:
    page.goto("/")
    page.locator('[data-at="0"]').focus()
    for key in ("x", "ArrowRight", "ArrowRight", "Shift+X"):
        page.keyboard.press(key)
    bar = page.get_by_role("group", name="Selection")
    expect(bar).to_contain_text("3 selected")
    page.keyboard.press("Escape")
    expect(bar).to_be_hidden()
    expect(page.locator('[data-at="2"]')).to_be_focused()


def test_a_finger_selects_more_after_the_first(address: str, page_of: PageOf) -> None:
    page = page_of(address, **PHONE)
    page.goto("/")
    page.locator('[data-at="1"]').click(modifiers=["Control"])
    bar = page.get_by_role("group", name="Selection")
    expect(bar).to_contain_text("1 selected")
    page.locator('[data-at="0"]').tap()
    expect(bar).to_contain_text("2 selected")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    bar.get_by_role("button", name="Clear").tap()
    page.locator('[data-at="0"]').tap()
    expect(page.get_by_role("dialog", name="Details")).to_be_visible()


def test_selected_results_become_a_table(bar: Locator, tmp_path: Path) -> None:
    press(bar, "CSV").save_as(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["2", "3", "4", "5"]
    assert rows[0]["name"].endswith(".png")


def test_selected_results_become_lines(bar: Locator) -> None:
    lines = press(bar, "NDJSON").path().read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["2", "3", "4", "5"]
    paths = press(bar, "Paths").path().read_text().splitlines()
    assert paths == [json.loads(line)["path"] for line in lines]


def test_originals_of_selected_results_become_an_archive(page: Page, bar: Locator) -> None:
    paths = [Path(line) for line in press(bar, "Paths").path().read_text().splitlines()]
    with zipfile.ZipFile(press(bar, "Zip of originals").path()) as archive:
        assert archive.testzip() is None
        assert sorted(archive.read(name) for name in archive.namelist()) == sorted(path.read_bytes() for path in paths)
    expect(bar).to_be_visible()  # the page is still there


def test_paths_of_selected_results_are_copied(page: Page, bar: Locator) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    paths = press(bar, "Paths").path().read_text()
    bar.get_by_role("button", name="Copy paths").click()
    expect(bar).to_contain_text("4 paths are on the clipboard.")
    assert page.evaluate("navigator.clipboard.readText()") == paths


def test_a_clipboard_that_is_not_allowed_is_said(page: Page, bar: Locator) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as over plain HTTP
    bar.get_by_role("button", name="Copy paths").click()
    expect(bar).to_contain_text("does not allow this page to write to the clipboard")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[str]:
    """The address of two indices, whose rows have the same numbers."""
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        for each in range(3):
            photograph(3 * number + each, size=(80, 48)).save(tmp_path / folder / f"{folder}{each}.png")
        index_folder(tmp_path / folder, encoder=ColourEncoder(), index=tmp_path / folder / ".llm2clip")
    indices = (tmp_path / "a" / ".llm2clip", tmp_path / "b" / ".llm2clip")
    service = Service(ServerConfig(indices=indices), encoder=ColourEncoder())
    with listening(service) as address:
        wait_until(lambda: service.state == "ready")
        yield address


def test_selected_results_of_several_indices_are_those_and_no_others(two: str, page_of: PageOf) -> None:
    page = page_of(two)
    page.goto("/?q=boat")
    page.locator('[data-at="0"]').click(modifiers=["Control"])
    name = page.locator('[data-at="0"] img').get_attribute("alt")
    bar = page.get_by_role("group", name="Selection")
    [path] = press(bar, "Paths").path().read_text().splitlines()
    assert Path(path).name == name
