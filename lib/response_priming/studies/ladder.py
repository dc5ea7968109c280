"""Ladders: from the released procedure to the repaired one, and from KD to fine-tuning, a step at a time, all measured.

Every rung keeps the changes of those before it. Of the repairs (notebook ladder), the first ones are of the training,
so that the student moves at all and the cost of each misalignment can be seen in what it learns; the others are
`sections.REPAIRS` (see `methods.examples`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from response_priming import arms, artifacts, distill, evaluate, generate, notebooks, params, progress, scoring, stats
from response_priming.methods.base import method_of

# Parameters that each repair of the training takes from the run instead of from the released code.
TRAINING = {
    "optimiser": (
        "optimizer", "learning_rate", "momentum", "weight_decay", "train_batch", "micro_batch", "train_steps",
    ),
    "schedule": ("schedule", "warmup_steps"),
    "settings": ("alpha", "kd_temperature", "divergence", "lora_r", "lora_alpha", "lora_dropout", "held_out"),
}  # fmt: skip
TITLES = {
    "undistilled": "Undistilled student",
    "released": "As released",
    "optimiser": "+ AdamW in batches, not SGD at 5e-6",
    "schedule": "+ one cosine with warm-up",
    "settings": "+ this profile's loss and LoRA settings",
    "pairing": "+ each problem its own signal",
    "prefix-offset": "+ prefix positions passed over",
    "bos": "+ no beginning token on one side only",
    "eos": "+ labels end with end-of-sequence",
    "teacher-answers": "+ the teacher answers",
    "positions": "+ labels scored in the answer, shifted",
    "template": "+ the chat template of the evaluation",
    "truncation": "+ nothing cut: the repaired method",
}
# From KD to fine-tuning, each keeping what those above it changed.
CLOSING = {
    "kd": "KD, as the arm is",
    "right": "+ only right responses",
    "examples": "+ a teacher with more worked examples",
    "gold": "+ solutions as hard labels",
    "fine-tuned": "Fine-tuned: solutions alone",
}


class Rung(NamedTuple):
    """A student beside the arms: its arm, and the values that it is trained with instead of the run's.

    `teacher`: values that its teacher answers with instead of the run's, None where it answered before; `store`: the
    rung with these responses, None for the run's own. `method`: the related method that makes it (see
    `methods.base.described`), None for the usual one; `live`: the strategy in whose prompt that asks a teacher;
    `before`: the rung whose student it begins with; `of`: the method that it is a control of.
    """

    title: str
    arm: str
    values: dict[str, Any]
    teacher: dict[str, Any] | None = None
    store: str | None = None
    method: dict[str, Any] | None = None
    live: str | None = None
    before: str | None = None
    of: str = ""


class Made(NamedTuple):
    """A rung that is trained and evaluated: its training, its graded answers, and all runs that made it."""

    rung: str
    training: params.DistillRun
    graded: pd.DataFrame
    runs: list[params.Run]


def rungs(run: params.LadderRun) -> dict[str, dict[str, Any]]:
    """All trainings, from the released to the repaired one: name -> the values of the distill section that it has."""
    values = run.as_released | {"repairs": []}
    found = {"released": values}
    for name, keys in TRAINING.items():
        found[name] = values = values | {key: getattr(run, key) for key in keys}
    for repair in params.REPAIRS:
        found[repair] = values = values | {"repairs": [*values["repairs"], repair]}
    return found


def climb(run: params.LadderRun) -> pd.DataFrame:
    """The rungs of the ladder of repairs, the undistilled student first (see `measure`); in `ladder/RUNG/`.

    Raises:
        InputError: the strategy's responses or signals over prompts are not there.
    """
    found = {arms.UNDISTILLED: Rung(TITLES[arms.UNDISTILLED], arms.UNDISTILLED, {})}
    found |= {name: Rung(TITLES[name], run.ladder_strategy, values) for name, values in rungs(run).items()}
    return measure(run, found, run.output / "ladder", {"seeds": run.ladder_seeds, "n_test": run.ladder_test})


def close(run: params.DoctorRun) -> pd.DataFrame:
    """The rungs from KD to fine-tuning (see `measure`), in `closing/RUNG/`; `points`: gained on the rung above.

    A rung that nothing right is left to train on is left out.
    """
    arm, right = run.doctor_strategy, {"keep_right": True}
    more = right | {"worked_examples": run.doctor_examples}
    changes = {
        "kd": Rung(CLOSING["kd"], arm, {}),
        "right": Rung(CLOSING["right"], arm, {}, right, "right"),
        "examples": Rung(CLOSING["examples"], arm, {}, more, "examples"),
        "gold": Rung(CLOSING["gold"], arm, {"hard_labels": "gold"}, None, "examples"),
        "fine-tuned": Rung(CLOSING["fine-tuned"], arms.FINE_TUNED, {}),
    }
    table = measure(run, changes, run.output / "closing", {"seeds": run.seeds})
    return table.assign(points=100 * table["accuracy"].diff())


def measure(
    run: params.LadderRun | params.DoctorRun, rungs: Mapping[str, Rung], folder: Path, common: dict[str, Any]
) -> pd.DataFrame:
    """One row a rung (see `make`).

    Columns: `rung`, `title`; `n` (answers: problems times seeds); `accuracy` by the run's rule and `finished` (share
    that ended within the budget), each with `_low` and `_high`, its 95 % interval (see `stats.accuracy_interval`);
    `mean_tokens`; `seconds` that its making took.
    """
    rows = []
    for rung, _, graded, made in make(run, rungs, folder, common):
        row = {"rung": rung, "title": rungs[rung].title, "n": len(graded)}
        for name, hits in (("accuracy", graded[f"{run.rule}-correct"]), ("finished", graded["finished"])):
            students = hits.to_numpy(bool).reshape(graded["seed"].nunique(), -1)
            low, high = stats.accuracy_interval(students, scoring.templates(graded))
            row |= {name: float(hits.mean()), f"{name}_low": low, f"{name}_high": high}
        seconds = sum(artifacts.read(part.path)["wall_seconds"] for part_of in made for part in part_of.folders)
        rows.append(row | {"mean_tokens": float(graded["tokens"].mean()), "seconds": seconds})
    return pd.DataFrame(rows)


def make(run: params.Run, rungs: Mapping[str, Rung], folder: Path, common: dict[str, Any]) -> Iterator[Made]:
    """The rungs, each trained and evaluated unless that is done already, with the values that all have in `common`.

    Students and scores of a rung are in its folder, or where the arm's are that it is. A rung that nothing is left to
    train on is left out.
    """
    trained = dict[str, params.DistillRun]()
    for rung, one in rungs.items():
        place, taught = folder / rung, folder / one.store if one.store else None
        values = run.model_dump() | one.values | common | {"arm": one.arm}
        training, evaluation = params.DistillRun.of(values), params.EvaluateRun.of(values)
        if one.method:
            training, evaluation = training.by(one.method), evaluation.by(one.method)
        if one.live:
            training = training.asking(params.GenerateRun.of(values | {"strategy": one.live}))
        if one.before:
            training = training.after(trained[one.before])
        aside = one.values or taught or one.method
        if aside or notebooks.lacking(training) or notebooks.lacking(evaluation):
            training, evaluation = training.placed(place, taught), evaluation.placed(place)
        made = list[params.Run]()
        with progress.part("rung", rung, list(rungs)):
            if one.teacher is not None:
                asked = params.GenerateRun.of(values | one.teacher | {"strategy": one.arm}).placed(place)
                generate.respond(asked)
                made.append(asked)
            if one.method:
                needed = method_of(training).prepare()
                training = training.needing(*needed)
                evaluation = evaluation.needing(*needed) if one.arm == arms.UNDISTILLED else evaluation
            if taught and not generate.read(taught / "responses" / one.arm, [])["kept"].any():
                continue
            if one.arm != arms.UNDISTILLED:
                distill.train(training)
                made.append(training)
            graded = evaluate.answer(evaluation)
            made.append(evaluation)
        trained[rung] = training
        yield Made(rung, training, graded, made)
