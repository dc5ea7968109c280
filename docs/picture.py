"""Make docs/page.png, the README's picture: two views of a profile's page, side by side.

    python docs/picture.py [PROFILE]

Needs Chromium, and the page, which `make paper` makes.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from response_priming import paths

VIEWS = ("#the-answer", "#does-distillation-help")  # each from its heading on
WIDTH, HEIGHT, GAP = 1030, 1200, 12  # of a view, pixels
COLORS = 128  # a quarter of the weight of all colours, and no line loses its own


def main(profile: str) -> Path:
    """Write the picture; returns where it is."""
    page_file = paths.BUILD / profile / "report" / "_site" / "index.html"
    picture = Image.new("RGB", (len(VIEWS) * (WIDTH + GAP) - GAP, HEIGHT), "lightgrey")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.as_uri())
        for number, heading in enumerate(VIEWS):
            page.locator(heading).first.evaluate("element => element.scrollIntoView()")
            picture.paste(Image.open(io.BytesIO(page.screenshot())), (number * (WIDTH + GAP), 0))
        browser.close()
    target = Path(__file__).with_name("page.png")
    picture.quantize(COLORS, method=Image.Quantize.MAXCOVERAGE).save(target, optimize=True)
    return target


if __name__ == "__main__":
    print(main(*sys.argv[1:] or ["laptop"]))
