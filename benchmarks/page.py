"""How heavy the preview's pages are, and how long its first render takes, from starting Python to the finished site.
Where Quarto is installed, how long Quarto's takes as well, and how much of that is its own.

    python benchmarks/page.py build/laptop benchmarks/results/page.json

The executed notebooks and results of a finished profile are rendered anew, each time by a new process into an empty
folder. Weights are of what a reader has to load: images, styles and formulas are inside the page.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pypandoc

from response_priming import provenance
from response_priming.report import variables

REPEATS = 3
RENDER = """
import sys
from pathlib import Path
from response_priming import params, paths
from response_priming.report import page, variables
paths.BUILD = Path(sys.argv[1])
variables.quarto = lambda: sys.argv[3] or None
page.render(params.load(sys.argv[2]))
"""
# Stands in Quarto's place: runs it and says what its processes took.
COUNTED = """#!{python}
import os, subprocess, sys
code = subprocess.run(["{quarto}", *sys.argv[1:]]).returncode
print(sum(os.times()[2:4]), file=open("{seconds}", "w"))
sys.exit(code)
"""


def quarto_seconds(build: Path, scratch: Path, quarto: str) -> dict[str, float]:
    """Seconds of one render of `build` by Quarto, of the processors' time that it took, and of that Quarto's own."""
    scratch.mkdir()
    counted, seconds = scratch / "quarto", scratch / "seconds"
    counted.write_text(COUNTED.format(python=sys.executable, quarto=quarto, seconds=seconds), encoding="utf-8")
    counted.chmod(0o755)
    wall, busy = render_seconds(build, scratch / "build", str(counted))
    own = round(float(seconds.read_text(encoding="utf-8")), 2)
    return {"render_seconds": wall, "processor_seconds": busy, "quarto_processor_seconds": own}


def render_seconds(build: Path, scratch: Path, quarto: str = "") -> tuple[float, float]:
    """Seconds of one render of `build` below `scratch`, and of the processors' time that it took."""
    folder = scratch / build.name
    folder.mkdir(parents=True)
    for made in build.iterdir():
        if made.name != "report":
            (folder / made.name).symlink_to(made.resolve())
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-c", RENDER, str(scratch), build.name, quarto], check=True)
    after = os.times()
    busy = after.children_user - before.children_user + after.children_system - before.children_system
    return round(time.perf_counter() - start, 2), round(busy, 2)


def main(build: Path, results: Path) -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = [render_seconds(build, Path(scratch) / str(number)) for number in range(REPEATS)]
        site = Path(scratch) / "0" / build.name / "report" / "_site"
        megabytes = {
            str(page.relative_to(site)): round(page.stat().st_size / 1e6, 3) for page in sorted(site.glob("*.html"))
        }
    found: dict[str, Any] = {
        "profile": build.name,
        "page_megabytes": megabytes,
        "heaviest_megabytes": max(megabytes.values()),
        "median_render_seconds": statistics.median(wall for wall, _ in runs),
        "median_processor_seconds": statistics.median(busy for _, busy in runs),
        "runs": [{"render_seconds": wall, "processor_seconds": busy} for wall, busy in runs],
        "load_average": os.getloadavg()[1],  # above the number of cores, other work slowed the renders
        "machine": provenance.here()["machine"],
        "versions": {"pandoc": str(pypandoc.get_pandoc_version()), "nbformat": version("nbformat")},
    }
    if quarto := variables.quarto():
        with tempfile.TemporaryDirectory() as scratch:
            by_quarto = [quarto_seconds(build, Path(scratch) / str(number), quarto) for number in range(REPEATS)]
        said = subprocess.run([quarto, "--version"], check=True, capture_output=True, text=True).stdout.strip()
        found |= {
            "median_quarto_processor_seconds": statistics.median(run["quarto_processor_seconds"] for run in by_quarto),
            "runs_by_quarto": by_quarto,
            "versions": found["versions"] | {"quarto": said},
        }
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
