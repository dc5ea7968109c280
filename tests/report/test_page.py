"""The page: staging, and the preview rendered for real, from notebooks and results made here."""

import functools
import itertools
import json
import re
import shutil
import zipfile
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import pypandoc
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat import v4

from response_priming import arms, artifacts, params, paths, style
from response_priming.attention.results import EVERY
from response_priming.audit import discrepancies, recount
from response_priming.errors import InputError
from response_priming.report import cells, checklist, citation, downloads, formats, lead, origins, preview, variables
from response_priming.report import page as report
from response_priming.report.check import check_sources

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="120"><text x="9" y="60">bars</text></svg>'
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CELL = "```\n@none {{< 1"  # what a response may hold: none of it is the manuscript's syntax
TABLE = f"<div><style>td {{}}</style><table><tbody><tr><td>{escape(CELL)}</td></tr></tbody></table></div>"
GIVEN = v4.new_code_cell("seed = 1\nn = 2", metadata={"tags": ["injected-parameters"]})  # papermill's
WIDGET = "application/vnd.jupyter.widget-view+json"
PROFILE = params.load("laptop")
QUARTO = variables.quarto()


def labelled(label, *, options=None, data=None):
    """A published cell as the notebooks have it, with its output."""
    kind = label[:3]
    captions = {f"{kind}-cap": f"Caption of {label}, see @goyal2024."} | (
        {"fig-alt": f'Alt "{label}"'} if kind == "fig" else {}
    )
    chosen = {"label": label} | (captions if options is None else options)
    source = "\n".join(f"#| {key}: {json.dumps(value)}" for key, value in chosen.items()) + "\nshow()"
    data = data or ({"image/svg+xml": SVG, "image/png": PNG} if kind == "fig" else {"text/html": TABLE})
    return v4.new_code_cell(source, outputs=[v4.new_output("display_data", data=data)], execution_count=1)


def write_notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# A notebook\n\nMath $x^2$."), *cells]), path)


def embeds():
    text = (paths.REPORT / "index.qmd").read_text()
    targets = [match["value"] for match in preview.SHORTCODE.finditer(text) if match["name"] == "embed"]
    return [tuple(target.split("#")) for target in targets]


def finish_run(root):
    """A finished `laptop` run below `root`: executed notebooks, and the stage folders that the prose reads."""
    exploratory = labelled("fig-x", data={"image/png": PNG})
    exploratory.source = '#| fig-alt: "Bars."\nplot()'
    defaults = v4.new_code_cell("seed = 0\nn = 2", metadata={"tags": ["parameters"]})
    for stem in report.notebook_titles(PROFILE):
        shown = [label for notebook, label in embeds() if notebook == f"{stem}.ipynb"]
        named = [cell.removeprefix("cell-") for notebook, cell in origins.CELLS.values() if notebook == stem]
        cells = [labelled(label) for label in dict.fromkeys(shown + named) if label[:3] in ("fig", "tbl")]
        write_notebook(root / "laptop" / "notebooks" / f"{stem}.ipynb", defaults, GIVEN, exploratory, *cells)
    write_comparison(root / "laptop" / "comparison")
    write_results(root / "laptop" / "audit", variables=released())
    write_results(root / "laptop" / "claims", claims=pd.DataFrame({"verdict": ["supported", "not supported"]}))
    write_attention(root / "laptop" / "attention")


def write_comparison(folder, points=10.0):
    """What the stage leaves of four arms; `points`: the best primed arm's gain over the unprimed one."""
    about = {"profile": "laptop", "seed": 0, "dataset": "procedural", "n_train": 512, "n_test": 200, "rule": "hash"}
    shares = {"undistilled": 0.185, "fine-tuned": 0.305, "none": 0.405, "teacher": 0.505}
    rows = [{"arm": arm, "accuracy": share, "low": share - 0.05, "high": share + 0.05} for arm, share in shares.items()]
    rows = [row | {"accuracy_finished": row["accuracy"]} for row in rows]
    gain = {"low": 2, "high": 19, "relative": 0.26, "relative_low": 0.04, "relative_high": 0.52, "p": 0.012}
    gain |= {"alone_low": 3, "alone_high": 18, "alone_p": 0.01, "detectable": 9.0, "needed_problems": np.nan}
    gain |= {"needed_seeds": np.nan, "n": 200}
    pairs = [("none", "undistilled", 22.0), ("teacher", "undistilled", 32.0), ("teacher", "none", points)]
    pairs += [("ground-truth", "none", 8.0), ("teacher", "fine-tuned", 20.0)]
    gains = [
        {"arm": arm, "baseline": one, "points": by, "differ": 40, "seeds": 1, "clusters": 200} | gain
        for arm, one, by in pairs
    ]
    leaked = [{"split": "train", "n": 200, "exact": 0, "numbers": 0, "near": 0, "threshold": 0.4}]
    taught = [{"arm": "none", "accuracy": 0.6}, {"arm": "teacher", "accuracy": 0.7}]
    lengths = [row | {"accuracy": row["accuracy"] / n, "calculations": n} for row in rows for n in (1, 2)]
    by_rule = [row | {"rule": rule} for row in rows for rule in ("hash", "last-number")]
    ends = {"n": 200, "seeds": 1, "problems_low": 0.1, "problems_high": 0.6}
    slices = [row | ends | {"title": arms.title(row["arm"]), "calculations": None, "seed": None} for row in by_rule]
    confident = [{"arm": "none", "auroc": 0.7}, {"arm": "teacher", "auroc": None}]
    made = {"accuracy": rows, "gains": gains, "teacher": taught, "lengths": lengths, "leakage": leaked}
    made |= {"rules": by_rule, "slices": slices, "calibration": confident}
    write_results(
        folder,
        about | {"teacher": "embedded", "student": "embedded", "precision": "float32"},
        **{name: pd.DataFrame(table) for name, table in made.items()},
    )


def write_results(folder, variables=None, **tables):
    """What the stages compare, audit and claims leave: variables, and tables, all that the page has as downloads."""
    with artifacts.writing(folder, {}) as aside:
        (aside / "variables.json").write_text(json.dumps(variables))
        for name in downloads.COPIED[folder.name]:
            tables.get(name, pd.DataFrame({"arm": ["none"], "n": [200]})).to_csv(aside / f"{name}.csv", index=False)


@functools.cache
def released():
    """What the audit of the recorded counts says."""
    facts = arms.published()
    counts = facts["recount"]
    return discrepancies.numbers(counts, facts, recount.tabulate(counts, facts)) | {
        "source": "Recorded counts.", "disputed": 0, "survives": []
    }  # fmt: skip


def write_attention(folder):
    """What the stage leaves: tables, and the maps of one text for one arm with one head."""
    about = {"problem": "test-0", "tokens": ["a", "b"], "positions": [0, 1], "solution": 2}
    maps = np.array([[[[255, 0], [180, 180]]]], dtype=np.uint8)
    with artifacts.writing(folder, {}) as aside:
        np.savez(aside / "explorer.npz", **{f"{key}/0": value for key, value in about.items()}, **{"none/0": maps})
        pd.DataFrame({"p_holm": [np.nan], "p_students": [np.nan]}).to_parquet(aside / "tests.parquet")
        pd.DataFrame({"layer": [0], "head": [0]}).to_parquet(aside / "divergent.parquet")
        rows = pd.DataFrame({"prompt": [0, 1], "layer": 0, "head": 0, "region": "prompt", "arm": "none", "seed": 0})
        rows.assign(**{key: [1.0, 3.0] for key in EVERY}).to_parquet(aside / "metrics.parquet")


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A run of one's own, to stage, render or spoil."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    monkeypatch.setattr(variables, "quarto", lambda: None)
    finish_run(tmp_path)
    return tmp_path / "laptop"


def rendered(root, quarto):
    """The page of a run below `root`, by this Quarto, or as a preview where that is None."""
    finish_run(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root)
        patch.setattr(variables, "quarto", lambda: quarto)
        return report.render(PROFILE)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The preview of a run, rendered once, to look at."""
    return rendered(tmp_path_factory.mktemp("build"), None)


@pytest.fixture
def install_quarto(build, tmp_path, monkeypatch):
    """Puts a shell script in Quarto's place."""

    def install(script):
        fake = tmp_path / "quarto"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(variables, "quarto", lambda: str(fake))
        return build

    return install


class Page(HTMLParser):
    """What a page's tags say: ids, images, local links, requested resources and visible text."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.images, self.links, self.resources, self.text = [], [], [], [], ""
        self.hidden = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.hidden += tag in ("style", "script")
        self.text += "\n" if tag == "br" else ""
        self.ids += [values["id"]] if "id" in values else []
        self.images += [values] if tag == "img" else []
        self.links += [values["href"]] if tag == "a" and "href" in values else []
        self.resources += [values[key] for key in ("src", "srcset", "data", "poster") if key in values]
        self.resources += [values["href"]] if tag == "link" else []

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data):
        self.text += "" if self.hidden else data


# --- the real sources ---


def test_results_hold_no_number_typed_by_hand():
    text = (paths.REPORT / "index.qmd").read_text()
    results = text[text.index("\n# Results") : text.index("\n# Threats to validity")]
    assert "\n# What the released code" in results
    typed = preview.REFERENCE.sub("", preview.SHORTCODE.sub("", results))
    assert not re.findall(r".*\d.*", typed)


def test_every_bibliography_entry_is_cited():
    text = (paths.REPORT / "index.qmd").read_text()
    cited = {match["key"] for match in preview.REFERENCE.finditer(text)}
    entries = set(re.findall(r"^@\w+\{(\w+),", (paths.REPORT / "references.bib").read_text(), re.MULTILINE))
    assert entries <= cited


def test_every_embedded_figure_and_table_is_referred_to():
    text = (paths.REPORT / "index.qmd").read_text()
    referred = {match["key"] for match in preview.REFERENCE.finditer(text)}
    assert set(preview.numbers(text)) <= referred


def test_three_figures_and_five_tables_are_in_sight_and_the_rest_is_folded():
    text = (paths.REPORT / "index.qmd").read_text()
    assert text.count("<details>") == text.count("</details>") == text.count("</summary>")
    in_sight = [*preview.numbers(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL))]
    assert sorted(label[:3] for label in in_sight) == ["fig"] * 3 + ["tbl"] * 5


@pytest.mark.parametrize(("notebook", "label"), embeds())
def test_a_caption_has_forty_words_at_most(notebook, label):
    options = cells.labelled_cells(paths.NOTEBOOKS / notebook)[label].options
    assert len(options[f"{label[:3]}-cap"].split()) <= 40


def test_quarto_is_asked_for_what_its_users_expect():
    config = yaml.safe_load((paths.REPORT / "_quarto.yml").read_text())
    html, typst = config["format"]["html"], config["format"]["typst"]
    assert set(html["theme"]) == {"light", "dark"}
    assert html["respect-user-color-scheme"]
    assert html["html-math-method"] == "mathml"
    assert html["code-fold"] == "show"
    assert all(html[f"{kind}-hover"] for kind in ("citations", "crossrefs", "footnotes"))
    assert typst["citeproc"]
    # A name among the links keeps Quarto from adding each format under its own: Typst, where a PDF is meant.
    assert {link.get("text") if isinstance(link, dict) else link for link in html["format-links"]} == {
        "PDF",
        "Word",
        "JATS XML",
        "html",
    }
    assert {link["href"] for link in html["format-links"] if "href" in link} == set(formats.FORMATS)
    assert typst["filters"] == [{"path": "html.lua", "at": "pre-ast"}, {"path": "one-file.lua", "at": "post-render"}]
    assert 'figure.where(kind: "quarto-float-fig"): set figure(placement: auto)' in typst["include-in-header"]["text"]
    assert html["appendix-cite-as"] is False  # an item that is in no list
    assert config["manuscript"]["meca-bundle"] is False
    assert config["manuscript"]["resources"] == [f"{downloads.FOLDER}/*"]
    assert config["execute"] == {"enabled": False}


def test_no_theme_or_style_asks_the_network_for_a_font():
    config = yaml.safe_load((paths.REPORT / "_quarto.yml").read_text())
    for named in config["format"]["html"]["theme"].values():
        for theme in [named] if isinstance(named, str) else named:
            assert theme == "default" or (paths.REPORT / theme).is_file()
    for file in [*paths.REPORT.glob("*.scss"), *paths.REPORT.glob("*.css")]:
        assert "http" not in file.read_text()


# As Quarto's style sheets have them.
QUARTO_LOOK = """
.citation a { text-decoration: none; }
#title-block-header.quarto-title-block.default .keywords .block-title { opacity: .8; }
.quarto-color-scheme-toggle.top-right .bi::before { content: "x"; }
figure.quarto-float-tbl figcaption.quarto-float-caption-top { text-align: center; }
.table { width: 100%; }
main { max-width: 600px; }
"""
QUARTO_PAGE = """
<div id="title-block-header" class="quarto-title-block default">
<p class="keywords"><b class="block-title">Keywords</b></p></div>
<a class="quarto-color-scheme-toggle top-right"><i class="bi"></i></a>
<div id="quarto-content"><main>
<p><span class="citation"><a href="#x">2024</a></span> SHA</p><pre><code>SHA</code></pre>
<figure class="quarto-float-tbl"><figcaption class="quarto-float-caption-top quarto-float-caption">Table</figcaption>
<div class="cell-output"><table class="table"><tr><td style="text-align: right">SHA</td></tr></table></div></figure>
</main></div>
"""


def test_what_quarto_makes_faint_plain_or_too_wide_is_not(tmp_path, open_page):
    page = tmp_path / "page.html"
    styles = QUARTO_LOOK + (paths.REPORT / "styles.css").read_text()
    page.write_text(f"<style>{styles}</style>{QUARTO_PAGE.replace('SHA', 'f' * 64)}")
    opened = open_page(page, width=390)
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    opened.set_viewport_size({"width": 1280, "height": 1000})
    look = "([place, part, key]) => getComputedStyle(document.querySelector(place), part)[key]"
    assert opened.evaluate(look, [".block-title", "", "opacity"]) == "1"
    assert opened.evaluate(look, [".citation a", "", "textDecorationLine"]) == "underline"
    assert opened.evaluate(look, ["figcaption", "", "textAlign"]) == "left"
    assert "invert" in opened.evaluate(look, [".bi", "::before", "filter"])
    assert opened.locator(".cell-output").bounding_box()["width"] > 600  # the margin beside the text is empty
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# --- staging ---


@pytest.mark.usefixtures("build")
def test_quarto_lists_the_embedded_notebooks_and_renders_none():
    config = yaml.safe_load((report.stage(PROFILE) / "_quarto.yml").read_text())
    assert config["manuscript"]["notebooks"] == []
    entries = config["format"]["html"]["notebook-view"]
    listed = [entry["notebook"] for entry in sorted(entries, key=lambda entry: entry["order"])]
    embedded = {notebook for notebook, _ in embeds()}
    assert listed == [f"{stem}.ipynb" for stem in report.notebook_titles(PROFILE) if f"{stem}.ipynb" in embedded]
    assert set(listed) == embedded
    assert config["project"]["type"] == "manuscript"


@pytest.mark.usefixtures("build")
def test_quarto_and_the_page_cite_the_same_work():
    about = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    folder, made = report.stage(PROFILE), variables.made(PROFILE)
    config = yaml.safe_load((folder / "_quarto.yml").read_text())
    assert config["author"] == [{"name": {"literal": author["name"]}} for author in about["authors"]]
    assert config["date"] == made["day"]
    cited = config["citation"]
    assert {key: cited[key] for key in ("type", "title", "version")} == {
        key: about[key] for key in ("type", "title", "version")
    }
    assert cited["note"] == f"Profile laptop, commit {made['commit']}"
    entry = " ".join((folder / "_citation.md").read_text().split())
    assert entry.startswith(f"``` @software{{{cited['id']},")
    for said in (cited["title"], about["authors"][0]["name"], config["date"][:4], cited["version"], cited["note"]):
        assert said in entry
    assert f"license = {{{about['license']}}}" in entry


@pytest.mark.usefixtures("build")
def test_quartos_metadata_is_that_of_the_citation_file_and_of_the_run():
    about = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    folder = report.stage(PROFILE)
    config = yaml.safe_load((folder / "_quarto.yml").read_text())
    assert config["keywords"] == about["keywords"]
    assert config["license"]["text"] == about["license"]
    assert config["copyright"]["statement"] == f"© {config['date'][:4]} {about['authors'][0]['name']}"
    abstract = config["citation"]["abstract"]
    assert abstract == unescape(origins.bare(yaml.safe_load((folder / "_variables.yml").read_text())["abstract"]))
    for mark in ("&#", "](", "@", "not run"):
        assert mark not in abstract
    assert "18.5\u00a0%" in abstract
    assert "url" not in config["citation"]  # of an address that no file names
    assert "code-links" not in config["manuscript"]


@pytest.mark.usefixtures("build")
def test_the_address_of_the_code_and_an_affiliation_are_passed_on_where_a_file_has_them(monkeypatch):
    about = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    people = [{"given-names": "Ada", "family-names": "Lovelace", "affiliation": "London"}]
    about |= {"repository-code": "https://code.example/paper", "authors": people}
    monkeypatch.setattr(citation, "_about", lambda: about)
    folder = report.stage(PROFILE)
    config = yaml.safe_load((folder / "_quarto.yml").read_text())
    assert config["citation"]["url"] == config["manuscript"]["code-links"][0]["href"] == about["repository-code"]
    assert config["author"] == [{"name": {"literal": "Ada Lovelace"}, "affiliations": [{"name": "London"}]}]
    assert f"{{{about['repository-code']}}}" in (folder / "_citation.md").read_text()
    html = report.render(PROFILE).read_text()
    assert f'content="{about["repository-code"]}"' in html
    assert f'href="{about["repository-code"]}"' in html


@pytest.mark.usefixtures("build")
def test_stage_writes_every_variable_as_text():
    values = yaml.safe_load((report.stage(PROFILE) / "_variables.yml").read_text())
    assert [key for key in values if not key.endswith("_folded")] == variables.known()
    assert all(isinstance(value, str) and value for value in values.values())


def test_staged_notebooks_hold_neither_widgets_nor_progress_bars(build):
    states = ("\r  0%|  | 0/64 [00:00<?]", "\r 50%|# | 32/64 [00:01<00:01]\n\x1b[A", "\r        \rnext\n")
    bars = [v4.new_output("stream", name="stderr", text=text) for text in states]
    widget = v4.new_output("display_data", data={WIDGET: {"model_id": "x"}, "text/plain": "HBox()"})
    said = v4.new_output("stream", name="stdout", text="accuracy: 50% | 32 of 64\n")
    write_notebook(
        build / "notebooks" / "distill-teacher.ipynb", v4.new_code_cell("train()", outputs=[*bars, widget, said])
    )
    staged = nbformat.read(report.stage(PROFILE) / "distill-teacher.ipynb", as_version=4)
    (kept,) = staged.cells[1].outputs
    assert kept.data["text/markdown"] == "```{=html}\n" + f"<pre>{said.text}</pre>" + "\n```"


def test_a_staged_table_is_nothing_but_a_table_whose_cells_say_how_they_are_aligned(build):
    styled = (
        pd.DataFrame({"arm": ["none"], "n": [200]})
        .style.hide(axis="index")
        .set_table_styles([{"selector": ".col1", "props": "text-align: right"}])
    )
    output = v4.new_output("display_data", data={"text/html": styled.to_html()})
    write_notebook(build / "notebooks" / "distill-teacher.ipynb", v4.new_code_cell("table", outputs=[output]))
    staged = nbformat.read(report.stage(PROFILE) / "distill-teacher.ipynb", as_version=4).cells[1].outputs[0]
    html = staged.data["text/markdown"]
    assert html.startswith("```{=html}\n<table")
    assert html.endswith("</table>\n```")
    cells = re.findall(r"<t[hd] ([^>]*)>(\w+)", html)
    assert {text: "text-align: right" in tag for tag, text in cells} == {
        "arm": False,
        "none": False,
        "n": True,
        "200": True,
    }


@pytest.mark.usefixtures("build")
def test_both_cells_of_parameters_are_folded_for_quarto():
    staged = nbformat.read(report.stage(PROFILE) / "distill-none.ipynb", as_version=4)
    for cell in staged.cells[1:3]:
        assert cell.source.startswith('#| code-fold: true\n#| code-summary: "Parameters: ')
        assert cell.source.endswith("n = 2")


def test_both_cells_of_parameters_are_folded_in_the_preview(page):
    html = (page.parent / "distill-none-preview.html").read_text()
    folded = re.findall(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", html, re.DOTALL)
    assert [summary for summary, _ in folded] == ["Parameters: their defaults", "Parameters: those of this run"]
    assert all("seed" in code and "#|" not in code for _, code in folded)
    assert "plot()" in html


# A cell whose last statement shows a figure.
SHOWS = re.compile(r"^(?:\w+\.\w*figure|axes\.set)\(", re.MULTILINE)


@pytest.mark.parametrize("file", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_every_cell_that_shows_a_figure_says_what_it_shows(file):
    for cell in nbformat.read(file, as_version=4).cells:
        if cell.cell_type == "code" and SHOWS.search(cell.source):
            alt = re.search(r'^#\| fig-alt: "(.+)"$', cell.source, re.MULTILINE)
            assert alt, cell.id
            assert len(alt[1].split()) > 8, cell.id


def test_the_drawing_of_the_method_can_be_read_on_a_phone():
    drawn = (paths.REPORT / "pipeline.svg").read_text()
    width = float(re.search(r'viewBox="0 0 (\d+) ', drawn)[1])
    assert min(float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", drawn)) * 340 / width >= 12
    assert "#fff" not in drawn


def test_a_missing_notebook_is_named(build):
    (build / "notebooks" / "evaluate-teacher.ipynb").unlink()
    with pytest.raises(InputError, match=r"evaluate-teacher\.ipynb: not made yet"):
        report.stage(PROFILE)


@pytest.mark.usefixtures("build")
@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("primed_gain:", "other:", "unknown variable 'primed_gain'"),
        ("gain(primed_gain)", "gain(no_gain)", r"variables\.yml\.jinja: 'no_gain' is undefined"),
        ("{% else %}", "{% otherwise %}", r"variables\.yml\.jinja: Encountered unknown tag 'otherwise'"),
        ("seed: {{", "seed: - {{", r"variables\.yml\.jinja: sequence entries are not allowed"),
    ],
)
def test_a_mistake_in_the_variables_is_named(tmp_path, monkeypatch, written, instead, message):
    sources = shutil.copytree(paths.REPORT, tmp_path / "sources")
    monkeypatch.setattr(paths, "REPORT", sources)
    template = sources / variables.TEMPLATE
    template.write_text(template.read_text().replace(written, instead))
    with pytest.raises(InputError, match=message):
        report.stage(PROFILE)


def test_a_failed_staging_leaves_what_was_there(build):
    before = report.stage(PROFILE) / "index.qmd"
    write_notebook(build / "notebooks" / "compare.ipynb")
    with pytest.raises(InputError, match="tbl-leakage"):
        report.stage(PROFILE)
    assert before.exists()
    assert not list(build.glob(".*"))


# --- the page ---


def test_nothing_is_left_unresolved(page):
    text = Page(page.read_text()).text.replace("@software", "")
    assert CELL in text
    for mark in ("{{<", "@", ":::", "```", "???", "{#", "{=html}"):
        assert mark not in text.replace(CELL, "")


def test_the_page_says_that_it_is_the_pandoc_preview(page):
    assert "pandoc preview of the manuscript, not Quarto" in Page(page.read_text()).text.replace("\n", " ")


def test_values_of_variables_reach_the_prose(page):
    text = Page(page.read_text()).text
    for said in ("The undistilled student scores 18.5 %", "2.0 to 19.0 points", "head 0 of layer 0"):
        assert said in text.replace("\n", " ").replace("\u00a0", " ")
    assert "make paper PROFILE=laptop" in text


def test_figures_and_tables_are_numbered_in_order_and_captioned(page):
    captions = re.findall(r'<figure id="((?!lead)[\w-]+)".*?<figcaption>\s*<p>(.*?):', page.read_text(), re.DOTALL)
    numbered = preview.numbers((paths.REPORT / "index.qmd").read_text())
    assert [label for label, _ in captions] == ["fig-pipeline", *(label for _, label in embeds())]
    assert all(number == numbered[label] for label, number in captions)
    figures = [number for label, number in captions if label.startswith("fig")]
    assert figures == [f"Figure\u00a0{number}" for number in range(1, len(figures) + 1)]


def test_cross_references_read_as_their_targets_number(page):
    numbered = preview.numbers((paths.REPORT / "index.qmd").read_text())
    links = re.findall(r'<a\s+href="#((?:fig|tbl)-[\w-]+)">(.*?)</a>', page.read_text(), re.DOTALL)
    assert {label for label, _ in links} == set(numbered)
    assert all(text == numbered[label] for label, text in links)


def test_every_image_has_its_alternative_text_and_its_data(page):
    images = Page(page.read_text()).images
    drawn, *embedded = [image["alt"] for image in images]
    assert drawn.startswith("Three rows of boxes joined by arrows.")
    assert embedded == [f'Alt "{label}"' for _, label in embeds() if label.startswith("fig")]
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in images)


def test_the_strategies_are_a_table_of_the_page_with_their_caption(page):
    found = re.search(r'<table[^>]*id="tbl-strategies".*?</table>', page.read_text(), re.DOTALL)
    assert found
    for name in PROFILE.strategies:
        assert escape(arms.strategies()[name]["title"]) in found[0]
    assert "<caption>" in found[0]


def test_links_inside_the_site_lead_somewhere(page):
    parsed = {file: Page(file.read_text()) for file in page.parent.rglob("*.html")}
    for file, own in parsed.items():
        for link in own.links:
            target, _, anchor = link.partition("#")
            if not target.startswith("http"):
                assert (file.parent / target).exists()
            if not target.startswith("http") and target != "explorer.html":  # whose anchors say what it shows
                assert not anchor or anchor in parsed[file.parent / target if target else file].ids


def test_each_embed_is_followed_by_the_way_to_its_cell(page):
    staged = (page.parent.parent / "index.qmd").read_text()
    titles = report.notebook_titles(PROFILE)
    for notebook, label in embeds():
        stem = notebook.removesuffix(".ipynb")
        line = f"[Source: [{titles[stem]}]({stem}-preview.html#cell-{label})]{{.source}}"
        assert f"{{{{< embed {notebook}#{label} >}}}}\n\n{line}\n" in staged
        assert f"{stem}-preview.html#cell-{label}" in Page(page.read_text()).links


def test_the_contents_in_the_page_are_its_sections(page):
    html = page.read_text()
    ours, pandocs = (
        re.findall(r'<a href="#([\w-]+)"', re.search(rf"<{part}.*?</{part[:7].split()[0]}>", html, re.DOTALL)[0])
        for part in ('details class="contents"', 'nav id="TOC"')
    )
    assert ours == pandocs


def test_the_head_that_the_text_names_opens_in_the_explorer(page, open_page):
    (link,) = {link for link in Page(page.read_text()).links if link.startswith("explorer.html#")}
    name, _, state = link.partition("#")
    assert state == "layer=0&head=0"
    assert "1 arm, each in its first training seed" in page.with_name(name).read_text()
    explorer = open_page(page.with_name(name), state=f"#{state}")
    explorer.get_by_text("layer 0, head 0, test-0: ").wait_for()
    assert not explorer.locator("#notice").is_visible()


def test_ids_are_unique(page):
    ids = Page(page.read_text()).ids
    assert len(set(ids)) == len(ids)


def test_no_page_requests_anything(page):
    for file in (page, *page.parent.glob("*-preview.html")):
        html = file.read_text()
        assert all(resource.startswith("data:") for resource in Page(html).resources)
        assert "@import" not in html
        assert not re.search(r"url\(\s*['\"]?(?!data:|#)", html)
        running = re.findall(r'<script(?! type="application/json")', html)
        assert len(running) == (file == page)  # the lead figure's own
        allowed = style.allowed(lead.script()) if file == page else "'none'"
        assert f"script-src {allowed};" in html


def test_what_a_cell_says_in_markdown_is_on_its_page(build):
    said = v4.new_output("display_data", data={"text/markdown": "- **First** do this, not *that*.", "text/plain": "-"})
    cell = v4.new_code_cell("say()", outputs=[said], id="says")
    stem = "distill-teacher"
    write_notebook(build / "notebooks" / f"{stem}.ipynb", cell)
    page = report.render(PROFILE).parent / f"{stem}-preview.html"
    assert re.search(r"<li>\s*<strong>First</strong> do this, not\s+<em>that</em>.\s*</li>", page.read_text())


def test_every_notebook_has_a_page_that_the_manuscript_links(page):
    links = Page(page.read_text()).links
    for stem in report.notebook_titles(PROFILE):
        assert f"{stem}-preview.html" in links
        assert all(image.get("alt") for image in Page((page.parent / f"{stem}-preview.html").read_text()).images)


def test_every_notebook_can_be_downloaded_from_the_page_and_from_its_own(page):
    links = Page(page.read_text()).links
    for stem in report.notebook_titles(PROFILE):
        assert f"{stem}.out.ipynb" in links
        assert f"{stem}.out.ipynb" in Page((page.parent / f"{stem}-preview.html").read_text()).links
        nbformat.validate(nbformat.read(page.parent / f"{stem}.out.ipynb", as_version=4))


def test_every_table_of_results_can_be_downloaded(page):
    files = {file.name for file in (page.parent / downloads.FOLDER).iterdir()}
    assert len(files) == len([*itertools.chain(*downloads.COPIED.values())]) + 5
    assert {f"{downloads.FOLDER}/{name}" for name in files} <= set(Page(page.read_text()).links)


def test_the_page_says_how_to_cite_it(page):
    text = Page(page.read_text()).text
    assert "How to cite" in text
    assert "@software{" in text
    assert "Profile laptop, commit" in text


def test_the_preview_says_to_machines_and_to_readers_what_quarto_says(page):
    config = yaml.safe_load((page.parent.parent / "_quarto.yml").read_text())
    tags = dict(re.findall(r'<meta name="([\w.]+)" content="(.*?)"', page.read_text(), re.DOTALL))
    assert unescape(tags["citation_abstract"]) == config["citation"]["abstract"]
    assert tags["citation_author"] == tags["author"] == config["author"][0]["name"]["literal"]
    assert tags["citation_publication_date"] == tags["dcterms.date"] == config["date"]
    assert tags["citation_title"] == config["citation"]["title"]
    assert tags["citation_keywords"] == tags["keywords"] == ", ".join(config["keywords"])
    assert tags["dcterms.license"] == config["license"]["url"]
    text = " ".join(Page(page.read_text()).text.split())
    assert f"Keywords: {', '.join(config['keywords'])}. Licence: MIT." in text
    assert {*formats.FORMATS} <= {*Page(page.read_text()).links}


def test_the_page_is_there_for_word_with_its_figures_tables_and_references(page):
    with zipfile.ZipFile(page.with_name("index.docx")) as file:
        content = ElementTree.fromstring(file.read("word/document.xml"))
        links = re.findall(r'Target="([^"]+)"[^>]*External', file.read("word/_rels/document.xml.rels").decode())
        pictures = [name for name in file.namelist() if name.startswith("word/media/")]
    word = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
    text = "".join(part.text or "" for part in content.iter(f"{word}t"))
    figures = [label for _, label in embeds() if label.startswith("fig")]
    assert len(list(content.iter(f"{word}drawing"))) == len(figures) + 1
    assert {Path(name).suffix for name in pictures} <= {".png", ".svg"}
    assert len(list(content.iter(f"{word}tbl"))) >= len(embeds()) - len(figures)
    for said in ("Does it help to prime the teacher?", "Figure\u00a01: ", "Enhancing Knowledge Distillation"):
        assert said in text
    assert all(link.startswith("http") for link in links)


def test_the_same_results_are_the_same_file_for_word(page, tmp_path):
    folder = page.parent.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", folder.parent.parent)
        texts = yaml.safe_load((folder / "_variables.yml").read_text())
        formats.write(folder, tmp_path, citation.metadata(PROFILE, texts))
    for name in formats.FORMATS:
        assert (tmp_path / name).read_bytes() == page.with_name(name).read_bytes()


def test_the_page_is_there_as_jats_with_its_metadata_and_references(page):
    content = ElementTree.fromstring(
        re.sub(r"<!DOCTYPE.*?>", "", page.with_name("index.xml").read_text(), flags=re.DOTALL)
    )
    config = yaml.safe_load((page.parent.parent / "_quarto.yml").read_text())
    meta = content.find("front/article-meta")
    assert meta.findtext("title-group/article-title") == "Does it help to prime the teacher?"
    assert " ".join("".join(meta.find("abstract/p").itertext()).split()) == " ".join(
        config["citation"]["abstract"].split()
    )
    assert [word.text for word in meta.findall("kwd-group/kwd")] == config["keywords"]
    assert meta.findtext("permissions/license/license-p") == "MIT"
    entries = re.findall(r"^@\w+\{(\w+),", (paths.REPORT / "references.bib").read_text(), re.MULTILINE)
    assert {ref.get("id") for ref in content.iter("ref")} == {f"ref-{entry}" for entry in entries}
    labelled = {part.get("id") for kind in ("fig", "table") for part in content.iter(kind)}
    assert {label for _, label in embeds()} <= labelled
    targets = {link.get("{http://www.w3.org/1999/xlink}href") for link in content.iter("ext-link")}
    assert all(target.startswith("http") for target in targets)


def test_in_a_format_that_is_one_file_a_link_to_another_is_text():
    text = "[a](compare-preview.html#cell-x) [b](results/a.csv) [c](#sec) [d](https://e.org/f) [e](mailto:a@b.org)"
    options = [f"--lua-filter={paths.REPORT / 'one-file.lua'}"]
    typst = pypandoc.convert_text(text + "\n\n# S {#sec}", "typst", format="markdown", extra_args=options)
    assert re.findall(r"#link\((.+?)\)\[(\w)\]", typst) == [
        ("<sec>", "c"),
        ('"https://e.org/f"', "d"),
        ('"mailto:a@b.org"', "e"),
    ]
    assert typst.startswith("a b ")
    line = "shown\n\n" + preview.source("compare.ipynb#fig-x", "Compare")
    assert pypandoc.convert_text(line, "typst", format="markdown", extra_args=options).split() == ["shown"]


def test_in_a_format_that_is_one_file_html_is_read_and_what_a_fold_is_called_is_a_paragraph():
    shown = "<table><tbody><tr><td style='text-align: right'>&lt; 0.001</td></tr></tbody></table>"
    text = f"<details><summary>Short *words*</summary>\n\n{cells.raw(shown)}\n\nLong.\n\n</details>"
    lead = cells.raw(f'<figure id="lead">{shown}</figure>')
    options = [f"--lua-filter={paths.REPORT / 'html.lua'}"]
    typst = pypandoc.convert_text(f"{lead}\n\n{text}", "typst", format="markdown", extra_args=options)
    assert typst.startswith("#strong[Short #emph[words]]\n\n#figure(")
    assert "[\\< 0.001]" in typst
    assert "align: right" in typst


def test_in_a_format_that_is_one_file_a_cell_is_no_box_of_its_own():
    text = "::: {#cell-x .cell}\n:::: {.cell-output .cell-output-display}\nshown\n::::\n:::\n\n::: {.other}\nkept\n:::"
    options = [f"--lua-filter={paths.REPORT / 'one-file.lua'}"]
    assert pypandoc.convert_text(text, "typst", format="markdown", extra_args=options).count("#block[") == 1


@pytest.mark.usefixtures("build")
def test_every_answer_of_the_checklist_has_a_sentence_and_a_link_that_leads_somewhere():
    lines = [line for line in (report.stage(PROFILE) / "_checklist.md").read_text().splitlines() if line[:1].isdigit()]
    assert len(lines) == 16
    for line in lines:
        assert re.fullmatch(
            r"\d+\. \*\*[\w ]+: (Yes|No|NA)\.\*\* [A-Z0-9].+\]\([^)]+\)\.?( \(Answered by a person\.\))?", line
        )
    by_machine = [line for line in lines if "by a person" not in line]
    assert len(by_machine) >= 0.9 * len(lines)
    said = (report.stage(PROFILE) / "_checklist.md").read_text()
    assert f"Of these {len(lines)} answers, {len(by_machine)} were made by machine" in said
    assert len(checklist.BY_A_PERSON) == len(lines) - len(by_machine)


def test_no_page_is_heavy(page):
    for file in (page, *page.parent.glob("*-preview.html")):
        assert file.stat().st_size < 3e6


def test_citations_appear_in_the_references(page):
    html = page.read_text()
    assert 'id="ref-goyal2024"' in html
    assert "Response-Priming" in html.partition('id="refs"')[2]


def test_equations_are_mathml(page):
    assert "<math" in page.read_text()


def test_rendering_again_changes_nothing_until_a_result_does(build):
    page = report.render(PROFILE)
    before = page.stat().st_ino
    assert report.render(PROFILE) == page
    assert page.stat().st_ino == before
    write_comparison(build / "comparison", points=11.5)
    assert "11.5\u00a0points" in report.render(PROFILE).read_text()


# Quarto renders no notebook whose page and download it finds, unless the notebook is younger.
QUARTO_SAYS = """
[ "$1 $3 $5" = "render --output-dir --no-clean" ] || exit 2
for made in "$2/$4/compare-preview.html" "$2/$4/compare.out.ipynb"; do
  [ -e "$made" ] || exit 3
  [ "$2/compare.ipynb" -nt "$made" ] && exit 4
done
echo "[1/5] compare.ipynb"
printf '\\033[33mWARN: Unable to resolve crossref @fig-x\\033[39m\\n' >&2
echo "[WARNING] Citeproc: citation x not found" >&2
echo "WARNING (/filters/main.lua:123) odd" >&2
echo "a warning in passing" >&2
echo rendered > "$2/$4/index.html"
"""


def test_what_quarto_says_is_kept_and_its_warnings_are_counted(install_quarto, capsys):
    build = install_quarto(QUARTO_SAYS)
    site = report.render(PROFILE).parent
    log = build / "report" / report.LOG
    assert "[1/5] compare.ipynb\n" in log.read_text()
    assert "WARN: Unable to resolve crossref" in log.read_text()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Quarto warned" in line]
    assert line == f"{paths.shown(log)}: Quarto warned of 3 things"
    assert (site / "index.html").read_text() == "rendered\n"
    endings = ("-preview.html", ".out.ipynb")
    written = [f"{stem}{ending}" for stem in report.notebook_titles(PROFILE) for ending in endings]
    assert all((site / name).exists() for name in (*written, *formats.FORMATS))


def test_quarto_renders_where_it_is_installed(install_quarto):
    build = install_quarto('[ "$1 $3" = "render --output-dir" ] && echo rendered > "$2/$4/index.html"')
    page = report.render(PROFILE)
    assert page.read_text() == "rendered\n"
    assert "test-0, 2 tokens" in page.with_name("explorer.html").read_text()
    values = yaml.safe_load((build / "report" / "_variables.yml").read_text())
    assert values["renderer"] == "Quarto"


@pytest.mark.usefixtures("build")
@pytest.mark.skipif(QUARTO is None, reason="Quarto is not installed")
def test_quartos_page_has_what_the_preview_has(monkeypatch):
    monkeypatch.setattr(variables, "quarto", lambda: QUARTO)
    site = report.render(PROFILE).parent
    assert not report.WARNING.findall((site.parent / report.LOG).read_text())
    text, config = (site / "index.html").read_text(), yaml.safe_load((site.parent / "_quarto.yml").read_text())
    links = re.findall(r'<a href="#((?:fig|tbl)-[\w-]+)"[^>]*quarto-xref[^>]*>(.*?)</a>', text, re.DOTALL)
    numbered = preview.numbers((paths.REPORT / "index.qmd").read_text())
    assert {label for label, _ in links} == set(numbered)
    assert all(unescape(re.sub("<.*?>", "", shown)) == numbered[label] for label, shown in links)
    parsed = Page(text)
    for notebook, label in embeds():
        assert f"{notebook.removesuffix('.ipynb')}-preview.html#cell-{label}" in parsed.links
    for stem in report.notebook_titles(PROFILE):
        assert f"{stem}-preview.html" in parsed.links
        assert (site / f"{stem}-preview.html").exists()
    for file in site.glob("*.html"):
        assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', file.read_text())
    assert 'class="contents"' in text
    for tag, said in {
        "citation_title": config["citation"]["title"],
        "citation_abstract": config["citation"]["abstract"],
    }.items():
        # Quarto writes a character reference as another one's text.
        found = unescape(unescape(re.search(rf'<meta name="{tag}" content="(.*?)"', text, re.DOTALL)[1]))
        assert found.split() == said.split()
    assert {"index.pdf", *formats.FORMATS} <= set(parsed.links)
    assert all((site / name).exists() for name in ("index.pdf", *formats.FORMATS))
    assert "Typst" not in parsed.text
    assert "MIT" in text.partition('id="quarto-reuse"')[2]


@pytest.mark.parametrize("script", ["echo first >&2; echo ERROR: no such filter >&2; exit 1", "true"])
def test_a_failure_of_quarto_is_one_line_and_leaves_no_page(install_quarto, script):
    build = install_quarto(script)
    with pytest.raises(InputError, match=r"quarto render failed: (ERROR: no such filter|no index\.html)$"):
        report.render(PROFILE)
    assert not (build / "report" / "_site").exists()


# --- what the preview refuses ---


def test_options_that_are_not_yaml_are_named(tmp_path):
    cell = v4.new_code_cell("#| label: fig-a\n#| fig-cap: a: b", id="accuracy-figure")
    write_notebook(tmp_path / "nb.ipynb", cell)
    with pytest.raises(InputError, match=r"cell accuracy-figure: .* not YAML"):
        cells.labelled_cells(tmp_path / "nb.ipynb")


def test_a_label_must_be_one_cells_own(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", labelled("fig-a"), labelled("fig-a"))
    with pytest.raises(InputError, match="label 'fig-a' occurs twice"):
        cells.labelled_cells(tmp_path / "nb.ipynb")


@pytest.mark.parametrize(("label", "kind"), [("fig-a", "figure"), ("tbl-a", "table")])
def test_a_cell_that_shows_nothing_is_named(tmp_path, label, kind):
    write_notebook(tmp_path / "nb.ipynb", labelled(label, data={"text/plain": "42"}))
    with pytest.raises(InputError, match=f"nb.ipynb#{label}: the executed cell shows no {kind}"):
        preview.expand(f"{{{{< embed nb.ipynb#{label} >}}}}", tmp_path, {})


def test_a_figure_without_svg_is_shown_as_png(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", labelled("fig-a", data={"image/png": PNG}))
    assert f"data:image/png;base64,{PNG}" in preview.expand("{{< embed nb.ipynb#fig-a >}}", Path(tmp_path), {})


def test_a_folder_whose_name_has_a_colon_renders(tmp_path):
    folder = shutil.copytree(paths.REPORT, tmp_path / "my paper: é")
    options = ("--citeproc", f"--bibliography={folder / 'references.bib'}")
    preview.pandoc("As shown before [@goyal2024].", "markdown", folder, folder / "page.html", *options)
    assert "Enhancing Knowledge Distillation" in (folder / "page.html").read_text()


# --- where its numbers are from ---

# The title block and sections without results; what is beside a number of theirs is no link.
WITHOUT = {
    "", "the-question", "method", "threats-to-validity", "related-methods", "how-to-reproduce-this-page",
    "reproducibility-checklist", "how-to-cite", "notebooks", "references",
}  # fmt: skip
# What looks like a number of a result and is none: references to figures, tables and publications, and their own.
APART = "a[href^='#'], .citation, code"


def test_every_number_in_the_sections_with_results_leads_to_its_origin(page):
    html, section, linked, left = BeautifulSoup(page.read_text(), "html.parser"), "", [], []
    for other in html.select(f"figure, table, nav, details.contents, {APART}"):
        other.decompose()
    for element in html.select("h1[id], p, li, summary"):
        section = element["id"] if element.name == "h1" else section
        if element.name != "h1" and section not in WITHOUT:
            linked += [link.extract().text for link in element.select("a.number, a.parameter, summary span.number")]
            left += re.findall(r"[^.]*(?<![A-Za-z\d])\d.*", element.text.replace("95\u00a0% interval", ""))
    assert left == []
    assert len([text for text in linked if re.search(r"\d", text)]) > 50


@pytest.mark.usefixtures("build")
def test_what_was_tried_is_on_the_page_that_is_made_next():
    assert "points" not in (report.stage(PROFILE) / "_variables.yml").read_text().partition("train_steps:")[2][:400]
    tried = {"train_steps": ["80 (KD, no prompt): +3.5 points (-1.0 to 8.0)"]}
    values = yaml.safe_load((report.stage(PROFILE, tried) / "_variables.yml").read_text())
    assert "+3.5\u00a0points (-1.0 to 8.0)" in values["train_steps"]


def test_a_number_from_a_cell_that_is_not_there_is_named(build):
    notebook = build / "notebooks" / "compare.ipynb"
    notebook.write_text(notebook.read_text().replace("tbl-calibration", "tbl-other"))
    folder = build.parent / "sources"
    shutil.copytree(paths.REPORT, folder)
    cells.static_copy(notebook, folder / "compare.ipynb")
    known = {"a": origins.Origin("compare-preview.html#cell-tbl-calibration", "a file")}
    texts = dict.fromkeys(variables.known(), "") | {"p": origins.linked("7", "a", known=known)}
    (folder / "index.qmd").write_text("{{< var p >}}")
    with pytest.raises(InputError, match=r"'p' has a number from compare-preview.html#cell-tbl-calibration, which is"):
        check_sources(folder, folder, texts)
