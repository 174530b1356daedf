"""Pictures that are chosen, pasted and dropped, in Chromium."""

import base64
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.images import photograph, png

PASTE = """async ([data, text]) => {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  const item = { 'image/png': new Blob([bytes], { type: 'image/png' }) };
  if (text) item['text/plain'] = new Blob([text], { type: 'text/plain' });
  await navigator.clipboard.write([new ClipboardItem(item)]);
}"""


def uploads(page: Page) -> list[str]:
    """The terms of the address that are uploads."""
    return [term for term in parse_qs(urlsplit(page.url).query).get("t", []) if term.startswith("upload:")]


def drop(page: Page, *paths: Path) -> None:
    """Drop files and folders of the disk on the results, as a file manager does."""
    session = page.context.new_cdp_session(page)
    data: dict[str, Any] = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}

    def send(kind: str) -> None:
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})

    send("dragEnter")
    send("dragOver")
    expect(page.locator("body")).to_have_class("dropping")
    send("dragOver")
    send("drop")
    expect(page.locator("body")).not_to_have_class("dropping")


@pytest.fixture
def opened(page: Page) -> Page:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/")
    expect(page.locator(".tile img").first).to_be_visible()
    return page


@pytest.fixture
def trouble(opened: Page) -> Locator:
    return opened.locator("#query [role=alert]")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        photograph(number, size=(80, 48)).save(path)
    return paths


def test_a_picture_is_pasted_and_found(opened: Page, trouble: Locator) -> None:
    opened.evaluate(PASTE, [base64.b64encode(png(4)).decode(), ""])
    opened.keyboard.press("Control+V")  # the caption has the focus
    expect(opened.locator(".terms img")).to_have_count(1)
    expect(opened.locator(".count")).to_have_text("20 results, best first")
    assert "photo-04" in (opened.locator('[data-at="0"] img').get_attribute("alt") or "")
    expect(trouble).to_be_empty()


def test_a_text_with_a_picture_of_itself_is_pasted_as_text(opened: Page) -> None:
    opened.evaluate(PASTE, [base64.b64encode(png(4)).decode(), "a red boat"])
    opened.keyboard.press("Control+V")
    expect(opened.get_by_label("What are you looking for?")).to_have_value("a red boat")
    expect(opened.locator(".terms")).to_be_hidden()
    opened.locator('[data-at="0"]').focus()
    opened.keyboard.press("Control+V")  # here a text means nothing
    expect(opened.locator(".terms img")).to_have_count(1)


def test_pictures_are_dropped(opened: Page, pictures: list[Path], trouble: Locator) -> None:
    drop(opened, pictures[3])
    expect(opened.locator(".terms img")).to_have_count(1)
    expect(opened.locator('[data-at="0"] img')).to_have_attribute("alt", "photo-03.png")
    first = uploads(opened)
    drop(opened, *pictures[5:8])
    expect(opened.locator(".terms img")).to_have_count(3)
    expect(opened.locator(".count")).to_have_text("20 results, best first")
    assert not set(first) & set(uploads(opened))  # a new query by pictures, not a mixture with the old one
    expect(trouble).to_be_empty()


def test_too_many_pictures_are_counted(opened: Page, pictures: list[Path], trouble: Locator) -> None:
    drop(opened, *pictures)
    expect(opened.locator(".terms img")).to_have_count(8)
    expect(trouble).to_have_text("Only the first 8 of 10 files are used.")


def test_what_is_no_picture_is_named_and_the_rest_is_used(
    opened: Page, pictures: list[Path], trouble: Locator, tmp_path: Path, faults: list[str]
) -> None:
    faults.append("422")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    drop(opened, tmp_path / "broken.png", pictures[3], tmp_path / "notes.txt")
    expect(opened.locator(".terms img")).to_have_count(1)
    expect(opened.locator('[data-at="0"] img')).to_have_attribute("alt", "photo-03.png")
    expect(trouble).to_contain_text("broken.png: ")
    expect(trouble).to_contain_text("notes.txt: ")


def test_a_folder_is_refused(opened: Page, pictures: list[Path], trouble: Locator, tmp_path: Path) -> None:
    drop(opened, tmp_path)
    expect(trouble).to_have_text("A folder cannot be used: choose pictures in it.")
    expect(opened.locator(".terms")).to_be_hidden()
    drop(opened, pictures[3], tmp_path)
    expect(opened.locator(".terms img")).to_have_count(1)
    expect(trouble).to_have_text("A folder cannot be used: choose pictures in it.")


def test_pictures_are_chosen(opened: Page, pictures: list[Path], trouble: Locator, faults: list[str]) -> None:
    opened.get_by_label("Pictures to search with").set_input_files(pictures[:2])
    expect(opened.locator(".terms img")).to_have_count(2)
    faults.append("413")
    opened.route("**/uploads", lambda route: route.fulfill(status=413, json={"detail": "It is too large."}))
    opened.get_by_label("Pictures to search with").set_input_files(pictures[2])
    expect(trouble).to_have_text("2.png: It is too large.")
    expect(opened.locator(".terms img")).to_have_count(2)
