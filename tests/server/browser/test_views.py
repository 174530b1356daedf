"""The views beside the grid, each mounted on a small stand-in for the page: filters, counts, maps, names and files."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from llm2clip_search.server.config import ServerConfig
from llm2clip_search.server.service import Service
from tests.support.encoders import ColourEncoder
from tests.support.photos import photos, rows_of
from tests.support.server import listening, wait_until

CHROMIUM = shutil.which("chromium")
ROWS = rows_of(200, seed=4)
SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
APP = """async ([file, given]) => {
  const { mount } = await import(`/static/${file}`);
  const ask = async (method, path, body) => {
    const headers = body ? { 'Content-Type': 'application/json' } : {};
    const answer = await fetch(`/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
    const value = answer.status === 204 ? null : await answer.json();
    if (!answer.ok) throw value;
    return value;
  };
  const app = window.app = Object.assign(new EventTarget(), {
    state: {}, indices: 1, index: { hides_location: false, holds: ['images'] }, total: 0, opened: [], gone: [],
    get: (path) => ask('GET', path), post: (path, body) => ask('POST', path, body),
    put: (path, body) => ask('PUT', path, body), delete: (path) => ask('DELETE', path),
    url: (path) => `/api/v1${path}`, thumbnail: ({ id }) => `/static/icon.svg?${id}`,
    hits: () => app.found ?? [], open: (id) => app.opened.push(id), query: () => 'q=a+wet+dog',
    go: (query) => app.gone.push(query), search: () => app.filter(),
    filter: () => Object.fromEntries(Object.entries(app.state).filter(([, value]) => value)),
    update(changes) { Object.assign(app.state, changes); app.dispatchEvent(new Event('state')); },
    addConditions: (...more) => app.update({ conditions: [...(app.state.conditions ?? []), ...more] }),
  });
  app.columns = (await app.get('/index')).columns;
  Object.assign(app, given);
  const style = new CSSStyleSheet();
  style.replaceSync(`.map-box, .places-map { position: relative; width: 600px; height: 400px }
    .map-box canvas { position: absolute; inset: 0; width: 100%; height: 100% } .map-over { pointer-events: none }
    .histogram { width: 300px; height: 60px }`);
  document.adoptedStyleSheets = [style];
  document.body.innerHTML = '<main></main>';
  window.unmount = mount(document.querySelector('main'), app);
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
Mount = Callable[..., Page]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("views") / "i"
    photos(folder, ROWS)
    service = Service(ServerConfig(indices=(folder,)), encoder=ColourEncoder())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder.parent / "data"))
        patch.setenv("LLM2CLIP_CACHE", str(folder.parent / "cache"))
        with listening(service) as address:
            wait_until(lambda: service.state == "ready")
            yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        yield browser
        browser.close()


@pytest.fixture
def mount(address: str, browser: Browser) -> Iterator[Mount]:
    """Shows one module; anything that it throws fails the test."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))

    def shown(file: str, **given: Any) -> Page:
        page.goto(f"{address}/static/element.js")  # a document in which the page itself does not run
        page.evaluate(APP, [file, given])
        return page

    yield shown
    page.close()
    assert thrown == []


def state(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("app.state")
    return found


def test_a_condition_is_built_shown_as_sql_and_removed_by_keyboard(mount: Mount) -> None:
    page = mount("filters.js")
    page.get_by_label("Column").select_option("camera")
    field = page.get_by_placeholder("text")
    field.focus()
    page.keyboard.type("<i>fuji")
    page.keyboard.press("Enter")
    expect(page.get_by_text("camera contains <i>fuji")).to_be_visible()
    assert state(page)["conditions"] == [{"column": "camera", "op": "contains", "value": "<i>fuji"}]
    page.get_by_text("As SQL").click()
    expect(page.get_by_label("Condition in SQL")).to_have_value("camera ILIKE '%<i>fuji%'")
    page.get_by_label("Remove camera contains <i>fuji").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("listitem")).to_have_count(0)
    assert state(page)["conditions"] == []


def test_sql_becomes_a_form_where_one_can_show_it(mount: Mount) -> None:
    page = mount("filters.js")
    page.get_by_text("As SQL").click()
    sql = page.get_by_label("Condition in SQL")
    sql.fill("width > 1000 AND taken = '2020-11'")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("listitem")).to_have_count(2)
    sql.fill("width > 2 * height")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("listitem")).to_have_count(1)
    assert state(page)["where"] == "width > 2 * height"
    assert state(page)["conditions"] == []
    sql.fill("no_such = 1")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("alert")).to_contain_text("no_such")
    expect(sql).to_have_attribute("aria-invalid", "true")
    assert state(page)["where"] == "width > 2 * height"


def test_sql_and_conditions_stay_beside_each_other(mount: Mount) -> None:
    page = mount("filters.js")
    page.get_by_text("As SQL").click()
    sql, apply = page.get_by_label("Condition in SQL"), page.get_by_role("button", name="Apply")
    sql.fill("width > height OR size < 9000")
    apply.click()
    page.get_by_label("Column").select_option("width")
    page.get_by_label("Comparison").select_option(">=")
    page.get_by_placeholder("value").fill("10")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("listitem")).to_have_count(2)
    added = {"column": "width", "op": ">=", "value": 10}
    assert state(page) == {"where": "width > height OR size < 9000", "conditions": [added]}
    expect(sql).to_have_value("width > height OR size < 9000")
    sql.fill("height > width")
    apply.click()
    expect(page.get_by_label("Remove height > width")).to_be_visible()
    assert state(page) == {"where": "height > width", "conditions": [added]}
    sql.fill("height < 5000")  # a form can show it
    apply.click()
    expect(sql).to_have_value("width >= 10 AND height < 5000")
    assert state(page) == {"where": "", "conditions": [added, {"column": "height", "op": "<", "value": 5000}]}
    sql.fill("")  # the box held both
    apply.click()
    expect(page.get_by_role("listitem")).to_have_count(0)
    assert state(page) == {"where": "", "conditions": []}


def test_values_and_ranges_become_conditions(mount: Mount) -> None:
    page = mount("facets.js")
    page.get_by_role("button", name="Fuji").click()
    assert state(page)["conditions"] == [{"column": "camera", "op": "=", "value": "Fuji X-T5"}]
    expect(page.get_by_role("button", name="Nikon")).to_have_count(0)
    page.evaluate("app.update({ conditions: [] })")
    expect(page.get_by_role("button", name="Nikon")).to_be_visible()
    chart = page.locator("details", has=page.get_by_label("taken from")).locator("svg")
    expect(chart.locator("rect")).not_to_have_count(0)
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    bars = chart.locator("rect").count()
    page.mouse.move(box["x"] + box["width"] * 1.5 / bars, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 2.5 / bars, box["y"] + 30, steps=3)
    page.mouse.up()
    low, high = state(page)["conditions"]
    answer = page.evaluate("app.post('/facets', { columns: ['taken'] })")
    bins = answer["facets"][0]["bins"]
    assert (low["value"], high["value"]) == (bins[1]["from"], bins[2]["from"])
    matches = page.evaluate("app.post('/conditions', app.filter())")["matches"]
    assert matches == bins[1]["count"] + bins[2]["count"]


def test_a_range_is_chosen_by_keyboard(mount: Mount) -> None:
    page = mount("facets.js")
    page.get_by_label("taken from").fill("2020-02")
    page.get_by_label("taken to").fill("2020-03")
    page.get_by_label("taken to").press("Enter")
    assert [each["value"] for each in state(page)["conditions"]] == ["2020-02", "2020-03"]


def test_a_rectangle_of_places_becomes_a_condition(mount: Mount) -> None:
    page = mount("places.js")
    placed = sum(row.latitude is not None for row in ROWS)
    expect(page.get_by_role("status")).to_have_text(f"{placed} with a place here.")
    page.get_by_role("button", name="Choose a rectangle").click()
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 200, steps=3)
    page.mouse.up()
    [condition] = state(page)["conditions"]
    value = condition["value"]
    assert (condition["column"], condition["op"]) == ("place", "within")
    assert value["west"] == pytest.approx(0, abs=1)
    assert value["east"] == pytest.approx(120, abs=1)
    inside = sum(
        row.latitude is not None
        and row.longitude is not None
        and value["south"] <= row.latitude <= value["north"]
        and value["west"] <= row.longitude <= value["east"]
        for row in ROWS
    )
    expect(page.get_by_role("status")).to_have_text(f"{inside} with a place here.")


def test_places_by_keyboard(mount: Mount) -> None:
    page = mount("places.js")
    for side, value in {"south": "-10", "west": "-20", "north": "30", "east": "40"}.items():
        page.get_by_label(side).fill(value)
    page.get_by_label("east").press("Enter")
    assert state(page)["conditions"][0]["value"] == {"south": -10, "west": -20, "north": 30, "east": 40}
    page.get_by_text("Places as a list").click()
    expect(page.locator(".places-list li")).not_to_have_count(0)


def test_the_map_is_made_drawn_on_and_searched_by_keyboard(mount: Mount) -> None:
    page = mount("map.js")
    canvas = page.locator("canvas.map-points")
    expect(canvas).to_be_visible(timeout=150_000)  # it is made in a process of the lowest priority
    page.get_by_text("Groups on the map").click()
    region = page.get_by_role("button", name="Search in this region").first
    region.focus()
    page.keyboard.press("Enter")
    area = state(page)["area"]
    assert len(area) >= 3
    matches = page.evaluate("app.post('/conditions', app.filter())")["matches"]
    assert 0 < matches <= len(ROWS)
    page.get_by_role("button", name="Clear the area").click()
    assert state(page)["area"] is None
    page.get_by_role("button", name="Draw an area").click()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    page.mouse.down()
    for x, y in ((599, 1), (599, 399), (1, 399)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    assert page.evaluate("app.post('/conditions', app.filter())")["matches"] == len(ROWS)
    page.evaluate("app.found = [{ id: '5' }]; app.dispatchEvent(new Event('hits'))")
    page.locator(".map-groups button").first.click()
    assert len(page.evaluate("app.opened")) == 1
    page.evaluate("unmount()")


def test_searches_are_saved_renamed_opened_and_deleted_by_keyboard(mount: Mount) -> None:
    page = mount("saved.js")
    page.get_by_label("Name of this search").fill("<b>dogs</b>")
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="<b>dogs</b>")
    link.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("app.gone") == ["q=a+wet+dog"]
    page.get_by_role("button", name="Rename").press("Enter")
    page.keyboard.type("wet dogs")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="wet dogs")).to_be_visible()
    page.get_by_role("button", name="Delete wet dogs").press("Enter")
    expect(page.get_by_text("No search is saved yet.")).to_be_visible()


def test_all_results_become_files(mount: Mount, tmp_path: Path) -> None:
    page = mount("exports.js", total=2_000)
    expect(page.get_by_role("status")).to_contain_text("more than 1,000")
    with page.expect_download() as begun:
        page.get_by_role("button", name="CSV").press("Enter")
    begun.value.save_as(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        assert sorted(int(row["id"]) for row in csv.DictReader(file)) == list(range(len(ROWS)))
    with page.expect_download() as begun:
        page.get_by_role("button", name="Paths", exact=True).click()
    begun.value.save_as(tmp_path / "paths.txt")
    assert len((tmp_path / "paths.txt").read_text().splitlines()) == len(ROWS)


def test_too_many_files_are_not_packed(mount: Mount) -> None:
    page = mount("exports.js")
    lines = "".join(f'{{"id": "{number}"}}\n' for number in range(1_001))
    page.route("**/search?format=ndjson", lambda route: route.fulfill(body=lines))
    page.get_by_role("button", name="Zip of originals").click()
    expect(page.get_by_role("status")).to_contain_text("at most 1,000 files, but these are 1,001")
