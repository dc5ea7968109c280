"""Reproduction: a run that is made again from its record, and the numbers of two pages side by side."""

import json
import re
from collections.abc import Iterator
from html import unescape
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from bs4 import BeautifulSoup
from pydantic import ValidationError
from rocrate.rocrate import ROCrate

from response_priming import notebooks, params, paths, provenance
from response_priming.errors import InputError, first_problem
from response_priming.report.cells import labelled_cells
from response_priming.report.origins import bare
from response_priming.report.preview import SHORTCODE

# Variables of the page that say which run it is of; none is a result.
ABOUT = frozenset(
    {
        "profile", "command", "extras", "related", "renderer", "renderer_note", "git_commit", "made_on", "versions",
        "machine", "rules_fixed",
    }
)  # fmt: skip


class Number(NamedTuple):
    """A number of two pages, or a text in its place; None where a page has none."""

    name: str
    there: str | None
    here: str | None


class Plan(NamedTuple):
    """A reproduction before it runs: its profile's name and file, what is other than there, and what it took there."""

    name: str
    file: Path
    differences: list[str]
    wall_seconds: float
    cpu_seconds: float


def prepare(source: Path) -> Plan:
    """Write the profile by which a finished run is made again, in a folder of its own.

    Args:
        source: folder of a finished run, as build/laptop, or its ro-crate-metadata.json.

    Raises:
        InputError: there is no record of a run, its parameters are none of this version, or another profile has the
            reproduction's name.
    """
    crate, content = _record(source)
    name = f"reproduce-{crate.root_dataset['alternateName']}"
    try:
        profile = params.Profile.model_validate({"name": name} | content)
    except ValidationError as error:
        raise InputError(f"{source}: {first_problem(error, params.Profile)}") from None
    file, text = paths.PARAMS / f"{name}.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise InputError(f"{paths.shown(file)}: is of another run; `make clean PROFILE={name}` and remove it")
    paths.write(file, text)
    return Plan(name, file, list(_differences(crate, profile)), *_cost(crate))


def _record(source: Path) -> tuple[ROCrate, dict[str, Any]]:
    """The crate of a run, and the profile's sections as it has them."""
    folder, content = source.parent if source.name == notebooks.CRATE else source, dict[str, Any]()
    if not (folder / notebooks.CRATE).is_file():
        raise InputError(
            f"{source}: no {notebooks.CRATE} there; expected is the folder of a finished run, as build/laptop"
        )
    try:
        crate = ROCrate(folder)
        for entity in crate.get("#paper")["object"]:
            section, _, key = entity["name"].rpartition(".")
            (content.setdefault(section, {}) if section else content)[key] = json.loads(entity["value"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{folder / notebooks.CRATE}: is no record of a run of this suite") from None
    return crate, content


def _differences(crate: Any, profile: params.Profile) -> Iterator[str]:
    """In what the code, packages and machine of now are others than those of the record, and the precision."""
    now, there = provenance.here(), dict[str, set[str]]()
    for entity in crate.get_entities():
        kind = entity.id.removeprefix("#").partition("/")[0]
        if kind == "software":
            there.setdefault(entity["name"], set()).add(entity["softwareVersion"])
        elif kind == "code":
            there.setdefault(kind, set()).add(f"{entity['version']}, {entity['description']}")
        elif kind in ("machine", "precision"):
            there.setdefault(kind, set()).add(entity["value"])
    here = {
        "code": f"{now['git_commit'] or 'unknown'}, {provenance.state_of(now)}",
        "Python": now["python"],
        **now["packages"],
        "machine": ", ".join([now["machine"], *now["hardware"]]),
        "precision": profile.model.precision,
    }
    for what, value in here.items():
        if (before := there.get(what, {"unknown"})) != {value}:
            yield f"{what}: there {'; '.join(sorted(before))}, here {value}"


def _cost(crate: Any) -> tuple[float, float]:
    """Seconds by the clock and of processors that the steps took: to execute, or to make what they found, if longer."""
    wall, cpu = 0.0, 0.0
    for step in crate.get_by_type("ControlAction"):
        actions = step["object"] if isinstance(step["object"], list) else [step["object"]]
        took = [[crate.get(f"{action.id}/{name}") for action in actions] for name in ("wall_seconds", "cpu_seconds")]
        walls, cpus = ([float(each["value"]) if each else 0.0 for each in some] for some in took)
        wall, cpu = wall + max(walls[0], sum(walls[1:])), cpu + max(cpus[0], sum(cpus[1:]))
    return wall, cpu


def numbers(first: Path, second: Path) -> Iterator[Number]:
    """The numbers of two finished runs' pages, in the second page's order: its variables and the cells of its tables.

    Raises:
        InputError: a folder has no page.
    """
    there, here = (_numbers(folder.parent if folder.name == notebooks.CRATE else folder) for folder in (first, second))
    for name in dict.fromkeys([*here, *there]):
        yield Number(name, there.get(name), here.get(name))


def _numbers(run: Path) -> dict[str, str]:
    folder, found = run / "report", dict[str, str]()
    if not (folder / "_variables.yml").is_file():
        raise InputError(f"{run}: no page there; `make paper` makes one")
    texts = yaml.safe_load((folder / "_variables.yml").read_text(encoding="utf-8"))
    for code in SHORTCODE.finditer((folder / "index.qmd").read_text(encoding="utf-8")):
        notebook, _, label = code["value"].partition("#")
        if code["name"] == "var" and code["value"] not in ABOUT:
            found[code["value"]] = " ".join(unescape(bare(texts[code["value"]])).split())
        elif label.startswith("tbl-"):
            for row, column, what, cell in _cells(folder / notebook, label):
                found[f"{label}[{row},{column}] {what}"] = cell
    return found


def _cells(notebook: Path, label: str) -> Iterator[tuple[int, int, str, str]]:
    """The cells of a printed table below its headings: row, column, what they are of, and their text."""
    for output in labelled_cells(notebook)[label].outputs:
        page = BeautifulSoup(output.get("data", {}).get("text/markdown", "").replace("\u200b", ""), "html.parser")
        rows = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in page.find_all("tr")]
        for row, cells in enumerate(rows[1:], 1):
            # The first cells say what the row is of.
            names = list(takewhile(lambda text: len(text) < 40 and not re.match(r"[-+<]? ?[\d.]", text), cells[:-1]))
            for column in range(len(names), len(cells)):
                if cells[column]:
                    yield row, column + 1, f"{', '.join(filter(None, names))}: {rows[0][column]}", cells[column]
