"""Related methods of distillation, side by side: each trained and evaluated beside its controls, in `related/ROW/`.

A method is a file of `methods/`; what is known of one that has none yet is in `PLANNED`. All rows have the same
problems, steps and evaluation. The arms that they are compared with are taken from where they are, if all values agree.
"""

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from response_priming import (
    arms,
    artifacts,
    distill,
    evaluate,
    generate,
    models,
    params,
    problems,
    provenance,
    scoring,
    stats,
)
from response_priming.methods import base
from response_priming.studies.ladder import Made, Rung, make

# Title and arXiv id of methods that are not built yet.
PLANNED = {
    "elad": ("ELAD", "2402.13098"),
    "retrikt": ("RetriKT", "2310.15594"),
    "moebert": ("MoEBERT", "2204.07675"),
    "lrp": ("Layer-wise relevance propagation", "2005.06139"),
}
NOT_BUILT = "not implemented"


def built(name: str) -> bool:
    """Whether a method has its file."""
    return provenance.module_file(f"methods.{name.replace('-', '_')}").exists()


def rows(run: params.RelatedRun) -> dict[str, Rung]:
    """What is trained: the arms to compare with, then each method that is built, and after it its controls.

    A control is named METHOD-CONTROL, and what is trained before a row for its sake ROW-round-N.

    Raises:
        InputError: a method is neither built nor planned.
    """
    found = {arm: Rung(arms.title(arm), arm, {}) for arm in arms.references(run.related_strategy)}
    for name in run.related_methods:
        if name in PLANNED and not built(name):
            continue
        kind = base.find(name)
        changes: dict[str, Any] = {name: {}}
        changes |= {f"{name}-{control}": kind.controls[control] for control in [*kind.controls][: run.related_controls]}
        for row, changed in changes.items():
            title = kind.title + f": {row.removeprefix(f'{name}-').replace('-', ' ')}" * bool(changed)
            rounds = [
                (f"{row}-round-{n}", f"{title}, round {n}", more) for n, more in enumerate(kind(**changed).rounds, 1)
            ]
            before = kind.before
            for place, words, more in [*rounds, (row, title, {})]:
                method = base.described(name, {**changed, **more})
                found[place] = Rung(
                    words,
                    kind.arm or run.related_strategy,
                    dict(kind.base),
                    store=place if kind.writes else None,
                    method=method,
                    live=method["parameters"].get("strategy", run.related_strategy) if kind.live else None,
                    before=before,
                    of=name if place == row != name else "",
                )
                before = place
    return found


def compare(run: params.RelatedRun) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows, made unless that is done already, and how much each method gains.

    The first table has a row for each of `rows`, and for what is not built `verdict` alone. Columns: `row`; `of`, the
    method of a control; `title`; `source`, arXiv id; `fidelity` (see `methods.base.Method`); those of
    `scoring.summary`; the gain in points over the first control, `control_points` with `control_low` and
    `control_high`, and over KD, `kd_...`; `verdict` on the former (see `evaluate.verdicts`); `mechanism`, numbers
    before and after training and those of what it prepared, in words; `leaks`, problems of the test that it met there;
    `teacher_accuracy`, of the responses to train problems that it learns from, by the same rule; and costs, means of
    the seeds: `teacher_generated`, `teacher_read` and `student_generated` (tokens), `steps`, `cpu_seconds` and
    `peak_mib` of its making, `active` (parameters).

    The second has a row a comparison, with the columns of `compare.tables.gains`: paired, and corrected for all here.
    """
    rungs = rows(run)
    common = {"seeds": run.related_seeds}
    made = {one.rung: one for one in make(run, rungs, run.output / "related", common)}
    gains = _gains(run, rungs, made)
    table = []
    for row in [*arms.references(run.related_strategy), *run.related_methods]:
        if row not in rungs:
            title, source = PLANNED[row]
            table.append({"row": row, "of": "", "title": title, "source": source, "verdict": NOT_BUILT})
            continue
        for name in [row, *(other for other in rungs if rungs[other].of == row)]:
            table.append(_row(run, rungs, made[name], gains[gains["arm"] == name]))
    return pd.DataFrame(table), gains


def _gains(run: params.RelatedRun, rungs: dict[str, Rung], made: dict[str, Made]) -> pd.DataFrame:
    names, right = list(made), [scoring.by_student(one.graded, run.rule) for one in made.values()]
    templates = scoring.templates(next(iter(made.values())).graded)
    chosen = [
        (row, baseline)
        for row in run.related_methods
        if row in made
        for baseline in [*(other for other in names if rungs[other].of == row), run.related_strategy]
    ]
    drawn = stats.sampled(right, None if templates is None else [templates] * len(right))
    places = [(names.index(row), names.index(baseline)) for row, baseline in chosen]
    found = []
    for (row, baseline), (new, old), gain in zip(
        chosen, places, stats.gains(drawn, places, seed=run.seed), strict=True
    ):
        titles = {"title": rungs[row].title, "baseline_title": rungs[baseline].title}
        gain |= stats.answers_that_differ(right[new], right[old])
        lacks, verdict = stats.shortfall(gain), evaluate.verdicts.on(gain)
        found.append({"arm": row, "baseline": baseline} | titles | gain | {"lacks": lacks, "verdict": verdict})
    columns = ["arm", "title", "baseline", "baseline_title", *stats.GAIN, *stats.DIFFER, "lacks", "verdict"]
    return pd.DataFrame(found, columns=columns)


def _row(run: params.RelatedRun, rungs: dict[str, Rung], made: Made, gains: pd.DataFrame) -> dict[str, Any]:
    """A row of the table (see `compare`); `gains`: those of its method."""
    rung, training = rungs[made.rung], made.training
    row: dict[str, Any] = {"row": made.rung, "of": rung.of, "title": rung.title}
    if rung.method and not row["of"]:
        kind = base.find(made.rung)
        row |= {"source": kind.source, "fidelity": kind.fidelity}
    row |= scoring.summary(made.graded, run.rule)
    over = {
        "kd" if gain["baseline"] == run.related_strategy else "control": gain for gain in gains[::-1].to_dict("records")
    }
    for baseline, gain in over.items():
        row |= {f"{baseline}_{key}": gain[key] for key in ("points", "low", "high")}
    row["verdict"] = over["control"]["verdict"] if "control" in over else ""
    folders = [folder.path for folder in training.folders]
    spent, parts = collections.Counter[str](), _parts(training)
    seconds = [sum(artifacts.read(part)["cpu_seconds"] for part in made_from) for made_from in parts]
    noted = {part: found for part in parts[0] if (found := base.noted(part))}
    for found in noted.values():
        spent.update(found["spent"])
    if training.store:
        given = generate.read(training.store, ["problem_id", "text", "prompt_tokens", "tokens", "finished"])
        asked = problems.load(run, "train", run.n_train, seed=run.seed)
        known = given[given["problem_id"].isin([problem.id for problem in asked])]
        row["teacher_accuracy"] = scoring.summary(scoring.grade_teacher(known, asked, run.rule), run.rule)["accuracy"]
        if training.store not in noted:
            spent.update(teacher_generated=int(given["tokens"].map(len).sum()))
            spent.update(teacher_read=int(given["prompt_tokens"].sum()))
    speeds = [pd.read_parquet(path / artifacts.MEASURED / "speed.parquet") for path in folders]
    own = distill.of_method(training) if rung.method else []
    for one in own:
        spent.update({key: round(tokens / len(own)) for key, tokens in one["spent"].items()})
    prepared = [noted[folder] for folder in training.folders[0].reads if folder in noted]
    numbers = [f"{name} {number:.3g}" for found in prepared for name, number in found["numbers"].items()]
    row["mechanism"] = "; ".join([*_in_words([one["mechanism"] for one in own]), *numbers])
    row |= {"leaks": sum(found["leaks"] for found in prepared)} if prepared else {}
    row |= {key: spent[key] for key in ("teacher_generated", "teacher_read", "student_generated")}
    row |= {"steps": training.train_steps, "cpu_seconds": float(np.mean(seconds))}
    row["peak_mib"] = float(max(speed["peak_mib"].max() for speed in speeds))
    row["active"] = own[0]["active"] if own else models.skeleton(run.student, run.student_revision).num_parameters()
    return row


def _parts(training: params.DistillRun) -> list[set[Path]]:
    """Each seed's student and all that it was made from."""
    begun = _parts(training.earlier) if training.earlier else [set[Path]()] * len(training.seeds)
    return [{one.path, *one.reads} | parts for one, parts in zip(training.folders, begun, strict=True)]


def _in_words(found: list[dict[str, dict[str, float]]]) -> list[str]:
    """The means of numbers before and after training, each as `rank 12.3 to 11.9`."""
    parts = []
    for name in found[0]["after"] if found else ():
        before, after = (np.mean([one[when][name] for one in found]) for when in ("before", "after"))
        parts.append(f"{name} {before:.3g} to {after:.3g}")
    return parts
