"""Notebook search: which alpha, temperature, divergence and learning rate do best on validation problems.

Trials are drawn by TPE (Bergstra et al. 2011, as Optuna has it) and pruned where their validation loss is worse than
the median of earlier trials at the same step. The test split is never read: the released code searched on it.
"""

import tempfile
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState
from transformers import TrainerCallback

from response_priming import artifacts, distill, evaluate, params, problems, progress, provenance
from response_priming.errors import InputError
from response_priming.scoring import grade

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def optimize(run: params.SearchRun) -> optuna.Study:
    """The study with `run.trials` finished trials, whose value is the validation accuracy; a killed one continues.

    It is kept in `search/study.sqlite3`. A trial that was killed is begun again with its values.

    Raises:
        InputError: the responses are not there; the validation problems are also training problems; or the file holds
            trials with other parameters.
    """
    study = _open(run)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    work(run)
    return study


def work(run: params.SearchRun, worker: int = 0) -> None:
    """Make trials until `run.trials` are finished or begun, also beside other workers, of which each has a number."""
    asked, study = validation(run), _open(run)
    done = len(study.get_trials(states=FINISHED))
    # Another seed than at the start, or a continued search would draw its first values again; and than other workers'.
    seed = run.seed + done + worker * run.trials
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5, constant_liar=worker > 0)
    while trial := _begun(run, study):
        finished = len(study.get_trials(deepcopy=False, states=FINISHED))
        with progress.part("trial", finished, range(run.trials)):
            try:
                study.tell(trial, _accuracy(run, trial, asked))
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)


def _begun(run: params.SearchRun, study: optuna.Study) -> optuna.Trial | None:
    """The next trial; None where all are finished or begun."""
    with artifacts.locked(_file(run)):
        taken = study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
        return study.ask() if len(taken) < run.trials else None


def validation(run: params.SearchRun) -> list[problems.Problem]:
    """The problems that trials are scored on: of the validation split, without the teacher's worked examples."""
    worked = run.worked_examples
    pool = problems.load(run, "validation", worked + run.validation_problems, seed=run.seed)
    shown = {p.id for p in problems.load(run, "validation", worked, seed=run.seed)} if worked else set()
    asked = [problem for problem in pool if problem.id not in shown]
    trained = {problem.id for problem in problems.load(run, "train", run.n_train, seed=run.seed)}
    if both := sum(problem.id in trained for problem in asked):
        raise InputError(
            f"search.validation_problems = {run.validation_problems}: {both} of them are among the {run.n_train} of "
            "train; lower one of the two"
        )
    return asked


def trials(study: optuna.Study) -> pd.DataFrame:
    """One row a finished trial: `trial`, `state`, `accuracy` of `n` answers (NaN where pruned), its values, its last
    `loss`."""
    table = pd.DataFrame(
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "accuracy": trial.value,
            "n": trial.user_attrs.get("n"),
            **trial.params,
            "loss": -list(trial.intermediate_values.values())[-1] if trial.intermediate_values else None,
        }
        for trial in study.get_trials(states=FINISHED)
    )
    accuracy = table["accuracy"].where(table["state"] == "complete").astype(float)
    return table.assign(accuracy=accuracy, n=table["n"].astype("Int64"))


def _file(run: params.SearchRun) -> Path:
    return run.output / "search" / "study.sqlite3"


def _open(run: params.SearchRun) -> optuna.Study:
    # What decides the value of a trial, but for what is searched.
    made_by = {key: value for key, value in run.shaping.items() if key not in params.SEARCHED}
    made_by |= run.by_dropout | provenance.content(run)
    made_by |= {store.parent.name: artifacts.read(store)["outputs"] for store in run.reads}
    file = _file(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    with artifacts.locked(file):
        study = optuna.create_study(
            storage=f"sqlite:///{file}", study_name="search", direction="maximize", pruner=pruner, load_if_exists=True
        )
    known = study.user_attrs.get("made_by", made_by)
    if differing := [key for key in made_by if known.get(key) != made_by[key]]:
        raise InputError(
            f"{file}: its trials have another {differing[0]} than this search; take the change back, or remove the file"
        )
    study.set_user_attr("made_by", made_by)
    return study


def _accuracy(run: params.SearchRun, trial: optuna.Trial, asked: list[problems.Problem]) -> float:
    """Train a student with the trial's values; the share of validation problems it gets right by the run's rule."""
    every = max(1, run.trial_steps // (run.trial_checks + 1))
    values = run.model_dump() | _draw(run, trial) | {"train_steps": run.trial_steps, "evaluate_every": every}
    values |= {"arm": run.search_strategy, "seeds": [run.seed]}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        distill.train_one(params.DistillRun.of(values).placed(place), run.seed, callbacks=[_Pruning(trial)])
        scored = params.EvaluateRun.of(values).placed(place)
        graded = grade(evaluate.answers_to(asked, scored, scored.student_of(run.search_strategy, run.seed)))
    trial.set_user_attr("n", len(graded))
    return float(graded[f"{run.rule}-correct"].mean())


def _draw(run: params.SearchRun, trial: optuna.Trial) -> dict[str, Any]:
    return {
        "alpha": trial.suggest_float("alpha", *run.alpha_range),
        "kd_temperature": trial.suggest_float("kd_temperature", *run.temperature_range, log=True),
        "learning_rate": trial.suggest_float("learning_rate", *run.learning_rate_range, log=True),
        "divergence": trial.suggest_categorical("divergence", run.divergences),
    }


class _Pruning(TrainerCallback):
    """Reports the validation loss whenever there is one, and stops a training whose loss is worse than the median.

    The loss is the cross-entropy on the solutions of problems held out of training (see `examples`), which means the
    same whatever is searched.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_log(self, args: Any, state: Any, control: Any, **parts: Any) -> None:  # noqa: ARG002
        """After the first step and before the last."""
        if "gold_hard" not in parts["logs"] or state.global_step in (0, state.max_steps):
            return
        self.trial.report(-parts["logs"]["gold_hard"], state.global_step)
        if self.trial.should_prune():
            raise optuna.TrialPruned
