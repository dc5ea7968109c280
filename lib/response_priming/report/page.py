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

from response_priming import artifacts, attention, notebooks, params, paths, style
from response_priming.errors import InputError
from response_priming.report import downloads, preview, variables
from response_priming.report.check import check_sources


def stage(profile: params.Profile) -> Path:
    """Put everything that a renderer needs into build/PROFILE/report/, and check that all of it resolves.

    Raises:
        InputError: a notebook or stage folder is missing, or the manuscript names what does not exist.
    """

    def write(folder: Path) -> None:
        shutil.copytree(paths.REPORT, folder, dirs_exist_ok=True)
        for notebook in _notebooks(profile):
            preview.static_copy(notebook, folder / notebook.name)
        titles = {stem: style.verbatim(title) for stem, title in notebook_titles(profile).items()}
        index = folder / "index.qmd"
        index.write_text(sourced(index.read_text(encoding="utf-8"), titles), encoding="utf-8")
        (folder / "_contents.md").write_text(preview.contents(index.read_text(encoding="utf-8")), encoding="utf-8")
        (folder / "_notebooks.md").write_text(preview.notebooks_list(titles), encoding="utf-8")
        (folder / "_lead.md").write_text(preview.raw(variables.lead_figure(profile)), encoding="utf-8")
        (folder / "_strategies.md").write_text(variables.strategies_table(profile), encoding="utf-8")
        (folder / "_doctor.md").write_text(variables.diagnosis(profile), encoding="utf-8")
        (folder / "_citation.md").write_text(variables.bibtex(profile), encoding="utf-8")
        (folder / "_settled.md").write_text(variables.settled_table(profile), encoding="utf-8")
        downloads.write(profile.build, folder)
        texts = variables.sentences(profile)
        _write_yaml(folder / "_variables.yml", texts)
        _write_yaml(folder / "_quarto.yml", _quarto_config(profile))
        check_sources(folder, folder, texts)

    return artifacts.made(profile.build / "report", _recipe(profile), write)


def render(profile: params.Profile) -> Path:
    """Render the staged manuscript, unless that is done: build/PROFILE/report/_site/index.html."""
    folder = stage(profile)

    def write(site: Path) -> None:
        if command := variables.quarto():
            _run_quarto(command, folder, site)
        else:
            preview.write(folder, site, notebook_titles(profile))
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
    output = folder / "_site.partial"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    arguments = [command, "render", str(folder), "--output-dir", output.name]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode or not (output / "index.html").exists():
        message = (done.stderr.strip() or "no index.html").splitlines()[-1]
        raise InputError(f"{folder}: quarto render failed: {message}")
    output.replace(site)


def _recipe(profile: params.Profile) -> dict[str, Any]:
    _notebooks(profile)  # all of which must be there
    inputs = [profile.build / name for name in (*variables.STAGES, "rules")]
    inputs = [path for path in inputs if path.name != "rules" or path.exists()]
    content = notebooks.page_content(profile) | {"quarto": variables.quarto()}
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


def _quarto_config(profile: params.Profile) -> dict[str, Any]:
    """report/_quarto.yml with the profile's notebooks, which Quarto gives a page each, and how to cite the page."""
    config: dict[str, Any] = yaml.safe_load((paths.REPORT / "_quarto.yml").read_text(encoding="utf-8"))
    # Quarto reads a title as Markdown in one place and as text in another; these characters are the same in both.
    titles = {stem: re.sub(r"[^\w ,.:;()-]|_", "", title) for stem, title in notebook_titles(profile).items()}
    config["manuscript"]["notebooks"] = [
        {"notebook": f"{stem}.ipynb", "title": title, "order": place}
        for place, (stem, title) in enumerate(titles.items())
    ]
    return config | variables.metadata(profile)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
