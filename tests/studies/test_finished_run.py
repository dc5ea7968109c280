"""Runs made up here, with the manifests and tables that the stages leave; a real comparison is read, too."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tests.compare.test_comparison import PROFILE, made  # noqa: F401

from response_priming import artifacts, params, paths
from response_priming.errors import InputError
from response_priming.scoring import grade
from response_priming.studies import finished_run

RULES = ["last-number", "hash"]
STUDENT = {"n_train": 160, "kd_temperature": 1.0, "learning_rate": 0.001}
TEACHER = {"n_train": 160, "temperature": 0.0, "prefix": ""}


def right_share(share, *, n=60, seeds=1, draw=0):
    """Right or wrong, bool [seeds, n], the same problems drawn right for the same `draw`."""
    return np.random.default_rng(draw).random((seeds, n)) < share


def write_answers(folder, arm, right, *, ids="test", rules=RULES, **parameters):
    """The scores of an arm: one folder for each row of `right`."""
    for seed, verdicts in enumerate(right):
        numbers = range(len(verdicts))
        table = pd.DataFrame(
            {
                "problem_id": [f"{ids}-{number}" for number in numbers],
                "question": [f"What is {number} + 0, {ids}?" for number in numbers],
                "answer": [str(number) for number in numbers],
                "response": [f"#### {number}" if one else "-1" for number, one in zip(numbers, verdicts, strict=True)],
                "tokens": 9,
                "finished": True,
            }
        )
        recipe = artifacts.recipe(
            "evaluate", {"arm": arm, "n_test": len(verdicts)} | parameters, [], code=["evaluate.answers"]
        )
        recipe["inputs"] = {} if arm == params.UNDISTILLED else {f"students/{arm}/seed-{seed}": {}}
        with artifacts.writing(folder / "scores" / arm / f"seed-{seed}", recipe) as aside:
            grade(table, rules).to_parquet(aside / "answers.parquet", index=False)


def write_student(folder, arm, seeds, **changed):
    store = {f"responses/{arm}": {}} if arm in params.strategies() else {}
    for seed in range(seeds):
        recipe = artifacts.recipe("distill", STUDENT | {"arm": arm, "train_seed": seed} | changed, [], code=[])
        with artifacts.writing(folder / "students" / arm / f"seed-{seed}", recipe | {"inputs": store}):
            pass
    if store:
        recipe = artifacts.recipe("generate", TEACHER | {"strategy": arm}, [], code=[])
        with artifacts.writing(folder / "responses" / arm, recipe):
            pass


def write_comparison(folder, arms, *, rule="last-number", below=None):
    """`below`: the folder that the scores are in, where it is another one."""
    scores = [f"scores/{place.parent.name}/{place.name}" for arm in arms
              for place in sorted((below or folder).glob(f"scores/{arm}/seed-*"))]  # fmt: skip
    recipe = artifacts.recipe(
        "compare", {"rule": rule, "arms": list(arms), "n_train": 160}, [], code=["compare.comparison"]
    )
    recipe["inputs"] = {part: artifacts.read((below or folder) / part)["outputs"] for part in scores}
    with artifacts.writing(folder / "comparison", recipe) as aside:
        (aside / "variables.json").write_text(json.dumps({"profile": (below or folder).name}))


def write_run(folder, arms, *, rule="last-number", student=None, **answers):
    """A run below `folder`; `arms`: arm -> right or wrong [seeds, problems]; `student`: arm -> changed parameters."""
    for arm, right in arms.items():
        write_answers(folder, arm, right, **answers)
        if arm != params.UNDISTILLED:
            write_student(folder, arm, len(right), **(student or {}).get(arm, {}))
    write_comparison(folder, arms, rule=rule)
    return folder


ARMS = {"undistilled": right_share(0.1), "fine-tuned": right_share(0.7), "none": right_share(0.4)}


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return write_run(tmp_path / "build" / "laptop", ARMS)


def test_a_profile_and_its_folder_are_the_same_run(build):
    named, placed = finished_run.read("laptop"), finished_run.read(str(build))
    assert list(named.answers) == list(placed.answers) == list(ARMS)
    assert named.folder == placed.folder == named.home
    assert (named.profile, named.rule, named.seeds, len(named.problems)) == ("laptop", "last-number", 1, 60)


def test_a_copy_elsewhere_is_a_run(build, tmp_path):
    shutil.copytree(build, tmp_path / "old")
    found = finished_run.read(str(tmp_path / "old"))
    assert found.home == tmp_path / "old"
    assert found.answers.keys() == ARMS.keys()


@pytest.mark.usefixtures("build")
def test_manifests_lead_from_the_comparison_to_the_responses():
    found = finished_run.read("laptop")
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
    assert finished_run.read("laptop").lost == ["students/fine-tuned/seed-0", "students/none/seed-0"]


def test_an_explored_comparison_is_of_its_profiles_scores(build):
    explored = build / "explored" / "1a2b3c4d"
    write_comparison(explored, ["undistilled", "none"], rule="hash", below=build)
    found = finished_run.read(str(explored))
    assert (list(found.answers), found.rule, found.home) == (["undistilled", "none"], "hash", build)


def test_explored_scores_are_a_run_of_their_arm_alone(build):
    explored = build / "explored" / "1a2b3c4d"
    write_answers(explored, "none", right_share(0.9, n=30), answer_tokens=48)
    found = finished_run.read(str(explored))
    assert (list(found.answers), found.rule, len(found.problems)) == (["none"], "last-number", 30)
    assert ("compare", "") not in found.recipes()
    assert found.recipes()["distill", "none"]["parameters"]["kd_temperature"] == 1.0


def test_of_several_students_the_first_recipe_counts(build):
    write_run(build, {"none": right_share(0.4, seeds=3)})
    found = finished_run.read("laptop")
    assert found.seeds == 3
    assert found.recipes()["distill", "none"]["parameters"]["train_seed"] == 0
    assert found.answers["none"]["seed"].value_counts().to_dict() == {0: 60, 1: 60, 2: 60}


@pytest.mark.usefixtures("build")
def test_every_recorded_value_is_named_once():
    found = finished_run.read("laptop")
    assert len(found.recorded("machine")) == len(found.recorded("packages")) == 1
    assert found.recorded("of another time") == []


def test_a_real_comparison_is_read(made, monkeypatch):  # noqa: F811
    folder, compared = made
    monkeypatch.setattr(paths, "BUILD", folder.parent)
    found = finished_run.read("laptop")
    assert list(found.answers) == PROFILE.arms
    assert found.rule == compared.variables["rule"]
    assert {"generate", "evaluate", "compare"} <= {stage for stage, _ in found.recipes()}


# --- what is refused ---


def refused(name):
    with pytest.raises(InputError) as error:
        finished_run.read(str(name))
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
