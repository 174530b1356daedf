"""Take the pictures of the page that the documentation shows, from the demonstration.

    python docs/screenshots.py         # needs playwright, and Chromium (LLM2CLIP_CHROMIUM, or chromium on the path)

The demonstration is made in a temporary folder and served; the pictures are WebP files in ``docs/images``.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, ViewportSize, sync_playwright

from llm2clip_search.benchmarks.perf.serving import running

IMAGES = Path(__file__).parent / "images"
SEARCH = "?q=a+black+and+white+photograph+of+a+man+with+a+camera+on+a+tripod"
DESKTOP: ViewportSize = {"width": 1280, "height": 760}
PHONE: ViewportSize = {"width": 390, "height": 760}


def main() -> None:
    """Write the pictures."""
    chromium = os.environ.get("LLM2CLIP_CHROMIUM") or shutil.which("chromium")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        subprocess.run([sys.executable, "-m", "llm2clip_search", "demo", scratch], check=True)
        with running(Path(scratch) / ".llm2clip") as (address, _):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            light = browser.new_page(viewport=DESKTOP)
            light.goto(address + SEARCH)
            _first_tile(light).click()
            light.get_by_role("button", name="Which phrases mattered").click()
            _save(light, "page")
            dark = browser.new_page(viewport=PHONE, color_scheme="dark")
            dark.goto(address + SEARCH)
            _first_tile(dark).wait_for()
            _save(dark, "page-phone")
            browser.close()


def _first_tile(page: Page) -> Locator:
    return page.get_by_role("grid").locator("img").first


def _save(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot.save(IMAGES / f"{name}.webp", quality=82)


if __name__ == "__main__":
    main()
