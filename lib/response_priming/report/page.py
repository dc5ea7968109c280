"""The manuscript: its sources, the executed notebooks and the numbers of the prose staged in one folder, then rendered.

Quarto renders where it is installed; elsewhere `preview` renders the same index.qmd with pandoc, and the page says so.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from response_priming import artifacts, notebooks, params, paths, style
from response_priming.attention import explorer, results
from response_priming.errors import InputError
from response_priming.report import citation, downloads, pipeline_figure, preview, prose

# What staging adds to the sources: the manuscript may name these although report/ has none of them.
GENERATED = frozenset({"_citation.md", "_downloads.md", "_strategies.md", "pipeline.svg"})


def stage(profile: params.Profile) -> Path:
    """Put everything that a renderer needs into build/PROFILE/report/, and check that all of it resolves.

    Raises:
        InputError: a notebook or stage folder is missing, or the manuscript names what does not exist.
    """
    folder = paths.BUILD / profile.name / "report"
    recipe = _recipe(profile)
    if not artifacts.is_current(folder, recipe):
        with artifacts.writing(folder, recipe) as aside:
            shutil.copytree(paths.REPORT, aside, dirs_exist_ok=True)
            for notebook in _notebooks(profile):
                preview.static_copy(notebook, aside / notebook.name)
            texts = {"strategies": prose.strategies_table(profile), "citation": citation.bibtex(profile)}
            texts["downloads"] = downloads.write(profile, aside)
            for name, text in texts.items():
                (aside / f"_{name}.md").write_text(text, encoding="utf-8")
            pipeline_figure.draw().savefig(aside / "pipeline.svg")
            values = prose.variables(profile, renderer="Quarto" if quarto() else "pandoc preview")
            _write_yaml(aside / "_variables.yml", values)
            _write_yaml(aside / "_quarto.yml", _quarto_config(profile))
            check_sources(aside, aside, values)
    return folder


def render(profile: params.Profile) -> Path:
    """Render the staged manuscript, unless that is done: build/PROFILE/report/_site/index.html."""
    folder = stage(profile)
    site, aside = folder / "_site", folder / "_site.partial"
    if not site.exists():
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        if command := quarto():
            _run_quarto(command, folder, aside)
        else:
            preview.write(folder, aside, notebook_titles(profile))
        analysis = results.read(paths.BUILD / profile.name / "attention")
        (aside / "explorer.html").write_text(explorer.html(analysis), encoding="utf-8")
        aside.rename(site)
    page = site / "index.html"
    page.touch()  # `make` must see that it is up to date, even where nothing had to be rendered
    return page


def quarto() -> str | None:
    """The Quarto executable: on PATH, or beside this Python, where an environment that is not activated keeps it."""
    return shutil.which("quarto") or shutil.which("quarto", path=str(Path(sys.executable).parent))


def _run_quarto(command: str, folder: Path, output: Path) -> None:
    arguments = [command, "render", str(folder), "--output-dir", output.name]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode or not (output / "index.html").exists():
        message = (done.stderr.strip() or "no index.html").splitlines()[-1]
        raise InputError(f"{paths.shown(folder)}: quarto render failed: {message}")


def _recipe(profile: params.Profile) -> dict[str, Any]:
    build = paths.BUILD / profile.name
    sources = [paths.ROOT / "CITATION.cff", *(path for path in sorted(paths.REPORT.rglob("*")) if path.is_file())]
    parameters = {
        "profile": profile.model_dump(),
        "quarto": quarto(),
        "files": {paths.shown(path): artifacts.digest(path) for path in [*sources, *_notebooks(profile)]},
    }
    return artifacts.recipe("report", parameters, [build / name for name in prose.RESULTS], code=["report.page"])


def notebook_titles(profile: params.Profile) -> dict[str, str]:
    """Title of every executed notebook of the profile, by stem, in the order in which they ran."""
    titles = {
        node.name: f"{node.stage.capitalize().replace('-', ' ')}: {style.title(node.item)}"
        for node in notebooks.nodes(profile)
        if node.item
    }
    titles |= {
        "compare": "Compare all arms",
        "attention-visualize": "Attention inside the students",
        "audit": "Audit of the released logs",
        "claims": "The claims of the paper",
    }
    return titles | {node.name: notebooks.PAGES[node.stage] for node in notebooks.executed_extras(profile)}


def _notebooks(profile: params.Profile) -> list[Path]:
    executed = [paths.BUILD / profile.name / "notebooks" / f"{stem}.ipynb" for stem in notebook_titles(profile)]
    for notebook in executed:
        if not notebook.exists():
            raise InputError(f"{paths.shown(notebook)}: not made yet; `make paper PROFILE={profile.name}` makes it")
    return executed


def _quarto_config(profile: params.Profile) -> dict[str, Any]:
    """report/_quarto.yml with the profile's notebooks, which Quarto gives a page each, and how to cite the page."""
    config: dict[str, Any] = yaml.safe_load((paths.REPORT / "_quarto.yml").read_text(encoding="utf-8"))
    titles = notebook_titles(profile).items()
    config["manuscript"]["notebooks"] = [{"notebook": f"{stem}.ipynb", "title": title} for stem, title in titles]
    return config | citation.metadata(profile)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def check_sources(report_dir: Path, notebooks_dir: Path, known: Collection[str] = prose.VARIABLES) -> None:
    """Check that index.qmd names only what exists.

    Args:
        report_dir: holds index.qmd and references.bib.
        notebooks_dir: holds the embedded notebooks, executed or not.
        known: keys of the variables.

    Raises:
        InputError: a shortcode, variable, embedded cell, cross-reference or citation does not resolve, or an embedded
            cell has no caption or alternative text.
    """
    page = report_dir / "index.qmd"
    text, captions = page.read_text(encoding="utf-8"), []
    codes = list(preview.SHORTCODE.finditer(text))
    if text.count("{{<") != len(codes):
        raise InputError(
            f"{paths.shown(page)}: malformed shortcode; use {{{{< var KEY >}}}}, {{{{< embed NB.ipynb#LABEL >}}}} or "
            "{{< include FILE >}}"
        )
    for code in codes:
        if code["name"] == "embed":
            captions.append(_embedded_caption(page, notebooks_dir, code["value"]))
        elif code["name"] == "include":
            _require_file(page, code["value"])
        elif code["name"] != "var":
            raise InputError(
                f"{paths.shown(page)}: unknown shortcode {code['name']!r}; understood: var, embed, include"
            )
        elif code["value"] not in known:
            raise InputError(
                f"{paths.shown(page)}: unknown variable {code['value']!r}; known: {', '.join(sorted(known))}"
            )
    for drawn in preview.IMAGE.finditer(text):
        _require_file(page, drawn["file"])
    entries = re.findall(
        r"^@\w+\{([^,\s]+),", (report_dir / "references.bib").read_text(encoding="utf-8"), re.MULTILINE
    )
    targets = {*entries, *preview.numbers(text)}
    for reference in preview.REFERENCE.finditer("\n".join([text, *captions])):
        if reference["key"] not in targets:
            raise InputError(
                f"{paths.shown(page)}: @{reference['key']} is neither an embedded label nor a key of references.bib"
            )


def _require_file(page: Path, name: str) -> None:
    if name not in GENERATED and not (page.parent / name).is_file():
        raise InputError(f"{paths.shown(page)}: names {name}, but there is no such file beside it")


def _embedded_caption(page: Path, notebooks_dir: Path, target: str) -> str:
    name, _, label = target.partition("#")
    notebook = notebooks_dir / name
    if not notebook.exists():
        raise InputError(f"{paths.shown(page)}: embeds {target}, but there is no {paths.shown(notebook)}")
    cells = preview.labelled_cells(notebook)
    if label not in cells:
        raise InputError(f"{paths.shown(page)}: embeds {target}; labels of that notebook: {', '.join(cells) or 'none'}")
    kind = label.partition("-")[0]
    for key in {"fig": ("fig-cap", "fig-alt"), "tbl": ("tbl-cap",)}.get(kind, ()):
        if not cells[label].options.get(key):
            raise InputError(f"{paths.shown(notebook)}: cell {label} has no `#| {key}:`")
    if kind not in ("fig", "tbl"):
        raise InputError(f"{paths.shown(page)}: embeds {target}; a label must start with fig- or tbl-")
    return cells[label].options[f"{kind}-cap"]
