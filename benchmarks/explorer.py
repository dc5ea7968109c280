"""How heavy the attention explorer is, and how long a browser takes from opening the file to the first map.

    python benchmarks/explorer.py build/laptop/attention benchmarks/results/explorer.json

The maps are those of a finished attention stage. A load ends when the text above the tokens names the head shown, which
is set together with their shades and the maps. Chromium is started once; every load is a new page.
"""

import json
import shutil
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from playwright.sync_api import sync_playwright

from response_priming import provenance
from response_priming.attention import explorer
from response_priming.attention import results as attention_results

LOADS = 9
TIMED = """window.shown = new Promise(done => new MutationObserver(() => {
    if (document.getElementById("summary")?.textContent) done(performance.now())
}).observe(document, {childList: true, subtree: true}))"""


def load_seconds(file: Path) -> list[float]:
    """Seconds of each load."""
    seconds = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(LOADS):
            page = browser.new_page()
            page.add_init_script(TIMED)
            page.goto(file.as_uri())
            seconds.append(round(page.evaluate("window.shown") / 1000, 3))
            page.close()
        browser.close()
    return seconds


def main(folder: Path, results: Path) -> None:
    """Measure, print and write."""
    analysis = attention_results.read(folder)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "explorer.html"
        file.write_text(explorer.html(analysis), encoding="utf-8")
        megabytes, seconds = round(file.stat().st_size / 1e6, 2), load_seconds(file)
    found = {
        "page_megabytes": megabytes,
        "texts": [len(example.tokens) for example in analysis.examples],
        "arms": len(analysis.examples[0].maps),
        "heads": len(analysis.divergent),
        "median_load_seconds": statistics.median(seconds),
        "load_seconds": seconds,
        "machine": provenance.here()["machine"],
        "versions": {"playwright": version("playwright")},
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
