"""Check of the manuscript's sources: every name in index.qmd resolves, every figure and table has its caption."""

import re
from collections.abc import Collection
from pathlib import Path

from response_priming.errors import InputError
from response_priming.report.preview import IMAGE, REFERENCE, SHORTCODE, labelled_cells, numbers
from response_priming.report.variables import known

# What staging adds to the sources: the manuscript may name these although report/ has none of them.
GENERATED = frozenset(
    f"_{name}.md"
    for name in ("checklist", "citation", "compute", "contents", "doctor", "lead", "notebooks", "settled", "strategies")
)


def check_sources(report_dir: Path, notebooks_dir: Path, keys: Collection[str] | None = None) -> None:
    """Check that index.qmd names only what exists.

    Args:
        report_dir: holds index.qmd and references.bib.
        notebooks_dir: holds the embedded notebooks, executed or not.
        keys: of the variables; those of their template where it is not given.

    Raises:
        InputError: a shortcode, variable, embedded cell, cross-reference or citation does not resolve, or an embedded
            cell has no caption or alternative text.
    """
    page, keys = report_dir / "index.qmd", known() if keys is None else keys
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
