import json
import re
import shutil
from dataclasses import replace
from io import StringIO

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from response_priming import arms, artifacts, engines, notebooks, params, paths, problems
from response_priming.compare import comparison, figures, leakage
from response_priming.errors import InputError
from response_priming.extraction import RULES
from response_priming.generate import store
from response_priming.scoring import grade

ACCURACY = {
    "undistilled": 0.1, "undistilled-examples": 0.2, "fine-tuned": 0.6, "none": 0.3, "teacher": 0.5,
    "ground-truth": 0.45, "confidence": 0.4,
}  # fmt: skip
PROFILE = params.load("laptop")


def write_scores(arm, ids=None, **changed):
    asked = problems.load(PROFILE.problems, "test", PROFILE.problems.n_test, seed=0)
    right = np.random.default_rng(len(arm)).random(len(asked)) < ACCURACY[arm]
    table = pd.DataFrame(
        {
            "problem_id": ids or [problem.id for problem in asked],
            "question": [problem.question for problem in asked],
            "answer": [problem.answer for problem in asked],
            "template": [problem.template for problem in asked],
            "calculations": [problem.solution.count("<<") for problem in asked],
            "response": [f"#### {p.answer}" if one else "<<1+1=2>> NaN" for p, one in zip(asked, right, strict=True)],
            "tokens": 9,
            "finished": right,
            "mean_logprob": -np.random.default_rng(0).random(len(asked)),
        }
    )
    run = PROFILE.run("evaluate", arm=arm)
    parameters = run.model_dump(exclude={"profile", "seeds", "rule", "n_train", "data_dir"}) | changed
    recipe = artifacts.decided_by("evaluate", parameters, [], code=["evaluate.answers"])
    with artifacts.writing(run.scores_of(arm, 0), recipe) as folder:
        grade(table).to_parquet(folder / "answers.parquet", index=False)


def write_student(arm):
    steps = np.arange(1, 25)
    soft = 2 / steps if arm in arms.strategies() else np.nan
    recipe = artifacts.decided_by("distill", {"arm": arm}, [], code=["distill.training"])
    with artifacts.writing(paths.BUILD / "laptop" / "students" / arm / "seed-0", recipe) as folder:
        losses = pd.DataFrame({"step": steps, "loss": 1.5 / steps, "hard": 1 / steps, "soft": soft})
        losses.to_parquet(folder / "losses.parquet", index=False)


def write_responses(strategy, **changed):
    asked = problems.load(PROFILE.problems, "train", PROFILE.problems.n_train, seed=0)
    run = PROFILE.run("generate", strategy=strategy)
    top = engines.Signal(np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float16), np.zeros(3, np.float16))
    rows = [
        store.Answered(
            p.id, 0, p.id, 5, engines.Response([1, 2, 0], f"#### {p.answer if number % 4 else 0}", True, top)
        )
        for number, p in enumerate(asked)
    ]
    parameters = run.model_dump(exclude={"profile", "n_test"}) | changed
    recipe = artifacts.decided_by("generate", parameters, [], code=["generate.teacher"])
    with artifacts.writing(run.build / "responses" / strategy, recipe) as folder:
        store.write_shard(folder / store.shard_name(0), rows[::-1], vocabulary=2)
        pd.DataFrame({"kept": [True] * len(rows)}).to_parquet(folder / store.KEPT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A complete set of artefacts of the default profile, made up, and their comparison: (folder, comparison)."""
    root = tmp_path_factory.mktemp("build")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root)
        for arm in PROFILE.arms:
            write_scores(arm)
        for arm in PROFILE.trained:
            write_student(arm)
        for strategy in PROFILE.strategies:
            write_responses(strategy)
        return root / "laptop", comparison.compare(PROFILE.run("compare"))


@pytest.fixture
def found(made):
    return made[1]


@pytest.fixture
def build(made, tmp_path, monkeypatch):
    """A copy of the artefacts, not compared yet, where the stages look for them."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    shutil.copytree(made[0], tmp_path / "laptop", ignore=shutil.ignore_patterns("comparison"))
    return tmp_path / "laptop"


# --- the stage ---


def test_every_table_and_text_is_written(made):
    folder, found = made
    written = {file.name for file in (folder / "comparison").iterdir()}
    assert written == {"manifest.json", "variables.json"} | {f"{name}.csv" for name in comparison.TABLES}
    assert list(found.accuracy["arm"]) == list(found.rules["arm"].unique()) == PROFILE.arms
    assert found.variables.keys() >= {"profile", "rule", "teacher", "student", "precision"}
    assert None not in found.variables.values()


def test_second_call_reads_what_the_first_wrote(made, monkeypatch):
    folder, found = made
    monkeypatch.setattr(paths, "BUILD", folder.parent)
    monkeypatch.setattr(comparison, "_write", lambda *_: pytest.fail("computed again"))
    again = comparison.compare(PROFILE.run("compare"))
    for name in comparison.TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))


def test_accuracies_printed_elsewhere_stand_beside_none_of_these(found):
    assert not {name for name in found.accuracy if "published" in name}
    assert "48.1" not in figures.shown(found, "accuracy").to_html()


def test_no_test_problem_is_among_those_of_the_other_splits(found):
    assert found.leakage[["split", "n", "others"]].to_numpy().tolist() == [["train", 200, 160], ["validation", 200, 8]]
    assert not found.leakage[list(leakage.KINDS)].to_numpy().any()


def test_accuracy_is_told_apart_by_the_number_of_calculations(found):
    counts = found.lengths.groupby("calculations")["n"].unique().map(list).to_dict()
    assert counts == {1: [150], 2: [50]}


@pytest.mark.usefixtures("build")
def test_leaked_test_problems_are_counted(monkeypatch):
    load = problems.load

    def leaked(source, split, limit, *, seed):
        found = load(source, split, limit, seed=seed)
        if split == "validation":
            asked = load(source, "test", 2, seed=seed)
            others = [asked[0].question.upper(), re.sub(r"\d+", "77", asked[1].question)]
            found[:2] = [replace(one, question=text) for one, text in zip(found, others, strict=False)]
        return found

    monkeypatch.setattr(problems, "load", leaked)
    table = comparison.leakage_table(PROFILE.run("compare")).set_index("split")
    assert table[list(leakage.KINDS)].to_numpy().tolist() == [[0, 0, 0], [1, 1, 0]]


def test_response_that_says_nan_stays_text(found):
    assert set(found.samples["response"].str.contains("NaN")) == {True, False}


def test_teacher_is_scored_on_its_train_problems_in_any_order(found):
    table = found.teacher.set_index("arm")
    assert list(table.index) == PROFILE.strategies
    assert (table["accuracy"] == 0.75).all()
    assert (table["mean_tokens"] == 3).all()


def test_losses_hold_every_trained_arm(found):
    assert found.losses.groupby("arm")["step"].max().to_dict() == dict.fromkeys(PROFILE.trained, 24)


@pytest.mark.usefixtures("build")
def test_undistilled_alone_is_compared():
    found = comparison.compare(params.CompareRun(arms=["undistilled"], strategies=[]))
    assert found.gains.empty
    assert found.teacher.empty
    assert len(figures.loss_figure(found).axes) == 1
    assert all(figures.shown(found, name).to_html() for name in ("gains", "teacher"))


def test_other_rule_changes_the_headline_and_is_written_aside(build):
    found = comparison.compare(params.collect("compare", PROFILE.run("compare").model_dump() | {"rule": "hash"}))
    assert found.variables["rule"] == "hash"
    assert not (build / "comparison").exists()


# --- what is refused ---


@pytest.mark.parametrize("field", ["answer_tokens", "seed", "student", "system_prompt", "evaluate_batch"])
@pytest.mark.usefixtures("build")
def test_scores_made_otherwise_are_refused_by_arm_and_field(field):
    write_scores("teacher", **{field: 3})
    with pytest.raises(InputError, match=rf"^scores/teacher/seed-0: {field} = 3, but "):
        comparison.compare(PROFILE.run("compare"))


@pytest.mark.parametrize("names", [["none"], ["fine-tuned", "none"]])
@pytest.mark.usefixtures("build")
def test_scores_of_a_related_method_are_refused(names):
    write_scores("none", method={"name": "retrikt", "version": 1, "parameters": {"context": "retrieved"}})
    with pytest.raises(
        InputError, match=r"^scores/none/seed-0: method = \{'name': 'retrikt'[^\n]*, but None in [^\n]*$"
    ):
        comparison.compare(PROFILE.run("compare").model_copy(update={"arms": names}))


@pytest.mark.usefixtures("build")
def test_arms_that_ran_in_different_precisions_are_not_compared():
    here = PROFILE.model.precision
    other = "bfloat16" if here == "float32" else "float32"
    write_scores("teacher", dtype=other)
    with pytest.raises(InputError, match=rf"^scores/teacher/seed-0: dtype = '{other}', but '{here}' in "):
        comparison.compare(PROFILE.run("compare"))


def test_scores_made_by_other_code_are_refused(build):
    file = build / "scores" / "none" / "seed-0" / "manifest.json"
    content = json.loads(file.read_text())
    content["recipe"]["code"]["extraction"] = "other"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"scores/none/seed-0: extraction.py = 'other'"):
        comparison.compare(PROFILE.run("compare"))


@pytest.mark.usefixtures("build")
def test_other_problems_are_refused():
    write_scores("confidence", ids=[f"other-{number}" for number in range(PROFILE.problems.n_test)])
    with pytest.raises(InputError, match="scores/confidence/seed-0: problem_id"):
        comparison.compare(PROFILE.run("compare"))


@pytest.mark.usefixtures("build")
def test_parameters_that_the_scores_contradict_are_refused():
    with pytest.raises(InputError, match="scores/undistilled/seed-0: n_test = 200, but 50 in this run"):
        comparison.compare(params.CompareRun(n_test=50))


def test_one_student_does_not_pass_for_several(build):
    for arm in PROFILE.arms:
        for seed in (0, 1):
            place = build / "scores" / arm / f"seed-{seed}"
            if not place.exists() and arm != arms.UNDISTILLED:
                shutil.copytree(build / "scores" / arm / "seed-0", place)
            if place.exists():
                recipe = artifacts.read(build / "scores" / arm / "seed-0")["recipe"]
                given = f"answers/{arm}/seed-{0 if arm == 'teacher' else seed}"
                answers = pd.read_parquet(place / "answers.parquet")
                with artifacts.writing(place, recipe | {"inputs": {given: {}}}) as folder:
                    answers.to_parquet(folder / "answers.parquet", index=False)
    message = r"scores/teacher/seed-1: scores answers/teacher/seed-0: one student where seeds = \[0, 1\] claim one each"
    with pytest.raises(InputError, match=message):
        comparison.read_scores(PROFILE.run("compare").model_copy(update={"seeds": [0, 1]}))


@pytest.mark.usefixtures("build")
def test_single_problem_is_refused():
    with pytest.raises(InputError, match=r"n_test = 1: .* 2 or more"):
        comparison.compare(params.CompareRun(n_test=1))


@pytest.mark.usefixtures("build")
def test_responses_to_other_problems_are_refused():
    write_responses("none", seed=1)
    with pytest.raises(InputError, match="responses/none: seed = 1, but 0 in this run"):
        comparison.compare(PROFILE.run("compare"))


def test_missing_scores_are_named(build):
    (build / "scores" / "teacher").rename(build / "gone")
    with pytest.raises(InputError, match="scores/teacher/seed-0: not made yet"):
        comparison.compare(PROFILE.run("compare"))


# --- what is shown ---


@pytest.mark.parametrize("name", ["accuracy", "gains", "rules", "teacher", "samples"])
def test_shown_table_hides_names_of_arms_and_repeats(found, name):
    page = figures.shown(found, name).to_html()
    assert page == figures.shown(found, name).to_html()
    assert "ground-truth" not in page
    assert "nan" not in page
    assert "KD, Ground Truth" in page


def test_shown_numbers_are_per_cent_points_and_intervals(found):
    accuracy = figures.shown(found, "accuracy").to_string(delimiter="|").splitlines()
    values = dict(zip(accuracy[0].split("|"), accuracy[1].split("|"), strict=True))
    assert values["student"] == "Undistilled"
    row = found.accuracy.iloc[0]
    assert values["accuracy"] == f"{100 * row['accuracy']:.1f}\u00a0%"
    assert values["95 % interval"] == f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    gains = figures.shown(found, "gains").to_string(delimiter="|").splitlines()
    values = dict(zip(gains[0].split("|"), gains[1].split("|"), strict=True))
    assert values["gain (points)"] == f"{found.gains['points'][0]:+.1f}"


def test_shown_samples_say_a_question_and_its_answer_once(found):
    page = figures.shown(found, "samples").to_string(delimiter="|")
    for question, answer in zip(found.samples["question"], found.samples["answer"], strict=True):
        assert page.count(f"{question}|{answer}|") == 1


def test_responses_are_shown_as_text_not_markup(found):
    assert "&lt;&lt;1+1=2&gt;&gt;" in figures.shown(found, "samples").to_html()


def test_accuracy_figure_has_arms_in_order(found):
    (axes,) = figures.accuracy_figure(found).axes
    assert [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()] == list(found.accuracy["title"])
    assert [text.get_text() for text in axes.texts] == [f"{100 * one:.1f}" for one in found.accuracy["accuracy"]]
    assert axes.yaxis_inverted()


@pytest.mark.usefixtures("build")
def test_accuracy_figure_takes_arms_that_are_always_or_never_right(monkeypatch):
    monkeypatch.setitem(ACCURACY, "undistilled", 0)
    monkeypatch.setitem(ACCURACY, "none", 1)
    write_scores("undistilled")
    write_scores("none")
    figures.accuracy_figure(comparison.compare(PROFILE.run("compare"))).savefig(StringIO(), format="svg")


def test_loss_figure_shows_soft_loss_of_taught_arms_only(found):
    hard, soft = figures.loss_figure(found).axes
    shown = [[label.get_text() for label in axes.get_yticklabels()] for axes in (hard, soft)]
    assert shown == [list(map(arms.title, PROFILE.trained)), list(map(arms.title, PROFILE.strategies))]


def test_losses_are_those_of_the_first_and_of_the_last_tenth_of_the_steps(found):
    rows = [{"arm": "none", "seed": seed, "step": step} for seed in (0, 1) for step in range(1, 21)]
    losses = pd.DataFrame(rows).assign(soft=np.nan)
    losses["hard"] = 10 * losses["seed"] + losses["step"]
    (axes,) = figures.loss_figure(replace(found, losses=losses)).axes
    before, after = axes.lines[0].get_xdata()
    assert (before, after) == (6.5, 24.5)
    ends = next(one.get_segments()[0] for one in axes.collections)
    assert ends[:, 0].tolist() == [19.5, 29.5]


def test_published_results_are_of_arms_that_a_profile_may_name():
    assert set(arms.published()["arms"]) <= {*arms.CONTROLS, *arms.strategies()}


@pytest.mark.usefixtures("build")
def test_notebook_shows_one_figure_or_table_in_each_labelled_cell(monkeypatch):
    monkeypatch.setattr(notebooks, "require", lambda _: None)  # what it reads was made up
    notebook = nbformat.read(paths.NOTEBOOKS / "compare.ipynb", as_version=4)
    shell, labels = InteractiveShell.instance(), {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)
            done.raise_error()
            if "#| label: " in cell.source:
                labels[cell.source.split("#| label: ")[1].split()[0]] = type(done.result)
    assert {label for label, kind in labels.items() if kind is Figure} == {
        "fig-accuracy",
        "fig-loss",
        "fig-reliability",
    }
    tables = {"tbl-lengths", "tbl-leakage"}
    tables |= {"tbl-accuracy", "tbl-gains", "tbl-rules", "tbl-teacher", "tbl-samples", "tbl-steps", "tbl-calibration"}
    assert {label for label, kind in labels.items() if kind is Styler} == tables


def test_what_every_gain_lacks_is_no_column(found):
    gains = figures.shown(found, "gains").to_html()
    assert "lacks" not in gains
    some = replace(found, gains=found.gains.assign(lacks=["", *found.gains["lacks"][1:]]))
    assert "lacks" in figures.shown(some, "gains").to_html()


def test_rules_are_all_shown(found):
    headings = figures.shown(found, "rules").to_string(delimiter="|").splitlines()[0].replace("\u200b", "").split("|")
    assert headings == ["student", *RULES]
