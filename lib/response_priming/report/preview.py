"""The manuscript where there is no Quarto: its syntax resolved here, the rest rendered by pandoc.

Of Quarto's Markdown this knows what index.qmd uses and pandoc lacks: `{{< var KEY >}}`, `{{< embed NB.ipynb#LABEL >}}`,
`{{< include FILE >}}`, `{#tbl-x}` behind a table's caption, `{#fig-x fig-alt="..."}` behind an image, and `@fig-x` or
`@tbl-x`. `report.check_sources` has refused what does not resolve.

Responses, problems and strategies are foreign text. What shows them is sanitised as it is staged (`static_copy`),
pandoc reads nothing but what it is handed, and by a page's policy a browser loads nothing and runs the project's own
script (`lead`) alone.
"""

import base64
import html
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pypandoc
import yaml
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import v4

from response_priming import paths, style
from response_priming.errors import InputError
from response_priming.report import citation, lead
from response_priming.report.downloads import FOLDER

SHORTCODE = re.compile(r"\{\{<\s*(?P<name>\w+)\s+(?P<value>\S+)\s*>\}\}")
TABLE_CAPTION = re.compile(r"^: (?P<caption>.+) \{#(?P<label>tbl-[\w-]+)\}$", re.MULTILINE)
IMAGE = re.compile(
    r'^!\[(?P<caption>.+)\]\((?P<file>\S+)\)\{#(?P<label>fig-[\w-]+) fig-alt="(?P<alt>[^"]+)"\}$', re.MULTILINE
)
REFERENCE = re.compile(r"(?<![\w/.])@(?P<key>[A-Za-z][\w-]*\w)")  # a cross-reference or a citation

_OPTIONS = (
    "--standalone",
    "--wrap=none",
    "--sandbox",
    "--mathml",
    "--syntax-highlighting=pygments",
    "--metadata=document-css=false",
    "--variable=include-before:<main>",
    "--variable=include-after:</main>",
)
# A state of a bar, from the start of its line to the next one's; a cursor that moves up; what is overwritten by blanks.
_TABLE = re.compile(r"<table.*</table>", re.DOTALL)
_FENCES = "```{=html}\n", "\n```"  # of raw HTML in Markdown
_EXPLORER = "<div><iframe srcdoc="
_OPTION = re.compile(r"^#\|.*\n?", re.MULTILINE)
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
    for cell in _read(notebook).cells:
        options = _options(cell)
        if "label" not in options:
            continue
        if options["label"] in cells:
            raise InputError(f"{notebook}: label {options['label']!r} occurs twice; each must be one cell's own")
        cells[options["label"]] = Cell(options, cell.get("outputs", []))
    return cells


def _read(notebook: Path) -> Any:
    return nbformat.read(notebook, as_version=4)


def _options(cell: Any) -> dict[str, str]:
    lines = [line.removeprefix("#|") for line in cell.source.splitlines() if line.startswith("#|")]
    try:
        return yaml.safe_load("\n".join(line.removeprefix(" ") for line in lines)) or {}
    except yaml.YAMLError as error:
        raise InputError(
            f"cell {cell.get('id')}: its `#|` options are not YAML: {' '.join(str(error).split())}"
        ) from None


def numbers(text: str) -> dict[str, str]:
    """What a cross-reference to each figure and table reads, e.g. `Figure 2`, in order of appearance."""
    found = [(match.start(), match["label"]) for form in (TABLE_CAPTION, IMAGE) for match in form.finditer(text)]
    found += [(at.start(), at["value"].partition("#")[2]) for at in SHORTCODE.finditer(text) if at["name"] == "embed"]
    labels = [label for _, label in sorted(found)]
    kinds = {"fig": "Figure", "tbl": "Table"}
    return {
        label: f"{name}\u00a0{number}"
        for kind, name in kinds.items()
        for number, label in enumerate((label for label in labels if label.startswith(kind)), start=1)
    }


def expand(text: str, folder: Path, variables: dict[str, str], *, drawn: bool = True) -> str:
    """The manuscript as plain pandoc Markdown.

    Args:
        text: of index.qmd.
        folder: where the executed notebooks and the other staged files are.
        variables: values of the `var` shortcodes.
        drawn: figures are SVG where there is one; else PNG, which every word processor shows.

    Raises:
        InputError: an embedded cell has no figure or table among its outputs.
    """
    named = numbers(text)

    def refer(match: re.Match[str]) -> str:
        key = match["key"]
        return f"[{named[key]}](#{key})" if key in named else match[0]

    def draw(match: re.Match[str]) -> str:
        picture = _img("svg+xml", base64.b64encode((folder / match["file"]).read_bytes()).decode(), match["alt"])
        return figure(match["label"], picture, f"{named[match['label']]}: {match['caption']}")

    def fill(match: re.Match[str]) -> str:
        if match["name"] == "var":
            return variables[match["value"]]
        if match["name"] == "include":
            return (folder / match["value"]).read_text(encoding="utf-8").rstrip()
        notebook, _, label = match["value"].partition("#")
        cell = labelled_cells(folder / notebook)[label]
        caption = REFERENCE.sub(refer, cell.options[f"{label[:3]}-cap"])
        return figure(label, _content(cell, f"{notebook}#{label}", drawn=drawn), f"{named[label]}: {caption}")

    text = TABLE_CAPTION.sub(lambda match: f": {named[match['label']]}: {match['caption']} {{#{match['label']}}}", text)
    # Shortcodes last: what they bring in is not the manuscript's syntax.
    return SHORTCODE.sub(fill, IMAGE.sub(draw, REFERENCE.sub(refer, text)))


def figure(label: str, content: str, caption: str) -> str:
    """A figure or table between raw HTML, its caption still Markdown; a table's caption stands above it."""
    shown = [raw(content)]
    words = [raw("<figcaption>"), caption, raw("</figcaption>")]
    parts = [*words, *shown] if label.startswith("tbl") else [*shown, *words]
    return "\n\n".join([raw(f'<figure id="{label}" class="{label[:3]}">'), *parts, raw("</figure>")])


def raw(content: str) -> str:
    """HTML in Markdown, for every renderer."""
    return _FENCES[0] + content + _FENCES[1]  # what is staged holds no backtick


def _bared(markdown: str) -> str:
    """The HTML of `raw`; empty where it is no such."""
    return markdown.removeprefix(_FENCES[0]).removesuffix(_FENCES[1]) if markdown.startswith(_FENCES[0]) else ""


def _content(cell: Cell, where: str, *, drawn: bool) -> str:
    """The cell's figure as an `<img>`, or its table inside a box that scrolls sideways."""
    for output in cell.outputs:
        if "fig-cap" in cell.options and (picture := image(output, cell.options["fig-alt"], drawn=drawn)):
            return picture
        if "tbl-cap" in cell.options and (shown := table(output.get("data", {}).get("text/markdown", ""))):
            return shown
    raise InputError(f"{where}: the executed cell shows no {'figure' if 'fig-cap' in cell.options else 'table'}")


def table(content: str) -> str | None:
    """The table in some HTML, inside a box that scrolls sideways; None where it has none."""
    found = _TABLE.search(content)
    return f'<div class="scroll">{found[0]}</div>' if found else None


def image(output: Any, alt: str, *, drawn: bool = True) -> str | None:
    """The output's picture as an `<img>` that carries its data, SVG before PNG if `drawn`; None where it has none."""
    data = output.get("data", {})
    png = _img("png", data["image/png"].replace("\n", ""), alt) if "image/png" in data else None
    if (svg := data.get("image/svg+xml")) and (drawn or not png):
        return _img("svg+xml", base64.b64encode(svg.encode()).decode(), alt)
    return png


def _img(kind: str, encoded: str, alt: str) -> str:
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{html.escape(alt)}">'


def source(notebook: str, title: str) -> str:
    """The line behind an embedded cell, `NB.ipynb#LABEL`, that leads to it in its notebook's page."""
    stem, _, label = notebook.partition(".ipynb#")
    return f"[Source: [{title}]({stem}-preview.html#cell-{label})]{{.source}}"


def notebooks_list(titles: Mapping[str, str]) -> str:
    """The way to every notebook: a list, in Markdown, of the page and the file of each; `titles` by stem."""
    links = (f"- [{title}]({stem}-preview.html) ([download]({stem}.out.ipynb))" for stem, title in titles.items())
    return "\n".join(links) + "\n"


def contents(text: str) -> str:
    """A contents list in the manuscript itself, for windows without room for one beside it; folded, in HTML alone."""
    found = re.findall(r"^(##?) ([^{\n]+?)(?: \{.*\})?$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for _, title in found]
    rows = [
        f'<li class="level{len(level)}"><a href="#{anchor}">{html.escape(title)}</a></li>'
        for (level, title), anchor in zip(found, anchors, strict=True)
    ]
    return raw("\n".join(['<details class="contents"><summary>Contents</summary><ul>', *rows, "</ul></details>"]))


def write(folder: Path, site: Path, cited: Mapping[str, Any]) -> None:
    """Render the staged manuscript, which carries all that it shows, into index.html of an empty folder; beside it are
    the results.

    Args:
        folder: staged sources (see `report.stage`).
        site: has the addresses that Quarto gives it.
        cited: as of `citation.metadata`.
    """
    variables = yaml.safe_load((folder / "_variables.yml").read_text(encoding="utf-8"))
    text = expand((folder / "index.qmd").read_text(encoding="utf-8"), folder, variables)
    options = (
        "--citeproc",
        f"--bibliography={folder / 'references.bib'}",
        "--toc",
        "--toc-depth=2",
        "--number-sections",
        "--variable=toc-title:Contents",
        f"--variable=header-includes:{citation.head(cited)}",
        f"--metadata=date:{cited['date']}",
        *(f"--metadata=author:{html.escape(author['name']['literal'])}" for author in cited["author"]),
        *(f"--metadata=keywords:{keyword}" for keyword in cited["keywords"]),
    )
    pandoc(text, "markdown", folder, site / "index.html", *options, scripts=style.allowed(lead.script()))
    shutil.copytree(folder / FOLDER, site / FOLDER)


def write_notebooks(folder: Path, site: Path, titles: Mapping[str, str]) -> None:
    """Render a page for each notebook of `titles`, by stem: STEM-preview.html, with STEM.out.ipynb to download. These
    are the addresses that Quarto gives them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # pandoc is a process of its own
        list(pool.map(lambda stem: _write_notebook(folder, site, stem, titles[stem]), titles))


def _write_notebook(folder: Path, site: Path, stem: str, title: str) -> None:
    links = (
        f'<a href="index.html">Back to the manuscript</a> \u00b7 <a href="{stem}.out.ipynb">Download this notebook</a>'
    )
    options = (f"--metadata=pagetitle:{title}", f'--variable=include-before:<p class="back">{links}</p>')
    pandoc(notebook_for_pandoc(folder / f"{stem}.ipynb"), "ipynb", folder, site / f"{stem}-preview.html", *options)
    shutil.copyfile(folder / f"{stem}.ipynb", site / f"{stem}.out.ipynb")


def notebook_for_pandoc(notebook: Path) -> str:
    """The notebook with its figures and tables as HTML: pandoc would prefer the PNG, knows no alternative text, and
    reads no raw HTML in Markdown. Nor does it know the cells' options: folded code is in a box that opens. Of an output
    in Markdown it shows nothing, so that is a cell of its own."""
    content, cells = _read(notebook), list[Any]()
    for cell in content.cells:
        cells.append(cell)
        options, cell.source = _options(cell), _OPTION.sub("", cell.source)
        if "code-fold" in options:
            code = f"<pre><code>{html.escape(cell.source)}</code></pre>"
            folded = f"<details><summary>{options['code-summary']}</summary>{code}</details>"
            cells[-1] = v4.new_raw_cell(folded, id=cell.id, metadata={"raw_mimetype": "text/html"})
        for output in cell.get("outputs", []):
            markdown = output.data.get("text/markdown", "")
            if shown := image(output, options.get("fig-alt", "")) or _bared(markdown):
                output.data = {"text/html": shown}
            elif markdown:
                cells.append(v4.new_markdown_cell(markdown, id=f"{cell.id}-{len(cells)}"))
    content.cells = cells
    return str(nbformat.writes(content))


def pandoc(text: str, source: str, folder: Path, target: Path, *options: str, scripts: str = "'none'") -> None:
    """Write one page that carries all that it shows, in the look of preview.css.

    Args:
        text: in pandoc's format `source`.
        folder: where head.html.jinja and the style sheets are.
        target: the page.
        options: of pandoc, beside those that every page has.
        scripts: which may run, as the page's policy says it.
    """
    # Not pypandoc's `cworkdir`, which changes the folder of the whole process, and so of other threads.
    words = jinja2.Environment(loader=jinja2.FileSystemLoader(folder))
    head = words.get_template("head.html.jinja").render(scripts=scripts)
    arguments = [*_OPTIONS, f"--variable=header-includes:{head}", "--metadata=lang:en", *options]
    page = pypandoc.convert_text(text, "html5", format=source, extra_args=arguments)
    target.write_text(page, encoding="utf-8")


def static_copy(notebook: Path, target: Path) -> None:
    """Copy a notebook with outputs that every renderer may have (see `_safe`), and without when it ran: results that
    are the same again are the same page.

    Quarto loads scripts from the network for widgets, and for HTML as well, so that is raw HTML in Markdown. A labelled
    cell has the anchor that Quarto gives it.
    """
    content = _made_safe(_read(notebook))
    for place in (content, *content.cells):
        for key in ("widgets", "papermill", "execution"):
            place.metadata.pop(key, None)
    for cell in content.cells:
        for tag in {*_FOLDED} & {*cell.metadata.get("tags", [])}:
            cell.id = tag  # papermill draws one at random
            cell.source = f'#| code-fold: true\n#| code-summary: "{_FOLDED[tag]}"\n{cell.source}'
        if label := _options(cell).get("label"):
            cell.id = f"cell-{label}"
        for output in cell.get("outputs", []):
            if "text/html" in output.data:
                output.data["text/markdown"] = raw(output.data.pop("text/html"))
    nbformat.write(content, target)


def notebook_page(executed: Path, title: str) -> str:
    """An executed notebook without its code, as HTML that asks the network for nothing."""
    exporter = HTMLExporter(template_file=str(paths.REPORT / "notebook.html.jinja"), exclude_anchor_links=True)
    page, _ = exporter.from_notebook_node(_made_safe(_read(executed)), {"title": title})
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
        table = _TABLE.search(content)
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
