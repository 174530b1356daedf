"""Texts as results, in Chromium."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from llm2clip_search.corpora import SourceOptions
from llm2clip_search.corpora.registry import open_corpora
from llm2clip_search.indexers import index_corpus, index_folder
from tests.server.browser.conftest import PHONE, PageOf, Serve
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph

NOTES = {
    "dog.md": "# A walk\n\nA wet dog shakes itself beside the lake.",
    "boats.txt": "Zwei rote Boote liegen am Steg. 犬が走る。",
    "markup.txt": "<img src=x onerror=alert(1)><b>no markup</b> is read as such",
    "copy.txt": "A wet dog shakes itself beside the lake, again.",
}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of four texts."""
    folder = tmp_path_factory.mktemp("notes")
    for name, text in NOTES.items():
        (folder / name).write_text(text)
    [corpus] = open_corpora([folder], SourceOptions(modality="text"))
    index_corpus(corpus, encoder=ColourEncoder(), index=folder / ".llm2clip")
    return folder / ".llm2clip"


@pytest.fixture(scope="module")
def texts(notes: Path, serve: Serve) -> Iterator[str]:
    with serve(notes) as address:
        yield address


@pytest.fixture(scope="module")
def both(notes: Path, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an index of these texts and five images."""
    folder = tmp_path_factory.mktemp("both")
    shutil.copytree(notes, folder / ".llm2clip")
    for number in range(5):
        photograph(number, size=(80, 48)).save(folder / f"{number}.png")
    index_folder(folder, encoder=ColourEncoder(), index=folder / ".llm2clip")
    with serve(folder / ".llm2clip") as address:
        yield address


def tile(page: Page, text: str) -> Locator:
    return page.locator(".tile", has_text=text)


@pytest.mark.parametrize("options", [{}, PHONE])
def test_texts_are_shown_and_opened(texts: str, page_of: PageOf, options: dict[str, object]) -> None:
    page = page_of(texts, **options)
    page.goto("/?q=a dog")
    expect(page.locator(".count")).to_have_text("4 results, best first")
    expect(page.locator(".tile img")).to_have_count(0)
    expect(tile(page, NOTES["markup.txt"])).to_have_count(1)  # as text
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    tile(page, "Zwei rote Boote").click()
    panel = page.get_by_role("dialog", name="Details")
    expect(panel.locator("blockquote")).to_have_text(NOTES["boats.txt"])
    expect(panel.get_by_role("row", name=f"File size {len(NOTES['boats.txt'].encode())} bytes")).to_be_visible()
    expect(panel.get_by_role("button", name="Search a part")).to_have_count(0)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_first_visit_names_no_picture_that_cannot_be_there(texts: str, page_of: PageOf) -> None:
    page = page_of(texts)
    page.goto("/")
    expect(page.locator(".hints")).to_contain_text("Describe what you are looking for")
    expect(page.locator(".hints button")).to_have_count(0)
    expect(page.get_by_label("Find")).to_have_count(0)


def test_a_text_as_query_is_shown_by_its_beginning(texts: str, page_of: PageOf) -> None:
    page = page_of(texts)
    page.goto("/")
    tile(page, "Zwei rote Boote").click()
    page.get_by_role("button", name="More like this").click()
    expect(page.locator(".terms li")).to_contain_text("“Zwei rote Boote liegen")
    expect(page.locator('[data-at="0"]')).to_contain_text("Zwei rote Boote")
    page.reload()
    expect(page.locator(".terms li")).to_contain_text("“Zwei rote Boote liegen")


def test_texts_that_are_near_duplicates_are_named(texts: str, page_of: PageOf) -> None:
    page = page_of(texts)
    page.goto("/?q=a dog&dup=0.000001")
    page.locator(".tile", has=page.locator(".same")).first.click()
    other = page.locator(".same-rows button").first
    expect(other).to_contain_text("#char=0,")
    expect(page.locator(".same-rows img")).to_have_count(0)


def test_texts_are_selected_and_exported(texts: str, page_of: PageOf) -> None:
    page = page_of(texts)
    page.goto("/?q=a dog")
    tile(page, "Zwei rote Boote").click(modifiers=["Control"])
    with page.expect_download() as begun:
        page.get_by_role("group", name="Selection").get_by_role("button", name="CSV").click()
    assert NOTES["boats.txt"] in begun.value.path().read_text()


def test_the_map_of_texts_shows_their_words(texts: str, page_of: PageOf, faults: list[str]) -> None:
    faults += ["GL Driver Message", "WebGL"]
    page = page_of(texts)
    page.goto("/?view=map")
    expect(page.locator("canvas.map-points")).to_be_visible(timeout=150_000)
    page.get_by_text("Groups on the map").click()
    expect(page.locator(".map-groups")).to_contain_text("texts")
    expect(page.locator(".map-groups button small").first).not_to_have_text("…")
    expect(page.locator(".map-groups img")).to_have_count(0)


def test_images_or_texts_are_chosen_where_there_are_both(both: str, page_of: PageOf) -> None:
    page = page_of(both)
    page.goto("/?q=a dog")
    find = page.get_by_label("Find")
    expect(find).to_have_value("images")
    expect(page.locator(".count")).to_have_text("5 results, best first")
    find.select_option("texts")
    expect(page.locator(".count")).to_have_text("4 results, best first")
    assert parse_qs(urlsplit(page.url).query)["find"] == ["texts"]
    page.reload()
    expect(find).to_have_value("texts")
    tile(page, "Zwei rote Boote").click()
    page.get_by_role("button", name="More like this").click()
    expect(find).to_have_value("images")  # other pictures fit a text
