"""Check of the manuscript's sources: every name in index.qmd resolves, every figure and table has its caption."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from response_priming.errors import InputError
from response_priming.report.cells import labelled_cells
from response_priming.report.origins import LINK
from response_priming.report.preview import IMAGE, REFERENCE, SHORTCODE, numbers
from response_priming.report.variables import known

# What staging adds to the sources: the manuscript may name these although report/ has none of them.
GENERATED = frozenset(
    f"_{name}.md"
    for name in ("checklist", "citation", "compute", "contents", "doctor", "lead", "notebooks", "settled", "strategies")
)


def check_sources(report_dir: Path, notebooks_dir: Path, texts: Mapping[str, str] | None = None) -> None:
    """Check that index.qmd names only what exists.

    Args:
        report_dir: holds index.qmd and references.bib.
        notebooks_dir: holds the embedded notebooks, executed or not.
        texts: values of the variables; those of their template, without values, where it is not given.

    Raises:
        InputError: a shortcode, variable, embedded cell, cross-reference, citation or origin of a number does not
            resolve, or an embedded cell has no caption or alternative text.
    """
    page, keys = report_dir / "index.qmd", known() if texts is None else [*texts]
    text, captions = page.read_text(encoding="utf-8"), []
    codes = list(SHORTCODE.finditer(text))
    if text.count("{{<") != len(codes):
        raise InputError(
            f"{page}: malformed shortcode; use {{{{< var KEY >}}}}, {{{{< embed NB.ipynb#LABEL >}}}} or "
            "{{< include FILE >}}"
        )
    for code in codes:
        if code["name"] == "embed":
            captions.append(_embedded_caption(page, notebooks_dir, code["value"]))
        elif code["name"] == "include":
            _require_file(page, code["value"])
        elif code["name"] != "var":
            raise InputError(f"{page}: unknown shortcode {code['name']!r}; understood: var, embed, include")
        elif code["value"] not in keys:
            raise InputError(f"{page}: unknown variable {code['value']!r}; known: {', '.join(sorted(keys))}")
    for drawn in IMAGE.finditer(text):
        _require_file(page, drawn["file"])
    entries = re.findall(
        r"^@\w+\{([^,\s]+),", (report_dir / "references.bib").read_text(encoding="utf-8"), re.MULTILINE
    )
    targets = {*entries, *numbers(text)}
    for reference in REFERENCE.finditer("\n".join([text, *captions])):
        if reference["key"] not in targets:
            raise InputError(f"{page}: @{reference['key']} is neither an embedded label nor a key of references.bib")
    said = {**(texts or {}), **{file.name: file.read_text(encoding="utf-8") for file in report_dir.glob("_*.md")}}
    wanted = {(link["file"], link["anchor"]): key for key in said for link in LINK.finditer(said[key])}
    there = {file: _anchors(notebooks_dir, file) for file, _ in wanted}
    for (file, anchor), key in wanted.items():
        if anchor not in there[file]:
            raise InputError(f"{page}: {key!r} has a number from {file}#{anchor}, which is not there")


def _anchors(folder: Path, file: str) -> set[str]:
    """What a number may link to in a file of the site: the file itself, or the cells of a staged notebook's page."""
    notebook = folder / file.replace("-preview.html", ".ipynb")
    if notebook.suffix != ".ipynb" or not notebook.exists():
        return {""} if notebook.exists() else set()
    return {cell["id"] for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]}


def _require_file(page: Path, name: str) -> None:
    if name not in GENERATED and not (page.parent / name).is_file():
        raise InputError(f"{page}: names {name}, but there is no such file beside it")


def _embedded_caption(page: Path, notebooks_dir: Path, target: str) -> str:
    name, _, label = target.partition("#")
    notebook = notebooks_dir / name
    if not notebook.exists():
        raise InputError(f"{page}: embeds {target}, but there is no {notebook}")
    cells = labelled_cells(notebook)
    if label not in cells:
        raise InputError(f"{page}: embeds {target}; labels of that notebook: {', '.join(cells) or 'none'}")
    kind = label.partition("-")[0]
    for key in {"fig": ("fig-cap", "fig-alt"), "tbl": ("tbl-cap",)}.get(kind, ()):
        if not cells[label].options.get(key):
            raise InputError(f"{notebook}: cell {label} has no `#| {key}:`")
    if kind not in ("fig", "tbl"):
        raise InputError(f"{page}: embeds {target}; a label must start with fig- or tbl-")
    return cells[label].options[f"{kind}-cap"]
