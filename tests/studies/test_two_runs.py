"""Of runs made up (see `made_runs`); a real comparison is read, too."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from made_runs import ARMS, BETTER, right_share, write_answers, write_claims, write_comparison, write_run
from tests.compare.test_comparison import PROFILE, made  # noqa: F401

from response_priming import artifacts, paths, provenance, stats
from response_priming.errors import InputError
from response_priming.studies import two_runs


def test_a_profile_and_its_folder_are_the_same_run(build):
    named, placed = two_runs.read_run("laptop"), two_runs.read_run(str(build))
    assert list(named.answers) == list(placed.answers) == list(ARMS)
    assert named.folder == placed.folder == named.home
    assert (named.profile, named.rule, named.seeds, len(named.problems)) == ("laptop", "last-number", 1, 60)


def test_a_copy_elsewhere_is_a_run(build, tmp_path):
    shutil.copytree(build, tmp_path / "old")
    found = two_runs.read_run(str(tmp_path / "old"))
    assert found.home == tmp_path / "old"
    assert found.answers.keys() == ARMS.keys()


@pytest.mark.usefixtures("build")
def test_manifests_lead_from_the_comparison_to_the_responses():
    found = two_runs.read_run("laptop")
    assert list(found.recipes()) == [
        ("compare", ""),
        *(("evaluate", arm) for arm in ARMS),
        ("distill", "fine-tuned"),
        ("distill", "none"),
        ("generate", "none"),
    ]
    assert found.lost == []


def test_a_copy_without_students_says_so(build):
    shutil.rmtree(build / "students")
    assert two_runs.read_run("laptop").lost == ["students/fine-tuned/seed-0", "students/none/seed-0"]


def test_an_explored_comparison_is_of_its_profiles_scores(build):
    explored = build / "explored" / "1a2b3c4d"
    write_comparison(explored, ["undistilled", "none"], rule="hash", below=build)
    found = two_runs.read_run(str(explored))
    assert (list(found.answers), found.rule, found.home) == (["undistilled", "none"], "hash", build)


def test_explored_scores_are_a_run_of_their_arm_alone(build):
    explored = build / "explored" / "1a2b3c4d"
    write_answers(explored, "none", right_share(0.9, n=30), answer_tokens=48)
    found = two_runs.read_run(str(explored))
    assert (list(found.answers), found.rule, len(found.problems)) == (["none"], "last-number", 30)
    assert ("compare", "") not in found.recipes()
    assert found.recipes()["distill", "none"]["parameters"]["kd_temperature"] == 1.0


def test_of_several_students_the_first_recipe_counts(build):
    write_run(build, {"none": right_share(0.4, seeds=3)})
    found = two_runs.read_run("laptop")
    assert found.seeds == 3
    assert found.recipes()["distill", "none"]["parameters"]["train_seed"] == 0
    assert found.answers["none"]["seed"].value_counts().to_dict() == {0: 60, 1: 60, 2: 60}


@pytest.mark.usefixtures("build")
def test_every_recorded_value_is_named_once():
    found = two_runs.read_run("laptop")
    assert len(found.recorded("machine")) == len(found.recorded("packages")) == 1
    assert found.recorded("of another time") == []


def test_a_real_comparison_is_read(made, monkeypatch):  # noqa: F811
    folder, compared = made
    monkeypatch.setattr(paths, "BUILD", folder.parent)
    found = two_runs.read_run("laptop")
    assert list(found.answers) == PROFILE.arms
    assert found.rule == compared.variables["rule"]
    assert {"generate", "evaluate", "compare"} <= {stage for stage, _ in found.recipes()}


# --- what is refused ---


def refused(name):
    with pytest.raises(InputError) as error:
        two_runs.read_run(str(name))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("build")
def test_neither_profile_nor_folder():
    assert refused("labtop").startswith("labtop: neither a profile (gsm8k-laptop, laptop, ")


@pytest.mark.usefixtures("build")
def test_profile_that_was_not_run_is_told_the_goal():
    expected = "single-gpu: no comparison yet; `make paper PROFILE=single-gpu` makes it"
    assert refused("single-gpu") == expected
    (paths.BUILD / "single-gpu" / "scores").mkdir(parents=True)
    assert refused("single-gpu") == expected
    assert refused(paths.BUILD / "single-gpu").endswith(expected.partition(": ")[2])


def test_folder_that_is_no_run(tmp_path):
    (tmp_path / "holiday").mkdir()
    assert "holiday: not a run to compare: a run has comparison/, " in refused(tmp_path / "holiday")


def test_explored_run_with_other_results_only(build):
    (build / "explored" / "1a2b3c4d" / "attention").mkdir(parents=True)
    assert "1a2b3c4d: not a run to compare" in refused(build / "explored" / "1a2b3c4d")


def test_scores_that_the_comparison_did_not_see(build):
    write_answers(build, "none", right_share(0.9))
    message = refused("laptop")
    assert "laptop/scores/none/seed-0/answers.parquet: changed since " in message
    assert message.endswith("laptop/comparison; `make paper` makes both again")


def test_scores_that_are_gone(build):
    shutil.rmtree(build / "scores" / "none")
    assert "scores/none/seed-0/answers.parquet: missing, but read by " in refused("laptop")


def test_arm_that_no_strategy_makes_any_more(build):
    write_run(build, {"of-old": right_share(0.4)})
    assert "scores/of-old/seed-0: arm 'of-old' is not in params/prompts.yaml any more" in refused("laptop")


# --- two of them ---


def test_on_the_same_problems_the_difference_is_paired(runs):
    table = two_runs.accuracies(*runs(ARMS, BETTER)).set_index("arm")
    (expected,) = stats.gains(stats.sampled([BETTER["none"], ARMS["none"]]), [(0, 1)], seed=0)
    found = table.loc["none"]
    for key in ("points", "alone_low", "alone_high", "alone_p"):
        assert found[key] == pytest.approx(expected[key])
    assert (found["only_a"], found["only_b"]) == (0, (BETTER["none"] & ~ARMS["none"]).sum())
    assert found["points"] == pytest.approx(100 * (found["b"] - found["a"]))


def rewrite(run, change):
    """The run with all its answers changed; its comparison is of these."""
    for file in run.folder.glob("scores/*/*/answers.parquet"):
        recipe, table = artifacts.read(file.parent)["recipe"], pd.read_parquet(file)
        with artifacts.writing(file.parent, recipe) as aside:
            change(table).to_parquet(aside / file.name, index=False)
    write_comparison(run.folder, run.answers)
    return two_runs.read_run(str(run.folder))


def test_order_of_the_rows_does_not_matter(runs):
    a, b = runs(ARMS, BETTER)
    shuffled = rewrite(b, lambda table: table.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(two_runs.accuracies(a, shuffled), two_runs.accuracies(a, b))


def test_same_ids_of_other_questions_are_other_problems(runs):
    a, b = runs(ARMS, BETTER)
    paired = two_runs.accuracies(a, b).set_index("arm").loc["none"]
    b = rewrite(b, lambda table: table.assign(question="Another " + table["question"]))
    apart = two_runs.accuracies(a, b).set_index("arm").loc["none"]
    assert not two_runs.same_problems(a, b)
    assert np.isnan([apart["only_a"], apart["only_b"]]).all()
    assert apart["high"] - apart["low"] > 1.3 * (paired["high"] - paired["low"])


def test_p_is_corrected_for_the_arms_that_both_have(runs):
    table = two_runs.accuracies(*runs(ARMS, BETTER))
    assert (table["p"] >= table["alone_p"]).all()
    assert ((table["p"] < 0.05) == (table["low"] * table["high"] > 0)).all()


def test_arm_of_one_run_has_an_empty_other_side(runs):
    a = {"undistilled": ARMS["undistilled"], "none": ARMS["none"]}
    b = {"undistilled": ARMS["undistilled"], "teacher": ARMS["none"]}
    table = two_runs.accuracies(*runs(a, b)).set_index("arm")
    assert list(table.index) == ["undistilled", "none", "teacher"]
    assert table.loc["none", ["b", "points", "p"]].isna().all()
    assert table.loc["teacher", ["a", "points", "p"]].isna().all()
    assert table.loc["teacher", "b"] == ARMS["none"].mean()
    assert table.loc["undistilled", "p"] == 1


def test_runs_without_a_common_arm_have_no_differences(runs):
    table = two_runs.accuracies(*runs({"none": ARMS["none"]}, {"teacher": ARMS["none"]}))
    assert table[["points", "p"]].isna().all(axis=None)


def test_both_are_scored_by_the_rule_of_a(runs):
    a, b = runs(ARMS, BETTER, of_b={"rule": "hash"})
    assert (a.rule, b.rule) == ("last-number", "hash")
    b.answers["none"]["hash-correct"] = False
    assert two_runs.accuracies(a, b).set_index("arm").loc["none", "b"] == BETTER["none"].mean()
    assert two_runs.accuracies(b, a).set_index("arm").loc["none", "a"] == 0


def test_answers_without_verdicts_of_that_rule_are_refused(runs):
    a, b = runs(ARMS, ARMS, of_b={"rules": ["hash"], "rule": "hash"})
    with pytest.raises(InputError, match=r"laptop: scores/undistilled has no verdicts by rule 'last-number'; .* hash$"):
        two_runs.accuracies(a, b)


# --- what they were made with ---


def rows(table):
    return {row["parameter"]: (row["where"], row["a"], row["b"]) for row in table.to_dict("records")}


def test_runs_made_alike_differ_in_nothing(runs):
    a, b = runs(ARMS, BETTER)
    assert two_runs.differing(a, b).empty
    assert two_runs.differing_code(a, b) == []


def test_a_parameter_of_all_names_the_stages_and_that_of_one_arm_the_arm(runs):
    student = {"none": {"learning_rate": 0.002, "kd_temperature": 2.0}, "fine-tuned": {"kd_temperature": 2.0}}
    a, b = runs(ARMS, ARMS, of_a={"answer_tokens": 96}, of_b={"answer_tokens": 48, "student": student})
    assert rows(two_runs.differing(a, b)) == {
        "answer_tokens": ("evaluate", "96", "48"),
        "kd_temperature": ("distill", "1.0", "2.0"),
        "learning_rate": ("distill: KD, no prompt", "0.001", "0.002"),
    }


def test_a_parameter_that_differs_in_two_stages_is_one_row(runs):
    student = {arm: {"n_train": 80} for arm in ("fine-tuned", "none")}
    a, b = runs(ARMS, ARMS, of_b={"student": student, "n_train": 80}, of_a={"n_train": 160})
    assert rows(two_runs.differing(a, b)) == {"n_train": ("evaluate\ndistill", "160", "80")}


def test_values_are_readable(runs):
    first = {"targets": ["q", "v"], "prefix": "", "weights": f"sha256:{'0' * 64}", "revision": None}
    a, b = runs(ARMS, ARMS, of_a=first, of_b={"targets": [], "prefix": "Think. ", "new": True})
    assert rows(two_runs.differing(a, b)) == {
        "targets": ("evaluate", "q, v", "none"),
        "prefix": ("evaluate", "''", "'Think. '"),
        "weights": ("evaluate", "0" * 16, "—"),
        "revision": ("evaluate", "None", "—"),
        "new": ("evaluate", "—", "True"),
    }


def test_other_arms_and_another_rule_are_parameters(runs):
    a, b = runs(ARMS, {"none": ARMS["none"]}, of_b={"rule": "hash"})
    assert rows(two_runs.differing(a, b)) == {
        "rule": ("compare", "last-number", "hash"),
        "arms": ("compare", "undistilled, fine-tuned, none", "none"),
    }


def test_code_that_made_the_answers_is_compared_but_not_that_of_the_comparison(runs, tmp_path):
    a, _ = runs(ARMS, ARMS)
    for part, stem in (("comparison", "compare.tables"), ("scores/none/seed-0", "engines.base")):
        file = tmp_path / "b" / "laptop" / part / "manifest.json"
        content = json.loads(file.read_text())
        assert stem in content["recipe"]["code"]
        content["recipe"]["code"][stem] = "changed"
        file.write_text(json.dumps(content))
    assert two_runs.differing_code(a, two_runs.read_run(str(tmp_path / "b" / "laptop"))) == ["engines/base.py"]


def test_origins_are_those_of_the_manifests(runs, monkeypatch, tmp_path):
    now = provenance.here()
    monkeypatch.setattr(provenance, "here", lambda: now | {"git_commit": "a" * 40, "date": "2030-01-01 00:00"})
    a, _ = runs(ARMS, ARMS)
    elsewhere = {"python": "3.11", "packages": {"torch": "2"}, "machine": "a cluster", "git_commit": None}
    monkeypatch.setattr(provenance, "here", lambda: elsewhere)
    write_run(tmp_path / "b" / "laptop", ARMS)
    b = two_runs.read_run(str(tmp_path / "b" / "laptop"))
    table = two_runs.origins(a, b).set_index("what")
    assert table.loc["profile"].tolist() == ["laptop", "laptop"]
    assert table.loc["commit"].tolist() == ["a" * 10, "not recorded"]
    assert table.loc["made"].tolist() == ["2030-01-01 00:00 UTC", "not recorded"]
    assert table.loc["machine", "b"] == "a cluster"
    assert table.loc["versions", "b"] == "Python 3.11, torch 2"


# --- claims ---


def test_verdicts_stand_side_by_side_claim_by_claim(runs):
    a, b = runs(ARMS, BETTER)
    write_claims(a, {"It helps.": "supported", "Very much.": "not supported"})
    write_claims(b, {"It helps.": "not testable here"})
    table = two_runs.claims(a, b).set_index("claim")
    assert table.loc["It helps."].tolist() == ["supported", "not testable here"]
    assert table.loc["Very much.", "a"] == "not supported"
    assert pd.isna(table.loc["Very much.", "b"])


def test_runs_without_verdicts_have_no_claims(runs):
    assert two_runs.claims(*runs(ARMS, BETTER)).empty


def test_verdicts_on_another_comparison_do_not_count(runs):
    a, b = runs(ARMS, BETTER)
    write_claims(a, {"It helps.": "supported"})
    assert not two_runs.claims(a, b).empty
    with artifacts.writing(a.folder / "comparison", a.manifests["comparison"]["recipe"]) as aside:
        (aside / "variables.json").write_text('{"profile": "laptop", "rule": "another"}')
    assert two_runs.claims(two_runs.read_run(str(a.folder)), b).empty
