"""Notebook ladder: from the released procedure to the repaired one, one repair at a time, each rung measured.

Every rung keeps the repairs of those below it. The first ones repair the training, so that the student moves at all and
the cost of each misalignment can be seen in what it learns; the others are `sections.REPAIRS` (see `methods.examples`).
"""

from typing import Any

import pandas as pd

from response_priming import arms, artifacts, distill, evaluate, params, progress, stats

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
    """One row a rung, the undistilled student first: trained and evaluated unless that is done already.

    Columns: `rung`, `title`; `n` (answers: problems times seeds); `accuracy` by the run's rule and `finished` (share
    that ended within the budget), each with `_low` and `_high`, its 95 % Wilson interval; `mean_tokens`; `seconds` that
    training and evaluation took. Students and scores of a rung are in `ladder/RUNG/`.

    Raises:
        InputError: the strategy's responses or signals over prompts are not there.
    """
    trainings: dict[str, dict[str, Any]] = {arms.UNDISTILLED: {}, **rungs(run)}
    rows = []
    for rung, training_values in trainings.items():
        place = run.output / "ladder" / rung
        arm = arms.UNDISTILLED if rung == arms.UNDISTILLED else run.ladder_strategy
        values = run.model_dump() | training_values
        values |= {"arm": arm, "seeds": run.ladder_seeds, "n_test": run.ladder_test}
        with progress.part("rung", rung, list(trainings)):
            if arm != arms.UNDISTILLED:
                distill.train(params.DistillRun.of(values).placed(place))
            graded = evaluate.answer(params.EvaluateRun.of(values).placed(place))
        row = {"rung": rung, "title": TITLES[rung], "n": len(graded)}
        for name, hits in (("accuracy", graded[f"{run.rule}-correct"]), ("finished", graded["finished"])):
            low, high = stats.accuracy_interval(hits.to_numpy(bool)[None])
            row |= {name: float(hits.mean()), f"{name}_low": low, f"{name}_high": high}
        seconds = sum(artifacts.read(file.parent)["wall_seconds"] for file in place.rglob(artifacts.FILE))
        rows.append(row | {"mean_tokens": float(graded["tokens"].mean()), "seconds": seconds})
    return pd.DataFrame(rows)
