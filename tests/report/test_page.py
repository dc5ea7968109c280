"""The page: staging, and the preview rendered for real, from notebooks and results made here."""

import functools
import itertools
import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from nbformat import v4

from response_priming import arms, artifacts, params, paths
from response_priming.attention.results import EVERY
from response_priming.audit import discrepancies, recount
from response_priming.errors import InputError
from response_priming.report import downloads, lead, preview, variables
from response_priming.report import page as report

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="120"><text x="9" y="60">bars</text></svg>'
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CELL = "```\n@none {{< 1"  # what a response may hold: none of it is the manuscript's syntax
TABLE = f"<div><style>td {{}}</style><table><tbody><tr><td>{escape(CELL)}</td></tr></tbody></table></div>"
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
    exploratory.source = "plot()"
    for stem in report.notebook_titles(PROFILE):
        cells = [labelled(label) for notebook, label in embeds() if notebook == f"{stem}.ipynb"]
        write_notebook(root / "laptop" / "notebooks" / f"{stem}.ipynb", exploratory, *cells)
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


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The preview of a run, rendered once, to look at."""
    root = tmp_path_factory.mktemp("build")
    finish_run(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root)
        patch.setattr(variables, "quarto", lambda: None)
        return report.render(PROFILE)


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
    options = preview.labelled_cells(paths.NOTEBOOKS / notebook)[label].options
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
    assert config["manuscript"]["resources"] == [f"{downloads.FOLDER}/*.csv"]
    assert config["execute"] == {"enabled": False}


def test_no_theme_or_style_asks_the_network_for_a_font():
    config = yaml.safe_load((paths.REPORT / "_quarto.yml").read_text())
    for named in config["format"]["html"]["theme"].values():
        for theme in [named] if isinstance(named, str) else named:
            assert theme == "default" or (paths.REPORT / theme).is_file()
    for file in [*paths.REPORT.glob("*.scss"), *paths.REPORT.glob("*.css")]:
        assert "http" not in file.read_text()


# --- staging ---


@pytest.mark.usefixtures("build")
def test_stage_lists_the_profiles_notebooks_for_quarto():
    config = yaml.safe_load((report.stage(PROFILE) / "_quarto.yml").read_text())
    entries = config["manuscript"]["notebooks"]
    listed = [entry["notebook"] for entry in sorted(entries, key=lambda entry: entry["order"])]
    assert listed == [f"{stem}.ipynb" for stem in report.notebook_titles(PROFILE)]
    assert config["project"]["type"] == "manuscript"


@pytest.mark.usefixtures("build")
def test_quarto_and_the_page_cite_the_same_work():
    about = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    config = yaml.safe_load((report.stage(PROFILE) / "_quarto.yml").read_text())
    assert config["author"] == [{"name": {"literal": author["name"]}} for author in about["authors"]]
    assert config["date"] == variables.made(PROFILE)["day"]
    entry = " ".join((report.stage(PROFILE) / "_citation.md").read_text().split())
    for said in (about["title"], about["authors"][0]["name"], config["date"][:4], config["citation"]["note"]):
        assert said in entry


@pytest.mark.usefixtures("build")
def test_stage_writes_every_variable_as_text():
    values = yaml.safe_load((report.stage(PROFILE) / "_variables.yml").read_text())
    assert list(values) == variables.known()
    assert all(isinstance(value, str) and value for value in values.values())


def test_staged_notebooks_hold_neither_widgets_nor_progress_bars(build):
    states = ("\r  0%|  | 0/64 [00:00<?]", "\r 50%|# | 32/64 [00:01<00:01]\n\x1b[A", "\r        \rnext\n")
    bars = [v4.new_output("stream", name="stderr", text=text) for text in states]
    widget = v4.new_output("display_data", data={WIDGET: {"model_id": "x"}, "text/plain": "HBox()"})
    said = v4.new_output("stream", name="stdout", text="accuracy: 50% | 32 of 64\n")
    write_notebook(
        build / "notebooks" / "distill-none.ipynb", v4.new_code_cell("train()", outputs=[*bars, widget, said])
    )
    staged = nbformat.read(report.stage(PROFILE) / "distill-none.ipynb", as_version=4)
    (kept,) = staged.cells[1].outputs
    assert kept.data["text/markdown"] == "```{=html}\n" + f"<pre>{said.text}</pre>" + "\n```"


def test_a_staged_table_is_nothing_but_a_table_whose_cells_say_how_they_are_aligned(build):
    styled = (
        pd.DataFrame({"arm": ["none"], "n": [200]})
        .style.hide(axis="index")
        .set_table_styles([{"selector": ".col1", "props": "text-align: right"}])
    )
    output = v4.new_output("display_data", data={"text/html": styled.to_html()})
    write_notebook(build / "notebooks" / "distill-none.ipynb", v4.new_code_cell("table", outputs=[output]))
    staged = nbformat.read(report.stage(PROFILE) / "distill-none.ipynb", as_version=4).cells[1].outputs[0]
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


def test_the_manuscript_links_the_explorer(page):
    assert "explorer.html" in Page(page.read_text()).links
    assert "1 arm, each in its first training seed" in (page.parent / "explorer.html").read_text()


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
        allowed = lead.digest() if file == page else "'none'"
        assert f"script-src {allowed};" in html


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
    assert len(files) == len([*itertools.chain(*downloads.COPIED.values())]) + 3
    assert {f"{downloads.FOLDER}/{name}" for name in files} <= set(Page(page.read_text()).links)


def test_the_page_says_how_to_cite_it(page):
    text = Page(page.read_text()).text
    assert "How to cite" in text
    assert "@software{" in text
    assert "Profile laptop, commit" in text


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


def test_quarto_renders_where_it_is_installed(install_quarto):
    build = install_quarto('[ "$1 $3" = "render --output-dir" ] && echo rendered > "$2/$4/index.html"')
    page = report.render(PROFILE)
    assert page.read_text() == "rendered\n"
    assert "test-0, 2 tokens" in page.with_name("explorer.html").read_text()
    values = yaml.safe_load((build / "report" / "_variables.yml").read_text())
    assert values["renderer"] == "Quarto"


@pytest.mark.usefixtures("build")
@pytest.mark.skipif(QUARTO is None, reason="Quarto is not installed")
def test_quarto_warns_of_nothing_and_numbers_figures_and_tables_as_the_preview_does(monkeypatch):
    monkeypatch.setattr(variables, "quarto", lambda: QUARTO)
    folder = report.stage(PROFILE)
    done = subprocess.run([QUARTO, "render", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr
    text = (folder / "_site" / "index.html").read_text()
    links = re.findall(r'<a href="#((?:fig|tbl)-[\w-]+)"[^>]*quarto-xref[^>]*><span>(.*?)</span>', text)
    numbered = preview.numbers((paths.REPORT / "index.qmd").read_text())
    assert {label for label, _ in links} == set(numbered)
    assert all(unescape(shown) == numbered[label] for label, shown in links)


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
        preview.labelled_cells(tmp_path / "nb.ipynb")


def test_a_label_must_be_one_cells_own(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", labelled("fig-a"), labelled("fig-a"))
    with pytest.raises(InputError, match="label 'fig-a' occurs twice"):
        preview.labelled_cells(tmp_path / "nb.ipynb")


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
