"""The page of two runs, read as text, and in a real browser: desktop and phone, light and dark."""

import shutil

import pytest
from tests.report.test_page import Page
from tests.studies.test_finished_run import ARMS, right_share, write_answers, write_run
from tests.studies.test_two_runs import BETTER, write_claims
from tests.test_cli import call
from tests.whole.test_page import WIDTHS

from response_priming import paths
from response_priming.studies import finished_run, two_runs_page


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A run of profile laptop, with a page."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    folder = write_run(tmp_path / "build" / "laptop", ARMS, answer_tokens=96)
    page = folder / "report" / "_site" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("The page of laptop.")
    return folder


@pytest.fixture
def other(tmp_path):
    """Writes a second run, elsewhere; returns its path."""

    def write(arms=BETTER, **options):
        return str(write_run(tmp_path / "before this" / "laptop", arms, **options))

    return write


def read(first, second):
    page = Page(two_runs_page.write(str(first), str(second)).read_text())
    page.text = " ".join(page.text.split()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return page


@pytest.mark.usefixtures("build")
def test_page_is_complete_and_says_what_is_compared(other):
    page = read("laptop", other(answer_tokens=48))
    for text in (
        "A is laptop and B is ",
        "answer_tokens evaluate 96 48",
        "Both asked the same problems, so an arm is compared in pairs, problem by problem.",
        "A: n = 60 test problems, 1 training seed; B: n = 60 test problems, 1 training seed; rule last-number.",
        "McNemar's exact test",
        "Neither run has verdicts on them",
    ):
        assert text in page.text
    assert {"tbl-origins", "tbl-parameters", "tbl-accuracy", "fig-accuracy"} <= set(page.ids)
    assert "B minus A lies between +" in page.images[0]["alt"]
    for unresolved in ("{{", "nan", "None", "```", "@"):
        assert unresolved not in page.text
    assert [source for source in page.resources if not source.startswith("data:")] == []
    assert "not recorded" not in page.text


def test_page_lands_below_build_and_is_made_again(build, other):
    second = other()
    first = two_runs_page.write("laptop", second)
    assert first == build.parent / "compare-runs" / "laptop-laptop" / "index.html"
    first.unlink()
    assert two_runs_page.write("laptop", second) == first
    assert first.exists()


def test_explored_run_gives_its_page_a_name_of_its_own(build):
    explored = build / "explored" / "1a2b3c4d"
    write_answers(explored, "none", right_share(0.9), answer_tokens=48)
    page = two_runs_page.write("laptop", str(explored))
    assert page.parent.name == "laptop-laptop-explored-1a2b3c4d"
    text = " ".join(Page(page.read_text()).text.split())
    assert "answer_tokens evaluate 96 48" in text
    assert "Both have 1 arm, of which 1 differs by interval and corrected p: KD, no prompt +" in text


def test_links_lead_to_the_pages_that_there_are(build, other):
    second = finished_run.read(other())
    target = two_runs_page.write("laptop", str(second.folder))
    (link,) = Page(target.read_text()).links
    assert (target.parent / link).resolve() == build / "report" / "_site" / "index.html"
    shutil.copytree(build / "report", second.folder / "report")
    links = Page(two_runs_page.write("laptop", str(second.folder)).read_text()).links
    assert [link.endswith("laptop/report/_site/index.html") for link in links] == [True, True]
    assert "%20" in links[1]


@pytest.mark.usefixtures("build")
def test_page_says_that_nothing_differs(other):
    page = read("laptop", other(ARMS, answer_tokens=96))
    assert "Parameters that differ None: the manifests record the same." in page.text
    assert "Both have 3 arms, of which none differs by interval and corrected p." in page.text
    assert "tbl-parameters" not in page.ids


@pytest.mark.usefixtures("build")
def test_page_says_that_the_samples_are_independent(other):
    page = read("laptop", other({"none": right_share(0.5, n=1319)}, ids="gsm8k"))
    assert (
        "They asked different problems, so the two accuracies of an arm are those of independent samples." in page.text
    )
    assert "B: n = 1,319 test problems" in page.text
    assert "Newcombe's interval and the score test" in page.text
    assert "only A" not in page.text


@pytest.mark.usefixtures("build")
def test_page_says_how_many_problems_are_shared(other):
    page = read("laptop", other({"none": right_share(0.5, n=40)}))
    assert "independent samples; 40 are in both, which makes the intervals rather too wide." in page.text


@pytest.mark.usefixtures("build")
def test_page_says_whose_rule_counts(other):
    page = read("laptop", other(rule="hash"))
    assert (
        "Right is what rule last-number says, also for B; to see both by B's own rule, hash, exchange A and B."
        in page.text
    )


@pytest.mark.usefixtures("build")
def test_page_shows_the_arm_of_one_run_with_an_empty_side(other):
    page = read("laptop", other({"none": ARMS["none"], "teacher": right_share(0.5)}))
    assert "KD, Teacher — " in page.text
    assert "Both have 1 arm, of which none differs" in page.text


@pytest.mark.usefixtures("build")
def test_page_of_runs_without_a_common_arm(other):
    assert "No arm is in both." in read("laptop", other({"teacher": right_share(0.5)})).text


@pytest.mark.usefixtures("build")
def test_page_of_several_seeds(other):
    page = read("laptop", other({"none": right_share(0.5, seeds=3)}))
    assert "B: n = 60 test problems, 3 training seeds" in page.text
    assert "paired bootstrap over problems and seeds" in page.text
    assert "the largest p" in page.text


@pytest.mark.usefixtures("build")
def test_page_names_code_that_differs_and_manifests_that_are_lost(other):
    second = finished_run.read(other())
    shutil.rmtree(second.folder / "students")
    file = second.folder / "scores" / "none" / "seed-0" / "manifest.json"
    file.write_text(file.read_text().replace('"engines": "', '"engines": "changed '))
    page = read("laptop", second.folder)
    assert (
        "The code that made the answers differs as well, and may be what makes a difference: engines.py." in page.text
    )
    assert "not looked at: B's students/fine-tuned/seed-0, B's students/none/seed-0." in page.text


@pytest.mark.usefixtures("build")
def test_page_counts_the_verdicts_that_differ(other):
    second = finished_run.read(other())
    write_claims(finished_run.read("laptop"), {"It helps.": "supported", "Much.": "supported", "Old.": "supported"})
    write_claims(second, {"It helps.": "supported", "Much.": "not supported"})
    page = read("laptop", second.folder)
    assert "Both have 2 verdicts, of which 1 differs." in page.text
    assert "Old. supported —" in page.text


@pytest.mark.usefixtures("build")
def test_page_says_that_one_run_alone_has_verdicts(other):
    write_claims(finished_run.read("laptop"), {"It helps.": "supported"})
    assert "Only one of them has verdicts." in read("laptop", other()).text


# --- the command ---


def test_command_prints_where_the_page_is(build, monkeypatch, capsys):
    from response_priming import cli

    monkeypatch.setattr("sys.argv", ["response-priming", "compare-runs", "laptop", str(build)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 0
    page = build.parent / "compare-runs" / "laptop-laptop" / "index.html"
    assert capsys.readouterr().out == f"The comparison: {page}\n"
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
def opened(request, build, other, open_page, screenshot):  # noqa: ARG001
    name, scheme = request.param
    second = other(BETTER | {"teacher": right_share(0.5)}, answer_tokens=48)
    write_claims(
        finished_run.read("laptop"), {"A claim of the paper that is long enough to be two lines.": "supported"}
    )
    shown = open_page(two_runs_page.write("laptop", second), width=WIDTHS[name], scheme=scheme)
    screenshot(shown, f"compare-runs-{name}-{scheme}")
    return shown


def test_it_fits_the_window_and_has_no_serious_barrier(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(opened).response["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []
