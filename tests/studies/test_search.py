import multiprocessing
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from response_priming import distill, evaluate, problems
from response_priming.distill.trainer import DistillTrainer
from response_priming.errors import InputError
from response_priming.generate import teacher
from response_priming.studies import search

SIZES = {
    "n_train": 4,
    "held_out": 0.25,
    "train_batch": 2,
    "micro_batch": 2,
    "train_tokens": 400,
    "warmup_steps": 0,
    "worked_examples": 2,
}
SMALL = {"trials": 2, "trial_steps": 4, "trial_checks": 1, "validation_problems": 3, "answer_tokens": 3}


@pytest.fixture
def run(make_run):
    """A search whose teacher has answered."""
    answers = {"n_train": 4, "worked_examples": 2, "response_tokens": 4, "top_k": 3}
    teacher.respond(make_run("generate", strategy="none", **answers))
    return make_run("search", **SIZES, **SMALL)


def changed(run, **values):
    return type(run).model_validate(run.model_dump() | values)


@pytest.fixture
def quick(monkeypatch):
    """Trials that take no time: their value is alpha."""
    monkeypatch.setattr(search, "_accuracy", lambda run, trial, _: search._draw(run, trial)["alpha"])


def values(study):
    return [(trial.params, trial.value) for trial in study.get_trials(states=(TrialState.COMPLETE,))]


def test_a_trial_trains_a_student_and_scores_it_on_validation_problems(run):
    study = search.optimize(run)
    table = search.trials(study)
    assert len(table) == 2
    assert {"accuracy", "loss", "alpha", "kd_temperature", "learning_rate", "divergence"} <= set(table)
    assert study.best_trial.user_attrs["n"] == 3
    assert table["loss"].gt(0).all()
    assert [path.name for path in (run.output / "search").iterdir()] == ["study.sqlite3"]


def test_a_trial_validates_where_it_may_be_pruned_and_nowhere_else(run, monkeypatch):
    validated = []
    monkeypatch.setattr(DistillTrainer, "snapshot", lambda *_: pytest.fail("decoded samples"))
    log = DistillTrainer.log

    def noted(self, logs, *rest):
        if "loss" not in logs and "train_runtime" not in logs:
            validated.append((self.state.global_step, set(logs)))
        log(self, logs, *rest)

    monkeypatch.setattr(DistillTrainer, "log", noted)
    search.optimize(changed(run, trials=1))
    assert [(step, "gold_hard" in logs, "response_hard" in logs) for step, logs in validated] == [(2, True, False)]


def test_the_search_cannot_see_the_test_split(run, monkeypatch):
    load = problems.load

    def guarded(source, split, *rest, **options):
        assert split != "test"
        return load(source, split, *rest, **options)

    monkeypatch.setattr(problems, "load", guarded)
    study = search.optimize(changed(run, trials=1))
    assert len(study.trials) == 1


def test_a_test_split_of_garbage_changes_nothing(run, monkeypatch):
    found = values(search.optimize(run))
    (run.output / "search" / "study.sqlite3").unlink()
    load = problems.load
    garbage = [problems.Problem(f"test-{number}", "?", "#### 0", "0") for number in range(500)]
    monkeypatch.setattr(
        problems,
        "load",
        lambda source, split, *rest, **how: garbage if split == "test" else load(source, split, *rest, **how),
    )
    assert values(search.optimize(run)) == found


def test_worked_examples_and_train_problems_are_not_scored(run):
    asked = {problem.id for problem in search.validation(run)}
    shown = {problem.id for problem in problems.load(run, "validation", run.worked_examples, seed=run.seed)}
    trained = {problem.id for problem in problems.load(run, "train", run.n_train, seed=run.seed)}
    assert len(asked) == 3
    assert not asked & (shown | trained)


@pytest.mark.usefixtures("quick")
def test_values_stay_within_their_ranges(run):
    run = changed(run, trials=15, alpha_range=[0.2, 0.4], temperature_range=[2, 3], divergences=["jsd"])
    table = search.trials(search.optimize(run))
    assert table["alpha"].between(0.2, 0.4).all()
    assert table["kd_temperature"].between(2, 3).all()
    assert set(table["divergence"]) == {"jsd"}


@pytest.mark.usefixtures("quick")
def test_a_finished_search_runs_no_trial_and_a_longer_one_adds_those_that_lack(run):
    first = values(search.optimize(run))
    assert values(search.optimize(run)) == first
    longer = values(search.optimize(changed(run, trials=5)))
    assert longer[:2] == first
    assert len({str(drawn) for drawn, _ in longer}) == 5


def test_a_killed_trial_is_begun_again_with_its_values(run, monkeypatch):
    def killed(run, trial, _):
        search._draw(run, trial)
        raise SystemExit

    monkeypatch.setattr(search, "_accuracy", killed)
    with pytest.raises(SystemExit):
        search.optimize(run)
    monkeypatch.setattr(search, "_accuracy", lambda run, trial, _: search._draw(run, trial)["alpha"])
    study = search.optimize(run)
    assert len(study.get_trials(states=search.FINISHED)) == 2
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[1].params == study.trials[0].params


def test_a_trial_worse_than_the_median_is_pruned(run, monkeypatch):
    losses = iter([1.0, 1.0, 1.0, 9.0])

    def trained(stage, seed, callbacks):  # noqa: ARG001
        logs = {"gold_hard": next(losses)}
        state = SimpleNamespace(global_step=2, max_steps=4)
        for callback in callbacks:
            callback.on_log(None, state, None, logs=logs)

    monkeypatch.setattr(distill, "train_one", trained)
    monkeypatch.setattr(evaluate, "answers_to", lambda *_: pd.DataFrame({"last-number-correct": [True, False]}))
    monkeypatch.setattr(search, "grade", lambda answers: answers)
    table = search.trials(search.optimize(changed(run, trials=4)))
    assert table["state"].tolist() == ["complete"] * 3 + ["pruned"]
    assert table["loss"].tolist() == [1, 1, 1, 9]
    assert table["accuracy"].tolist()[:3] == [0.5] * 3
    assert table["accuracy"].isna().tolist() == [False] * 3 + [True]


@pytest.mark.usefixtures("quick")
def test_a_study_of_other_ranges_is_refused_in_one_line(run):
    search.optimize(run)
    with pytest.raises(
        InputError, match=r"study.sqlite3: its trials have another alpha_range than this search; "
    ) as no:
        search.optimize(changed(run, alpha_range=[0.3, 0.5]))
    assert len(str(no.value).splitlines()) == 1


def test_missing_responses_are_one_line(run):
    with pytest.raises(InputError, match="responses/teacher: not made yet"):
        search.optimize(changed(run, search_strategy="teacher"))


def test_an_error_in_training_ends_the_search(run, monkeypatch):
    def fail(*_, **__):
        raise InputError("no")

    monkeypatch.setattr(distill, "train_one", fail)
    with pytest.raises(InputError, match=r"^no$"):
        search.optimize(run)
    assert optuna.load_study(study_name="search", storage=f"sqlite:///{run.output / 'search' / 'study.sqlite3'}").trials


@pytest.mark.usefixtures("quick")
def test_workers_share_the_trials_and_draw_other_values(run):
    run = changed(run, trials=9)
    search.optimize(changed(run, trials=1))
    forked = multiprocessing.get_context("fork")  # they take the quick trials along
    workers = [forked.Process(target=search.work, args=(run, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = values(search.optimize(run))
    assert len(found) == len({tuple(drawn.items()) for drawn, _ in found}) == 9
