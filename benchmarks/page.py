"""How heavy the preview's pages are, and how long its first render takes, from starting Python to the finished site.

    python benchmarks/page.py build/laptop benchmarks/results/page.json

The executed notebooks and results of a finished profile are rendered anew, each time by a new process into an empty
folder. Weights are of what a reader has to load: images, styles and formulas are inside the page.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pypandoc

from response_priming import manifest

REPEATS = 5
RENDER = """
import sys
from pathlib import Path
from response_priming import params, paths, report
paths.BUILD = Path(sys.argv[1])
report.quarto = lambda: None
report.render(params.load(sys.argv[2]))
"""


def render_seconds(build: Path, scratch: Path) -> float:
    """Seconds of one render of `build` below `scratch`."""
    folder = scratch / build.name
    folder.mkdir(parents=True)
    for made in build.iterdir():
        if made.name != "report":
            (folder / made.name).symlink_to(made.resolve())
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", RENDER, str(scratch), build.name], check=True)
    return round(time.perf_counter() - start, 2)


def main(build: Path, results: Path) -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds = [render_seconds(build, Path(scratch) / str(number)) for number in range(REPEATS)]
        site = Path(scratch) / "0" / build.name / "report" / "_site"
        megabytes = {
            str(page.relative_to(site)): round(page.stat().st_size / 1e6, 3)
            for page in (site / "index.html", *sorted((site / "notebooks").glob("*.html")))
        }
    found = {
        "profile": build.name,
        "page_megabytes": megabytes,
        "heaviest_megabytes": max(megabytes.values()),
        "median_render_seconds": statistics.median(seconds),
        "render_seconds": seconds,
        "machine": manifest.provenance()["machine"],
        "versions": {"pandoc": str(pypandoc.get_pandoc_version()), "nbformat": version("nbformat")},
    }
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
