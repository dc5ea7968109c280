"""The manuscript where there is no Quarto: its syntax resolved here, the rest rendered by pandoc.

Of Quarto's Markdown this knows what index.qmd uses and pandoc lacks: `{{< var KEY >}}`, `{{< embed NB.ipynb#LABEL >}}`,
`{{< include FILE >}}`, `{#tbl-x}` behind a table's caption, `{#fig-x fig-alt="..."}` behind an image, and `@fig-x` or
`@tbl-x`. `report.check_sources` has refused what does not resolve.

Responses, problems and strategies are foreign text. What shows them is sanitised as it is staged (`cells.static_copy`),
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
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pypandoc
import yaml
from nbformat import v4

from response_priming import style
from response_priming.errors import InputError
from response_priming.report import citation, lead
from response_priming.report.cells import TABLE, Cell, labelled_cells, options_of, raw, read, unraw
from response_priming.report.downloads import FOLDER

SHORTCODE = re.compile(r"\{\{<\s*(?P<name>\w+)\s+(?P<value>\S+)\s*>\}\}")
TABLE_CAPTION = re.compile(r"^: (?P<caption>.+) \{#(?P<label>tbl-[\w-]+)\}$", re.MULTILINE)
IMAGE = re.compile(
    r'^!\[(?P<caption>.+)\]\((?P<file>\S+)\)\{#(?P<label>fig-[\w-]+) fig-alt="(?P<alt>[^"]+)"\}$', re.MULTILINE
)
REFERENCE = re.compile(r"(?<![\w/.])@(?P<key>[A-Za-z][\w-]*\w)")  # a cross-reference or a citation

_OPTION = re.compile(r"^#\|.*\n?", re.MULTILINE)
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
    found = TABLE.search(content)
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
    content, cells = read(notebook), list[Any]()
    for cell in content.cells:
        cells.append(cell)
        options, cell.source = options_of(cell), _OPTION.sub("", cell.source)
        if "code-fold" in options:
            code = f"<pre><code>{html.escape(cell.source)}</code></pre>"
            folded = f"<details><summary>{options['code-summary']}</summary>{code}</details>"
            cells[-1] = v4.new_raw_cell(folded, id=cell.id, metadata={"raw_mimetype": "text/html"})
        for output in cell.get("outputs", []):
            markdown = output.data.get("text/markdown", "")
            if shown := image(output, options.get("fig-alt", "")) or unraw(markdown):
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
