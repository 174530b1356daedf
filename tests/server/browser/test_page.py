"""The whole page in Chromium, with a server behind a socket."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from llm2clip_search.server.app import STATIC
from tests.support.images import photograph

ICON = STATIC / "icon.svg"
DESKTOP, PHONE = (1280, 800), (390, 844)
WIDE = '[{"column":"width","op":">","value":9000}]'


def show(page: Page, query: str = "") -> None:
    page.goto(f"/{query}")
    expect(page.locator(".tile img").first).to_be_visible()


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def place(page: Page) -> str | None:
    """Which place of the ranking has the focus."""
    found: str | None = page.evaluate("document.activeElement.dataset.at ?? null")
    return found


def test_the_first_visit_shows_the_newest_rows(page: Page) -> None:
    show(page)
    expect(page.locator(".count")).to_have_text("20 results")
    expect(page.locator(".tile")).to_have_count(20)
    assert "/images/19/" in (page.locator('[data-at="0"] img').get_attribute("src") or "")


def test_a_caption_is_searched_by_enter_and_kept_in_the_address(page: Page) -> None:
    show(page)
    page.get_by_label("What are you looking for?").fill("a red boat")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("at night")
    page.keyboard.press("Enter")
    expect(page.locator(".count")).to_have_text("20 results, best first")
    assert query(page) == {"q": ["a red boat\nat night"]}
    first = page.locator('[data-at="0"] img').get_attribute("src")
    page.reload()
    expect(page.locator('[data-at="0"] img')).to_have_attribute("src", first or "")
    expect(page.get_by_label("What are you looking for?")).to_have_value("a red boat\nat night")
    page.go_back()
    expect(page.locator(".count")).to_have_text("20 results")
    expect(page.get_by_label("What are you looking for?")).to_have_value("")


def test_the_keyboard_moves_in_the_grid_and_opens_and_closes_the_panel(page: Page) -> None:
    show(page)
    page.locator('[data-at="0"]').focus()
    across = page.locator(".row").first.locator(".tile").count()
    for key, at in (("ArrowRight", 1), ("ArrowDown", 1 + across), ("End", 19), ("Home", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        assert place(page) == str(at)
    assert page.locator('.tile[tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog", name="Details")
    expect(panel.get_by_role("heading", name="photo-19.png")).to_be_visible()
    expect(panel.get_by_role("row", name="Dimensions 140")).to_be_visible()
    expect(panel.get_by_label("Close")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(panel.get_by_role("heading", name="photo-17.png")).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.locator('[data-at="1"]')).to_be_focused()


def test_more_and_less_like_a_result_become_terms(page: Page) -> None:
    show(page, "?id=7")
    page.get_by_role("button", name="More like this").click()
    expect(page.locator(".count")).to_have_text("20 results, best first")
    assert query(page)["t"] == ["like:7^1"]
    assert "/images/7/" in (page.locator('[data-at="0"] img').get_attribute("src") or "")
    page.get_by_role("button", name="Less like this").click()
    expect(page.locator(".terms li")).to_have_count(2)
    assert query(page)["t"] == ["like:7^1", "like:7^-0.5"]
    page.get_by_role("button", name="Remove picture").last.click()
    expect(page.locator(".terms li")).to_have_count(1)
    page.go_back()
    expect(page.locator(".terms li")).to_have_count(2)


def test_words_are_added_and_taken_away(page: Page) -> None:
    show(page, "?q=boat")
    page.get_by_role("button", name="Add or take away words").click()
    page.keyboard.type("at night")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Weight of at night")).to_have_value("0.5")
    page.get_by_role("button", name="More of at night: make it less").click()
    expect(page.locator(".terms li.less")).to_have_count(1)
    assert query(page) == {"q": ["boat"], "t": ["text:at night^-0.5"]}


def test_a_part_of_a_picture_is_drawn(page: Page) -> None:
    show(page, "?id=7")
    page.get_by_role("button", name="Search a part").click()
    box = page.locator(".stage img").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.75)
    page.mouse.up()
    expect(page.locator(".terms li")).to_have_count(1)
    term = query(page)["t"][0]
    crop = [float(each) for each in term.removeprefix("like:7[").removesuffix("]^1").split(",")]
    assert crop == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=0.03)


def test_phrases_are_shaded_by_what_they_add(page: Page) -> None:
    show(page, "?q=a red boat, at night&id=7")
    page.get_by_role("button", name="Which phrases mattered").click()
    expect(page.locator(".phrases")).to_contain_text("a red boat, at night cosine")
    assert page.locator(".phrases mark").count() == 2


def test_the_part_of_a_caption_that_is_not_read_is_marked(page: Page) -> None:
    words = " ".join(f"word{number}" for number in range(40))
    show(page, f"?q={words}")
    expect(page.locator("#tokens")).to_contain_text("41 tokens, of which 24 are read")
    marked = page.locator(".mirror mark").text_content() or ""
    assert words.endswith(marked)
    assert 0 < len(marked.split()) < 40


def test_a_condition_is_dropped_when_nothing_is_found(page: Page) -> None:
    page.goto(f"/?q=boat&c={WIDE}")
    page.get_by_role("button", name="Without “width above 9000”: 20 results").click()
    expect(page.locator(".tile")).to_have_count(20)
    assert query(page) == {"q": ["boat"]}


def test_no_way_out_is_offered_that_leads_nowhere(page: Page) -> None:
    page.goto('/?q=boat&c=[{"column":"width","op":">","value":9000},{"column":"height","op":">","value":9000}]')
    expect(page.locator(".empty button")).to_have_text(["Without any condition"])
    page.locator(".empty button").click()
    expect(page.locator(".tile")).to_have_count(20)


def test_a_wrong_condition_is_shown_at_its_field(page: Page, faults: list[str]) -> None:
    faults.append("400")
    page.goto("/?w=nonsense = 2")
    field = page.get_by_label("Condition in SQL")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#filter-trouble")).to_contain_text("nonsense")
    expect(page.get_by_text("names a column 'nonsense'")).to_have_count(1)
    field.fill("width > 100")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".count")).to_have_text("10 results")
    assert query(page) == {"c": ['[{"column":"width","op":">","value":100}]']}


def test_a_picture_is_searched_with(page: Page, tmp_path: Path, faults: list[str]) -> None:
    path = tmp_path / "mine.png"
    photograph(4, size=(80, 48)).save(path)
    show(page)
    page.get_by_label("Pictures to search with").set_input_files(path)
    expect(page.locator(".count")).to_have_text("20 results, best first")
    assert "/images/" in (page.locator('[data-at="0"] img').get_attribute("src") or "")
    expect(page.locator(".terms img")).to_have_js_property("complete", True)
    faults.append("422")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.get_by_label("Pictures to search with").set_input_files(tmp_path / "broken.png")
    expect(page.locator("#query [role=alert]")).not_to_be_empty()


def test_a_server_with_a_token_says_where_it_is(page: Page, faults: list[str]) -> None:
    faults.append("401")
    problem = {"type": "/problems/unauthorized", "title": "", "status": 401, "detail": ""}
    page.route(
        "**/api/v1/**",
        lambda route: route.fulfill(status=401, content_type="application/problem+json", json=problem),
    )
    page.goto("/")
    expect(page.locator(".banner")).to_contain_text("token")


def test_an_index_that_changed_is_offered(page: Page) -> None:
    show(page)
    ready = {"state": "ready", "detail": "", "generation": "another", "text": "ready", "vision": "ready"}
    page.route("**/api/v1/ready", lambda route: route.fulfill(json=ready))
    button = page.get_by_role("button", name="Show its new state")
    expect(button).to_be_visible(timeout=9000)
    page.unroute("**/api/v1/ready")
    with page.expect_response("**/api/v1/search"):
        button.click()
    expect(page.locator(".banner")).to_be_hidden()


def test_a_file_that_is_gone_is_named(page: Page, faults: list[str]) -> None:
    faults.append("410")
    page.route("**/images/19/thumbnail**", lambda route: route.fulfill(status=410))
    page.goto("/")
    expect(page.locator('[data-at="0"]')).to_have_text("photo-19.png cannot be shown.")


def test_few_tiles_are_in_the_document_and_any_place_is_reached(page: Page) -> None:
    asked = []

    def answer(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        first = body.get("offset", 0)
        asked.append(first)
        hits = [
            {"id": str(at), "modality": "image", "name": f"{at}", "path": "/x", "hash": "0", "rank": at + 1}
            for at in range(first, first + body["k"])
        ]
        more = {
            "total": 90_000,
            "complete": True,
            "matches": 90_000,
            "generation": "g",
            "find": "images",
            "nothing": None,
        }
        route.fulfill(json={"hits": hits, **more})

    page.route("**/api/v1/search", answer)
    page.route("**/thumbnail**", lambda route: route.fulfill(path=ICON, content_type="image/svg+xml"))
    page.goto("/?top=45001")
    expect(page.locator('[data-at="45000"] img')).to_have_attribute("alt", "45000")
    assert page.locator(".tile").count() < 100
    page.locator('[data-at="45000"]').focus()
    page.keyboard.press("End")
    expect(page.locator('[data-at="89999"] img')).to_have_attribute("alt", "89999")
    expect(page.locator('[data-at="89999"]')).to_be_focused()
    assert page.locator(".tile").count() < 100
    assert len(asked) < 8


def test_a_server_that_cannot_be_reached_is_reported(page: Page, faults: list[str]) -> None:
    show(page)
    faults.append("ERR_")
    page.route("**/api/v1/**", lambda route: route.abort())
    expect(page.locator(".banner")).to_contain_text("cannot be reached", timeout=9000)
    page.unroute("**/api/v1/**")
    expect(page.locator(".banner")).to_be_hidden(timeout=9000)


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_bars_anybody(page: Page, look: str, size: tuple[int, int]) -> None:
    page.emulate_media(color_scheme=look, reduced_motion="reduce")  # type: ignore[arg-type]
    page.set_viewport_size({"width": size[0], "height": size[1]})
    show(page, "?q=boat&t=like:7^-0.5")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.goto("/?q=boat&id=7")
    expect(page.get_by_role("heading", name="photo-")).to_be_visible()
    if size == DESKTOP:
        page.get_by_role("button", name="Filters and saved searches").click()
        expect(page.locator(".facets summary").first).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
