"""The notebook of two runs, executed and rendered by the command; its page read as text, and in a real browser."""

import pytest
from made_runs import ARMS, BETTER, right_share, write_claims, write_run
from tests.report.test_page import Page
from tests.test_cli import call
from tests.whole.test_page import WIDTHS

from response_priming import paths
from response_priming.studies import two_runs


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A run with a page and one elsewhere; the command as it ended, and the page that it made."""
    root = tmp_path_factory.mktemp("runs")
    first = write_run(root / "build" / "laptop", ARMS, answer_tokens=96)
    second = write_run(root / "before this" / "laptop", BETTER | {"teacher": right_share(0.5)}, answer_tokens=48)
    page = first / "report" / "_site" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("The page of laptop.")
    write_claims(
        two_runs.read_run(str(first)), {"A claim of the paper that is long enough to be two lines.": "supported"}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root / "build")
        yield call("compare-runs", "laptop", second), root / "build" / "compare-runs" / "laptop-laptop" / "index.html"


def test_the_command_prints_where_the_page_is(compared):
    done, page = compared
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"The comparison: {page}\n"


def test_the_page_is_complete_and_carries_all_that_it_shows(compared):
    _, file = compared
    page = Page(file.read_text())
    text = " ".join(page.text.split())
    build = file.parents[2]
    for said in (
        f"laptop and {build.parent}/before this/laptop, side by side",
        f"A is {build}/laptop and B is {build.parent}/before this/laptop. Their own pages: A, profile laptop.",
        "answer_tokens evaluate 96 48",
        "Both asked the same problems, so an arm is compared problem by problem.",
        "A: n = 60 test problems, 1 training seed; B: n = 60 test problems, 1 training seed.",
        "B minus A lies between +",
        "Student's, over problems, paired where both asked them, and with several students over these, too",
        "Only one of them has verdicts.",
        "long enough to be two lines. supported —",
    ):
        assert said in text
    assert {"tbl-origins", "tbl-parameters", "tbl-accuracy", "fig-accuracy", "tbl-claims"} <= set(page.ids)
    assert page.images[0]["alt"].startswith("Dot plot")
    for unresolved in ("{{", "nan", "None", "```", "@", "#|", "studies."):
        assert unresolved not in text
    assert [source for source in page.resources if not source.startswith("data:")] == []
    assert "<script" not in file.read_text()
    assert "not recorded" not in text
    (link,) = page.links
    assert (file.parent / link).resolve() == build / "laptop" / "report" / "_site" / "index.html"


def test_the_page_is_made_again(compared):
    done, page = compared
    page.unlink()
    assert call(*done.args).stdout == done.stdout
    assert page.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "A or B is missing: name two runs, as in `make compare A=laptop B=single-gpu`"),
        (["laptop", ""], "A or B is missing: name two runs, as in `make compare A=laptop B=single-gpu`"),
        (["labtop", "laptop"], "labtop: neither a profile ("),
        (["params", "laptop"], "params: not a run to compare: a run has comparison/"),
    ],
)
def test_command_refuses_in_one_line(arguments, message):
    done = call("compare-runs", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"response-priming: {message}")
    assert len(done.stderr.splitlines()) == 1


# --- in the browser ---


@pytest.fixture(params=[(name, scheme) for name in WIDTHS for scheme in ("light", "dark")], ids="-".join)
def opened(request, compared, open_page, screenshot):
    name, scheme = request.param
    shown = open_page(compared[1], width=WIDTHS[name], scheme=scheme)
    screenshot(shown, f"compare-runs-{name}-{scheme}")
    return shown


def test_it_fits_the_window_and_has_no_serious_barrier(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(opened).response["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []
