"""Figures, tables and sentences of made-up studies; those of the ladder are tested where it is climbed."""

import re
import shutil
from pathlib import Path

import optuna
import pytest
from made_runs import ARMS, BETTER, right_share, write_answers, write_claims
from optuna.trial import TrialState

from response_priming.studies import figures, two_runs

# --- the search ---


@pytest.fixture
def study():
    """Four trials that ran to their end and one that was pruned."""
    study = optuna.create_study(direction="maximize")
    rows = [(0.1, 1.0, 0.5), (0.9, 2.0, 0.25), (0.5, 5.0, 0.75), (0.4, 3.0, 0.5), (0.2, 4.0, None)]
    for alpha, temperature, accuracy in rows:
        values = {"alpha": alpha, "kd_temperature": temperature}
        ranges = {name: optuna.distributions.FloatDistribution(0, 10) for name in values}
        state = TrialState.COMPLETE if accuracy is not None else TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(
                params=values, distributions=ranges, value=accuracy, state=state, user_attrs={"n": 4}
            )
        )
    return study


def test_the_history_has_every_trial_its_interval_and_the_best_so_far(study):
    (axes,) = figures.history_figure(study).axes
    points, *_, best, pruned = axes.lines
    assert points.get_ydata().tolist() == [50, 25, 75, 50]
    assert best.get_ydata().tolist() == [50, 50, 75, 75]
    assert pruned.get_xdata().tolist() == [4]
    low, high = axes.collections[0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((15.0, 85.0), abs=0.1)  # Wilson's of two of four
    assert axes.get_ylabel() == "Accuracy on 4\nvalidation problems (%)"


def test_the_surface_shows_where_every_trial_was(study):
    axes = figures.surface_figure(study).axes[0]
    assert axes.collections[-1].get_offsets().tolist() == [[0.1, 1], [0.9, 2], [0.5, 5], [0.4, 3]]
    assert axes.lines[0].get_xydata().tolist() == [[0.2, 4]]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_trials_have_a_surface_of_points(study, count):
    few = optuna.create_study(direction="maximize")
    few.add_trials([*study.trials[:count], study.trials[-1]])
    assert len(figures.surface_figure(few).axes[0].collections[-1].get_offsets()) == count
    figures.history_figure(few)


def test_every_trial_is_printed_with_its_numbers_rounded(study):
    shown = figures.shown_trials(study).to_html()
    best, pruned = (re.findall(rf'row{row}_col\d+" [^>]*>(.*?)</td>', shown) for row in (2, 4))
    assert best == ["2", "complete", "0.750", "4", "0.500", "5.000", ""]
    assert pruned[1:4] == ["pruned", "", "4"]


# --- two runs ---


def said_of(part, a, b):
    return figures.describe(a, b, two_runs.accuracies(a, b))[part]


def accuracies_said(a, b):
    return said_of("accuracies", a, b)


def test_the_figure_names_both_accuracies_of_every_arm(runs):
    a = ARMS | {"teacher": right_share(1.1)}
    found = two_runs.accuracies(*runs(a, BETTER))
    (axes,) = figures.accuracies_figure(found).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[4:] == ["KD, no prompt", "", "KD, Teacher"]
    said = [text.get_text() for text in axes.texts]
    assert said[4:] == [f"A {100 * ARMS['none'].mean():.1f}", f"B {100 * BETTER['none'].mean():.1f}", "A 100.0"]
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "D"]
    assert "white" in faces
    assert len(faces) == 2


def test_links_lead_from_here_to_the_pages_that_there_are(runs, tmp_path, monkeypatch):
    a, b = runs(ARMS, BETTER)
    here = tmp_path / "compare-runs" / "a-b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert said_of("runs", a, b) == f"A is `{a.folder}` and B is `{b.folder}`."
    page = b.home / "report" / "_site" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("The page of B.")
    said = said_of("runs", a, b)
    (link,) = re.findall(r"Their own pages: \[B, profile laptop\]\((.+)\)\.$", said)
    assert not Path(link).is_absolute()
    assert (here / link).resolve() == page


def test_a_link_may_hold_no_blank(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(build, tmp_path / "before this" / "laptop")
    page = tmp_path / "before this" / "laptop" / "report" / "_site" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("The page of B.")
    said = said_of("runs", two_runs.read_run("laptop"), two_runs.read_run("before this/laptop"))
    assert said.startswith("A is `laptop` and B is ")
    assert "(before%20this/laptop/report/_site/index.html)" in said


def test_nothing_differs(runs):
    a, b = runs(ARMS, ARMS)
    assert said_of("parameters", a, b) == "None: the manifests record the same."
    assert figures.shown_parameters(a, b) is None
    assert "- Both have 3 arms, of which none differs by interval and corrected p." in accuracies_said(a, b)


def test_pairs_are_said_to_be_pairs(runs):
    a, b = runs(ARMS, BETTER)
    said, shown = accuracies_said(a, b), figures.shown_accuracies(two_runs.accuracies(a, b)).to_html()
    assert "Both asked the same problems, so an arm is compared problem by problem." in said
    assert "A: n = 60 test problems, 1 training seed; B: n = 60 test problems, 1 training seed." in said
    assert "only A" in shown


def test_independent_samples_are_said_to_be_independent(runs):
    a, b = runs(ARMS, {"none": right_share(0.5, n=1319)}, of_b={"ids": "gsm8k"})
    said, shown = accuracies_said(a, b), figures.shown_accuracies(two_runs.accuracies(a, b)).to_html()
    assert "They asked different problems, so the accuracies of an arm are of independent samples." in said
    assert "B: n = 1,319 test problems" in said
    assert "only A" not in shown


def test_shared_problems_are_counted(runs):
    said = accuracies_said(*runs(ARMS, {"none": right_share(0.5, n=40)}))
    assert "independent samples but for 40 that are in both." in said


def test_it_is_said_whose_rule_counts(runs):
    assert (
        "Right is what rule `last-number` says, also for B; to see both by B's own rule, `hash`, exchange A and B."
        in accuracies_said(*runs(ARMS, BETTER, of_b={"rule": "hash"}))
    )


def test_an_arm_of_one_run_has_an_empty_side_in_the_table(runs):
    a, b = runs(ARMS, {"none": ARMS["none"], "teacher": right_share(0.5)})
    shown = figures.shown_accuracies(two_runs.accuracies(a, b)).to_html()
    row = next(row for row in shown.split("<tr>") if "KD, Teacher" in row)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[:3] == ["KD, Teacher", "", ""]
    assert cells[3].endswith("%")
    assert "Both have 1 arm, of which none differs" in accuracies_said(a, b)


def test_runs_without_a_common_arm_are_said_to_have_none(runs):
    assert "No arm is in both." in accuracies_said(*runs(ARMS, {"teacher": right_share(0.5)}))


def test_several_seeds_are_counted(runs):
    said = accuracies_said(*runs(ARMS, {"none": right_share(0.5, seeds=3)}))
    assert "B: n = 60 test problems, 3 training seeds" in said


def test_an_explored_arm_is_compared_alone(build):
    explored = build / "explored" / "1a2b3c4d"
    write_answers(explored, "none", right_share(0.9), answer_tokens=48)
    a, b = two_runs.read_run("laptop"), two_runs.read_run(str(explored))
    assert "answer_tokens" in figures.shown_parameters(a, b).to_html()
    assert "Both have 1 arm, of which 1 differs by interval and corrected p: KD, no prompt +" in accuracies_said(a, b)


def test_code_that_differs_and_manifests_that_are_lost_are_named(runs):
    a, b = runs(ARMS, BETTER)
    shutil.rmtree(b.folder / "students")
    file = b.folder / "scores" / "none" / "seed-0" / "manifest.json"
    file.write_text(file.read_text().replace('"engines": "', '"engines": "changed '))
    said = said_of("parameters", a, two_runs.read_run(str(b.folder)))
    assert "The code that made the answers differs as well, and may be what makes a difference: `engines.py`." in said
    assert "not looked at: B's `students/fine-tuned/seed-0`, B's `students/none/seed-0`." in said


def test_verdicts_that_differ_are_counted(runs):
    a, b = runs(ARMS, BETTER)
    assert said_of("claims", a, b) == "Neither run has verdicts on them; `make paper` makes them."
    assert figures.shown_claims(a, b) is None
    write_claims(a, {"It helps.": "supported", "Much.": "supported", "Old.": "supported"})
    assert said_of("claims", a, b) == "Only one of them has verdicts."
    write_claims(b, {"It helps.": "supported", "Much.": "not supported"})
    assert said_of("claims", a, b) == "Both have 2 verdicts, of which 1 differs."
    shown = re.findall(r"<td[^>]*>(.*?)</td>", figures.shown_claims(a, b).to_html())
    assert shown[-3:] == ["Old.", "supported", "—"]
