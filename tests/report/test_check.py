"""The check of the manuscript: what it refuses, and that the real sources pass."""

import pytest
from tests.report.test_page import labelled, write_notebook

from response_priming import paths
from response_priming.errors import InputError
from response_priming.report.check import check_sources


def test_every_name_in_the_manuscript_exists_in_the_source_notebooks():
    check_sources(paths.REPORT, paths.NOTEBOOKS)


# --- what it refuses ---


@pytest.fixture
def sources(tmp_path):
    """A small manuscript; `check(text)` checks it with another text."""
    (tmp_path / "references.bib").write_text("@misc{known,\n title={T}}\n")
    write_notebook(tmp_path / "nb.ipynb", labelled("fig-a", options={"fig-cap": "c", "fig-alt": "a"}))

    def check(text):
        (tmp_path / "index.qmd").write_text(text)
        check_sources(tmp_path, tmp_path)

    check("{{< embed nb.ipynb#fig-a >}} @fig-a [@known] {{< var seed >}} me@example.org")
    return check


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{< var nothing >}}", "unknown variable 'nothing'"),
        ("{{< var seed }}", "malformed shortcode"),
        ("{{< video x.mp4 >}}", "unknown shortcode 'video'"),
        ("{{< include _other.md >}}", "names _other.md, but there is no such file"),
        ('![Caption](gone.svg){#fig-gone fig-alt="Text"}', "names gone.svg, but there is no such file"),
        ("{{< embed other.ipynb#fig-a >}}", r"no .*other\.ipynb"),
        ("{{< embed nb.ipynb#fig-b >}}", "fig-b; labels of that notebook: fig-a"),
        ("@fig-a", "@fig-a is neither"),
        ("[@unknown]", "@unknown is neither"),
    ],
)
def test_check_names_what_does_not_resolve(sources, text, named):
    with pytest.raises(InputError, match=named):
        sources(text)


@pytest.mark.parametrize(("label", "missing"), [("fig-a", "fig-alt"), ("fig-a", "fig-cap"), ("tbl-a", "tbl-cap")])
def test_check_demands_captions_and_alternative_text(sources, tmp_path, label, missing):
    options = {key: "x" for key in (f"{label[:3]}-cap", "fig-alt") if key != missing}
    write_notebook(tmp_path / "nb.ipynb", labelled(label, options=options))
    with pytest.raises(InputError, match=rf"cell {label} has no `#\| {missing}:`"):
        sources(f"{{{{< embed nb.ipynb#{label} >}}}}")
