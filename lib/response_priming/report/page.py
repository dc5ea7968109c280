"""The page: the manuscript's sources, the executed notebooks and the variables staged in one folder, then rendered.

Quarto renders where it is installed; elsewhere `preview` renders the same index.qmd with pandoc, and the page says so.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from response_priming import artifacts, attention, notebooks, params, paths, progress, style
from response_priming.errors import InputError
from response_priming.report import cells, checklist, citation, compute, downloads, formats, origins, preview, variables
from response_priming.report.check import check_sources
from response_priming.report.origins import NONE_TRIED, Tried

LOG = "quarto.log"
WARNING = re.compile(r"^\W*WARN(?:ING)?\b", re.MULTILINE)  # as Quarto, its filters and pandoc begin one


def stage(profile: params.Profile, tried: Tried = NONE_TRIED) -> Path:
    """Put everything that a renderer needs into build/PROFILE/report/, and check that all of it resolves.

    Raises:
        InputError: a notebook or stage folder is missing, or the manuscript names what does not exist.
    """

    def write(folder: Path) -> None:
        shutil.copytree(paths.REPORT, folder, dirs_exist_ok=True)
        for notebook in _notebooks(profile):
            cells.static_copy(notebook, folder / notebook.name)
        titles = {stem: style.verbatim(title) for stem, title in notebook_titles(profile).items()}
        index = folder / "index.qmd"
        text, texts = origins.folded(index.read_text(encoding="utf-8"), variables.sentences(profile, tried))
        index.write_text(sourced(text, titles), encoding="utf-8")
        (folder / "_contents.md").write_text(preview.contents(index.read_text(encoding="utf-8")), encoding="utf-8")
        (folder / "_notebooks.md").write_text(preview.notebooks_list(titles), encoding="utf-8")
        (folder / "_lead.md").write_text(cells.raw(variables.lead_figure(profile)), encoding="utf-8")
        (folder / "_strategies.md").write_text(variables.strategies_table(profile), encoding="utf-8")
        (folder / "_doctor.md").write_text(variables.diagnosis(profile), encoding="utf-8")
        (folder / "_settled.md").write_text(variables.settled_table(profile), encoding="utf-8")
        downloads.write(profile.build, folder)
        costs = compute.table(profile)
        costs.to_csv(folder / downloads.FOLDER / "compute.csv", index=False)
        hardware = variables.made(profile).get("hardware", [])
        (folder / "_compute.md").write_text(compute.words(costs, hardware), encoding="utf-8")
        cited = citation.metadata(profile, texts)
        about = citation.block(cited, pdf=variables.quarto() is not None)
        (folder / "_citation.md").write_text(f"{citation.bibtex(cited)}\n{about}", encoding="utf-8")
        (folder / "_checklist.md").write_text(checklist.words(profile, costs, cited), encoding="utf-8")
        _write_yaml(folder / "_variables.yml", texts)
        _write_yaml(folder / "_quarto.yml", _quarto_config(profile, cited))
        check_sources(folder, folder, texts)

    return artifacts.made(profile.build / "report", _recipe(profile, tried), write)


def render(profile: params.Profile, tried: Tried = NONE_TRIED) -> Path:
    """Render the staged manuscript, unless that is done: build/PROFILE/report/_site/index.html.

    Args:
        tried: what changing a parameter gained, in words (see `studies.tried`).
    """
    folder = stage(profile, tried)

    def write(site: Path) -> None:
        texts = yaml.safe_load((folder / "_variables.yml").read_text(encoding="utf-8"))
        cited = citation.metadata(profile, texts)
        preview.write_notebooks(folder, site, notebook_titles(profile))
        if command := variables.quarto():
            _run_quarto(command, folder, site)
        else:
            preview.write(folder, site, cited)
        formats.write(folder, site, cited)
        analysis = attention.read(profile.build / "attention")
        (site / "explorer.html").write_text(attention.html(analysis), encoding="utf-8")

    recipe = artifacts.decided_by("site", {}, [folder], code=[])
    return artifacts.made(folder / "_site", recipe, write) / "index.html"


def sourced(text: str, titles: Mapping[str, str]) -> str:
    """The manuscript with the way to its cell behind each embed: Quarto writes none behind a listed notebook's; and
    with numbers bound to their units."""

    def line(match: re.Match[str]) -> str:
        if match["name"] != "embed":
            return match[0]
        stem = match["value"].partition(".ipynb")[0]
        return f"{match[0]}\n\n{preview.source(match['value'], titles.get(stem, stem))}"

    return style.bound(preview.SHORTCODE.sub(line, text))


def _run_quarto(command: str, folder: Path, site: Path) -> None:
    """Render by Quarto; what it says goes to quarto.log beside the sources, and its warnings are counted.

    Args:
        site: a folder in `folder`, with the notebooks' pages. Quarto takes those of embedded notebooks as its own; no
            notebook may be younger.

    Raises:
        InputError: it failed, or wrote no page.
    """
    log = folder / LOG
    arguments = [command, "render", str(folder), "--output-dir", site.name, "--no-clean"]
    with log.open("wb") as file:
        done = subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, check=False)
    said = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    if done.returncode or not (site / "index.html").exists():
        message = (said.strip() if done.returncode else "") or "no index.html"
        raise InputError(f"{folder}: quarto render failed: {message.splitlines()[-1]}")
    if warned := len(WARNING.findall(said)):
        progress.say(f"{paths.shown(log)}: Quarto warned of {warned} thing{'s' if warned > 1 else ''}")


def _recipe(profile: params.Profile, tried: Tried) -> dict[str, Any]:
    _notebooks(profile)  # all of which must be there
    inputs = [profile.build / name for name in (*variables.STAGES, "rules")]
    inputs = [path for path in inputs if path.name != "rules" or path.exists()]
    content = notebooks.page_content(profile) | {"quarto": variables.quarto(), "tried": dict(tried)}
    return artifacts.decided_by("report", content, inputs, code=[])


def notebook_titles(profile: params.Profile) -> dict[str, str]:
    """Title of every executed notebook of the profile, by stem, in the order in which they ran."""
    ran = [*notebooks.nodes(profile), *notebooks.executed_extras(profile)]
    titles = {node.name: node.title for node in ran if node.item}
    stages = {node.stage for node in ran}
    return titles | {stage: title for stage, title in notebooks.PAGES.items() if stage in stages}


def _notebooks(profile: params.Profile) -> list[Path]:
    executed = [profile.build / "notebooks" / f"{stem}.ipynb" for stem in notebook_titles(profile)]
    for notebook in executed:
        if not notebook.exists():
            raise InputError(f"{notebook}: not made yet; `make paper PROFILE={profile.name}` makes it")
    return executed


def _quarto_config(profile: params.Profile, cited: dict[str, Any]) -> dict[str, Any]:
    """report/_quarto.yml with the embedded notebooks, which Quarto lists beside the page, and how to cite the page."""
    config: dict[str, Any] = yaml.safe_load((paths.REPORT / "_quarto.yml").read_text(encoding="utf-8"))
    text = (paths.REPORT / "index.qmd").read_text(encoding="utf-8")
    codes = [code["value"] for code in preview.SHORTCODE.finditer(text) if code["name"] == "embed"]
    embedded = {target.partition(".ipynb")[0] for target in codes}
    config["format"]["html"]["notebook-view"] = [
        {"notebook": f"{stem}.ipynb", "title": title, "order": place}
        for place, (stem, title) in enumerate(notebook_titles(profile).items())
        if stem in embedded
    ]
    links = {key: cited[key] for key in cited if key == "code-links"}  # which Quarto takes from the manuscript
    return (
        config | {"manuscript": config["manuscript"] | links} | {key: cited[key] for key in cited if key not in links}
    )


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
