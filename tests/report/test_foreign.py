"""What models, data sets and strangers wrote: shown as it is written, on every page, in a real browser."""

import base64
import json
import re
from html import unescape

import pandas as pd
import pytest
from nbformat import v4
from tests.report.test_page import GIVEN, PROFILE, Page, finish_run, labelled, write_notebook

from response_priming import arms, paths, report, scoring, style
from response_priming.compare import figures as compare_figures
from response_priming.generate import figures as generate_figures
from response_priming.report import preview, variables
from response_priming.studies import figures as studies_figures

SECRET = "what is in a file of whoever renders"
TITLE = 'Dr. <script>window.ran = 1</script> {{< var seed >}} @nobody *b* _i_ `c` | [l](javascript:0) "q" $5 and $6 \\'
LINES = """<script>window.ran = 1</script>
<img src=x onerror="window.ran = 1"><svg onload="window.ran = 1"></svg>
<iframe src="file://FILE"></iframe> <iframe srcdoc="<script>parent.ran = 1</script>"></iframe>
<img src="FILE"> <img src="//example.org/x.png"> <object data="FILE"></object>
<a href="javascript:window.ran = 1">here</a> <meta http-equiv="refresh" content="0; url=https://example.org">
</td></tr></table></pre></script> <style>body { display: none }</style> <link rel="stylesheet" href="FILE">
<think> &lt;b&gt; & &#60;i&#62;
{{< var seed >}} {{< include FILE >}} {{< embed compare.ipynb#tbl-accuracy >}} {{{< var seed >}}}
![x](FILE){#fig-pipeline fig-alt="y"}
It costs $5 and he gives $6 back: $$x^2$$ \\(y\\) \\alpha
@nobody, @goyal2024 and @fig-accuracy
**stars** _lines_ ~~gone~~ [link](https://example.org) `code` | a | b \\
````````````````
```{=html}
<script>window.ran = 1</script>
```
``` {.python}
::: {.callout-note}
: The strategies, verbatim. {#tbl-strategies}
# heading
1. one -- two ... "three"
|:---|:---|
---"""


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    file = tmp_path_factory.mktemp("home") / "secret.txt"
    file.write_text(SECRET)
    return file


@pytest.fixture(scope="module")
def planted(secret):
    """The foreign text."""
    return LINES.replace("FILE", str(secret))


@pytest.fixture(scope="module")
def patch(tmp_path_factory, planted):
    """A finished run below a folder of its own, in which a strategy's title and prefix are foreign."""
    with pytest.MonkeyPatch.context() as patch:
        entries = arms.strategies()
        entries["teacher"] = entries["teacher"] | {"title": TITLE, "prefix": planted}
        patch.setattr(arms, "strategies", lambda: entries)
        patch.setattr(paths, "BUILD", tmp_path_factory.mktemp("build"))
        patch.setattr(variables, "quarto", lambda: None)
        finish_run(paths.BUILD)
        yield patch


def printed(table):
    return v4.new_output("execute_result", data={"text/html": table.to_html(), "text/plain": "a table"})


@pytest.fixture(scope="module")
def outputs(planted):
    """What cells of the notebooks leave of foreign text, by the notebook that they are in."""
    row = {"problem_id": planted, "question": planted, "answer": "1", "response": planted, "finished": True}
    graded = scoring.grade(pd.DataFrame([row | {"arm": "teacher", "strategy": "teacher", "title": TITLE}]))
    compared = graded.assign(correct=False)
    frame, rule = graded[["problem_id", "response"]], "hash"
    with pd.option_context("display.max_colwidth", None):
        plain = frame.to_html()
    shown = style.printed(frame, "samples", {"problem_id": (TITLE, None), "response": ("response", "{}")})
    said = v4.new_output("stream", name="stdout", text=f"     user: {planted}\n")
    return {
        "generate-teacher": [
            said,
            printed(style.printed(generate_figures.samples(graded, rule).reset_index(), "samples")),
            v4.new_output("execute_result", data={"text/html": plain, "text/plain": frame.to_string()}),
        ],
        "distill-teacher": [said, printed(style.printed(frame, "samples"))],
        "evaluate-teacher": [
            v4.new_output("execute_result", data={"text/plain": planted}),
            v4.new_output("display_data", data={"text/html": f"<div>{planted}</div>", "text/plain": planted}),
            v4.new_output("display_data", data={"application/javascript": "window.ran = 1", "text/plain": planted}),
            printed(shown),
        ],
        "compare": [
            printed(compare_figures.shown(type("Found", (), {"samples": compared}), "samples")),
        ],
    }


@pytest.fixture(scope="module")
def site(patch, outputs):  # noqa: ARG001 - the run is a fixture's
    """The page and all others, by their names."""
    folder = paths.BUILD / PROFILE.name / "notebooks"
    for stem, shown in outputs.items():
        cells = [v4.new_code_cell("show()", outputs=[output]) for output in shown]
        if stem == "compare":
            found = json.loads((folder / "compare.ipynb").read_text())["cells"]
            labels = re.findall(r'label: "([\w-]+)"', json.dumps(found).replace("\\", ""))
            data = shown[0].data
            cells = [labelled(name, data=data if name == "tbl-samples" else None) for name in labels if name != "fig-x"]
        write_notebook(folder / f"{stem}.ipynb", *cells, GIVEN)
    index = report.render(PROFILE)
    return {"index": index} | {file.stem.removesuffix("-preview"): file for file in index.parent.glob("*-preview.html")}


PAGES = ["index", "generate-teacher", "distill-teacher", "evaluate-teacher", "compare"]


def words(text):
    return " ".join(text.split())


def unfold(opened):
    opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")


def assert_harmless(opened, file, planted, secret):
    html = file.read_text()
    for form in (SECRET, base64.b64encode(SECRET.encode()).decode()[:20]):
        assert form not in html
    assert opened.evaluate("window.ran") is None
    assert opened.locator(":is(script, iframe, object, link, svg):not(#lead > script)").count() == 0
    assert opened.evaluate("getComputedStyle(document.body).display") != "none"
    unfold(opened)
    said = words(opened.evaluate("document.body.innerText"))
    for line in planted.splitlines():
        assert words(line) in said
    assert "Content-Security-Policy" in html
    assert str(secret) not in " ".join(Page(html).resources + Page(html).links)


@pytest.mark.parametrize("name", PAGES)
def test_foreign_text_is_shown_as_written_and_nothing_runs_or_is_read(site, open_page, planted, secret, name):
    assert_harmless(open_page(site[name]), site[name], planted, secret)


def test_a_strategys_title_is_text_wherever_it_stands(site, open_page):
    opened = open_page(site["index"])
    assert f"the best distilled one, {TITLE}, " in words(opened.locator("body").inner_text())
    assert opened.get_by_role("link", name=f"Generate: {TITLE}", exact=True).count() == 1
    assert open_page(site["generate-teacher"]).title() == f"Generate: {TITLE}"


def test_a_prefix_is_one_cell_of_the_strategies(site, open_page, planted):
    opened = open_page(site["index"])
    unfold(opened)
    rows = opened.locator("#tbl-strategies tbody tr")
    cells = {row.locator("td").first.inner_text(): row.locator("td") for row in rows.all()}
    assert len(cells) == len(PROFILE.strategies)
    assert cells[TITLE].count() == 2
    shown, written = (text.splitlines() for text in (cells[TITLE].nth(1).inner_text(), planted))
    assert list(map(words, shown)) == list(map(words, written))


def test_what_is_staged_for_quarto_has_none_of_its_syntax(site):
    folder = site["index"].parent.parent
    staged = [json.loads(file.read_text())["cells"] for file in folder.glob("*.ipynb")]
    shown = [output["data"] for cells in staged for cell in cells for output in cell.get("outputs", [])]
    assert all(data.keys() <= {"text/markdown", "image/svg+xml", "image/png"} for data in shown)
    raw = ["".join(data["text/markdown"]) for data in shown if "text/markdown" in data]
    assert all(text.startswith("```{=html}\n") and text.endswith("\n```") for text in raw)
    texts = [text[len("```{=html}\n") : -len("\n```")] for text in raw]
    assert any("window.ran" in text for text in texts)
    texts += [(folder / "_strategies.md").read_text(), (folder / "_variables.yml").read_text()]
    assert not [text for text in texts if "{{<" in text or "<script" in text or "```" in text]


def test_the_two_runs_page_shows_foreign_text_as_written(tmp_path, outputs, open_page, planted, secret, monkeypatch):
    found = pd.DataFrame({"title": [TITLE, TITLE], "points": [5.0, -5.0], "p": 0.01})
    about = {"name": "a", "profile": "laptop", "link": None, "lost": [], "seeds": 1, "rule": "hash"}
    run = type("Run", (), about | {"problems": pd.DataFrame({"id": [1]})})
    nothing = pd.DataFrame(columns=["a", "b"])
    for name, value in (("differing", nothing), ("differing_code", []), ("same_problems", True), ("claims", nothing)):
        monkeypatch.setattr(studies_figures, name, lambda *_, value=value: value)
    said = studies_figures.describe(run, run, found.assign(low=1.0, high=2.0))["accuracies"]
    described = v4.new_output("display_data", data={"text/markdown": said, "text/plain": "Markdown"})
    shown = [described, *outputs["distill-teacher"], *outputs["evaluate-teacher"]]
    write_notebook(tmp_path / "runs.ipynb", *(v4.new_code_cell("show()", outputs=[output]) for output in shown))
    file = tmp_path / "index.html"
    file.write_text(report.notebook_page(tmp_path / "runs.ipynb", TITLE))
    opened = open_page(file)
    assert_harmless(opened, file, planted, secret)
    assert opened.title() == TITLE
    assert f"{TITLE} +5.0 points; {TITLE} -5.0 points" in words(opened.locator("body").inner_text())


def test_verbatim_text_is_the_same_text_again_without_a_mark_of_any_syntax(planted):
    assert unescape(style.verbatim(planted)) == planted
    assert not set(re.sub(r"&#\d+;", "", style.verbatim(planted))) & set("<>&`*_{}[]()#+-.!|$@~^:'\"\\=\n")
    assert preview.SHORTCODE.search(style.verbatim(planted)) is None


@pytest.mark.usefixtures("patch")
def test_the_strategies_are_the_words_that_were_written(planted):
    table = variables.strategies_table(PROFILE)
    assert planted in unescape(table)
    assert len(table.splitlines()) == 2 + len(PROFILE.strategies)
