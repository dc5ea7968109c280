"""Finished runs made up for the tests, with the manifests and tables that the stages leave."""

import json

import numpy as np
import pandas as pd

from response_priming import arms, artifacts
from response_priming.scoring import grade

RULES = ["last-number", "hash"]
STUDENT = {"n_train": 160, "kd_temperature": 1.0, "learning_rate": 0.001}
TEACHER = {"n_train": 160, "temperature": 0.0, "prefix": ""}
OTHER = {
    "git_commit": 40 * "a",
    "git_changed": 2,
    "python": "3.11.0",
    "packages": {"torch": "2.0"},
    "machine": "one core",
}
TOOK = {"wall_seconds": 60.0, "cpu_seconds": 90.0}


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
        recipe = artifacts.decided_by(
            "evaluate", {"arm": arm, "n_test": len(verdicts)} | parameters, [], code=["evaluate.answers"]
        )
        recipe["inputs"] = {} if arm == arms.UNDISTILLED else {f"students/{arm}/seed-{seed}": {}}
        with artifacts.writing(folder / "scores" / arm / f"seed-{seed}", recipe) as aside:
            grade(table, rules).to_parquet(aside / "answers.parquet", index=False)


def write_student(folder, arm, seeds, **changed):
    store = {f"responses/{arm}": {}} if arm in arms.strategies() else {}
    for seed in range(seeds):
        recipe = artifacts.decided_by("distill", STUDENT | {"arm": arm, "train_seed": seed} | changed, [], code=[])
        with artifacts.writing(folder / "students" / arm / f"seed-{seed}", recipe | {"inputs": store}):
            pass
    if store:
        recipe = artifacts.decided_by("generate", TEACHER | {"strategy": arm}, [], code=[])
        with artifacts.writing(folder / "responses" / arm, recipe):
            pass


def write_comparison(folder, arms, *, rule="last-number", below=None):
    """`below`: the folder that the scores are in, where it is another one."""
    scores = [f"scores/{place.parent.name}/{place.name}" for arm in arms
              for place in sorted((below or folder).glob(f"scores/{arm}/seed-*"))]  # fmt: skip
    recipe = artifacts.decided_by(
        "compare", {"rule": rule, "arms": list(arms), "n_train": 160}, [], code=["compare.comparison"]
    )
    recipe["inputs"] = {part: artifacts.read((below or folder) / part)["outputs"] for part in scores}
    with artifacts.writing(folder / "comparison", recipe) as aside:
        (aside / "variables.json").write_text(json.dumps({"profile": (below or folder).name}))


def write_run(folder, names, *, rule="last-number", student=None, **answers):
    """A run below `folder`; `arms`: arm -> right or wrong [seeds, problems]; `student`: arm -> changed parameters."""
    for arm, right in names.items():
        write_answers(folder, arm, right, **answers)
        if arm != arms.UNDISTILLED:
            write_student(folder, arm, len(right), **(student or {}).get(arm, {}))
    write_comparison(folder, names, rule=rule)
    return folder


def write_claims(run, verdicts):
    recipe = artifacts.decided_by("claims", {}, [], code=[])
    recipe["inputs"] = {"comparison": artifacts.read(run.folder / "comparison")["outputs"]}
    with artifacts.writing(run.folder / "claims", recipe) as aside:
        table = pd.DataFrame({"claim": list(verdicts), "verdict": list(verdicts.values())})
        table.to_csv(aside / "claims.csv", index=False)


ARMS = {"undistilled": right_share(0.1), "fine-tuned": right_share(0.7), "none": right_share(0.4)}
BETTER = {arm: right | right_share(0.2, draw=1) for arm, right in ARMS.items()}


def write_elsewhere(folder, reads=(), **more):
    """A folder of results, made on another machine by other code."""
    recipe = artifacts.decided_by(folder.parent.parent.name, more, reads, code=[])
    with artifacts.writing(folder, recipe) as aside:
        (aside / "table.csv").write_text("a,b\n")
    made = artifacts.manifest(folder) | OTHER | TOOK | {"date": "2026-01-02 03:04"}
    (folder / artifacts.FILE).write_text(artifacts.manifests.text_of(made))
