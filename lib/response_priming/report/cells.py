"""Cells of executed notebooks: those with a label, and copies of all that every renderer may have.

Responses, problems and strategies are foreign text. What shows them is sanitised as it is staged (`static_copy`).
"""

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import v4

from response_priming import paths
from response_priming.errors import InputError

TABLE = re.compile(r"<table.*</table>", re.DOTALL)
_FENCES = "```{=html}\n", "\n```"  # of raw HTML in Markdown
_EXPLORER = "<div><iframe srcdoc="
# Cells that are folded, by their tag: a notebook begins with the same parameters twice.
_FOLDED = {"parameters": "Parameters: their defaults", "injected-parameters": "Parameters: those of this run"}
_WIDGET = "application/vnd.jupyter.widget-view+json"
# What an output's HTML may be made of; anything else is shown as the text that it is.
SANITIZER = SanitizeHTML(
    tags=["table", "caption", "thead", "tbody", "tr", "th", "td", "br", "p", "pre", "div"],
    attributes=["class", "scope", "colspan", "rowspan", "style", "data-label", "tabindex"],
    styles=["text-align"],
)


@dataclass(frozen=True)
class Cell:
    """A labelled cell: its `#|` options and its outputs."""

    options: dict[str, str]
    outputs: list[Any]


def labelled_cells(notebook: Path) -> dict[str, Cell]:
    """The cells of a notebook that carry a `#| label:`, by label; `InputError` where one label occurs twice."""
    cells: dict[str, Cell] = {}
    for cell in read(notebook).cells:
        options = options_of(cell)
        if "label" not in options:
            continue
        if options["label"] in cells:
            raise InputError(f"{notebook}: label {options['label']!r} occurs twice; each must be one cell's own")
        cells[options["label"]] = Cell(options, cell.get("outputs", []))
    return cells


def read(notebook: Path) -> Any:
    """A notebook, as nbformat has it."""
    return nbformat.read(notebook, as_version=4)


def options_of(cell: Any) -> dict[str, str]:
    """Its `#|` options."""
    lines = [line.removeprefix("#|") for line in cell.source.splitlines() if line.startswith("#|")]
    try:
        return yaml.safe_load("\n".join(line.removeprefix(" ") for line in lines)) or {}
    except yaml.YAMLError as error:
        raise InputError(
            f"cell {cell.get('id')}: its `#|` options are not YAML: {' '.join(str(error).split())}"
        ) from None


def raw(content: str) -> str:
    """HTML in Markdown, for every renderer."""
    return _FENCES[0] + content + _FENCES[1]  # what is staged holds no backtick


def unraw(markdown: str) -> str:
    """The HTML of `raw`; empty where it is no such."""
    return markdown.removeprefix(_FENCES[0]).removesuffix(_FENCES[1]) if markdown.startswith(_FENCES[0]) else ""


def static_copy(notebook: Path, target: Path) -> None:
    """Copy a notebook with outputs that every renderer may have (see `_safe`), and without when it ran: results that
    are the same again are the same page.

    Quarto loads scripts from the network for widgets, and for HTML as well, so that is raw HTML in Markdown. A labelled
    cell has the anchor that Quarto gives it.
    """
    content = _made_safe(read(notebook))
    for place in (content, *content.cells):
        for key in ("widgets", "papermill", "execution"):
            place.metadata.pop(key, None)
    for cell in content.cells:
        for tag in {*_FOLDED} & {*cell.metadata.get("tags", [])}:
            cell.id = tag  # papermill draws one at random
            cell.source = f'#| code-fold: true\n#| code-summary: "{_FOLDED[tag]}"\n{cell.source}'
        if label := options_of(cell).get("label"):
            cell.id = f"cell-{label}"
        for output in cell.get("outputs", []):
            if "text/html" in output.data:
                output.data["text/markdown"] = raw(output.data.pop("text/html"))
    nbformat.write(content, target)


def notebook_page(executed: Path, title: str) -> str:
    """An executed notebook without its code, as HTML that asks the network for nothing."""
    exporter = HTMLExporter(template_file=str(paths.REPORT / "notebook.html.jinja"), exclude_anchor_links=True)
    page, _ = exporter.from_notebook_node(_made_safe(read(executed)), {"title": title})
    return str(page)


def _made_safe(content: Any) -> Any:
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [safe for output in cell.outputs if (safe := _safe(output))]
    return content


def _safe(output: Any) -> Any:
    """An output as pictures, sanitised Markdown or sanitised HTML; None where nothing of it is to be shown.

    Nothing of standard error is: bars, and what a notebook says while it computes, but not when it finds its results.
    Tables become nothing but a table; the explorer, megabytes of it, a link to the page's own. Text becomes HTML, and
    no HTML holds a brace or a backtick: Quarto looks for shortcodes in code, too, and for the end of what is raw.
    """
    data, text = output.get("data", {}), output.get("text", "")
    shown = {kind: data[kind] for kind in ("image/svg+xml", "image/png") if kind in data}
    content = data.get("text/html", "") or f"<pre>{html.escape(text or data.get('text/plain', ''))}</pre>"
    if "text/markdown" in data:
        shown["text/markdown"] = SANITIZER.sanitize_html_tags(data["text/markdown"])
    elif content.startswith(_EXPLORER):
        shown["text/html"] = '<p><a href="explorer.html">Explore the maps of every head</a></p>'
    elif not shown and _WIDGET not in data and (data or text.strip()):
        table = TABLE.search(content)
        content = SANITIZER.sanitize_html_tags(_bare(table[0], content[: table.start()]) if table else content)
        shown["text/html"] = content.translate({ord(mark): f"&#{ord(mark)};" for mark in "{}`"})
    return v4.new_output("display_data", data=shown) if shown and output.get("name") != "stderr" else None


def _bare(table: str, styled: str) -> str:
    """The table without the styles before it, with each column's alignment and line breaks written into its cells, and
    with their column's heading, which a phone shows instead of columns. Its class says whether it holds numbers.

    Quarto loses an embedded table that has anything before or after it in its output (quarto-cli, issue 8927). A bare
    one it reads as its own, for PDF as well.
    """
    shown: Any = BeautifulSoup(table, "html.parser")
    right = re.findall(r"\.(col\d+) {\s*text-align: right", styled)
    headings = {
        place: name for cell in shown.select("thead th") for place in cell.get("class", []) if (name := cell.text)
    }
    for cell in shown.find_all(["th", "td"]):
        aligned = "right" if {*right} & {*cell.get("class", [])} else "left"
        cell["style"] = f"text-align: {aligned}"
        cell.name = "th" if cell.name == "th" and cell.text.strip() else "td"  # a heading says something
        if cell.name == "td" and (found := [headings[place] for place in cell.get("class", []) if place in headings]):
            cell["data-label"] = found[0]
    shown.table["tabindex"] = "0"  # so that the keyboard scrolls the box around it
    shown.table["class"] = ["table", "table-sm", "numbers" if right else "prose"]
    return re.sub(r">[^<>]+</td>", lambda cell: cell[0].replace("\n", "<br>"), str(shown))
