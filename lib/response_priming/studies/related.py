"""Related methods of distillation, side by side: each trained and evaluated beside its controls, in `related/ROW/`.

A method is a file of `methods/`. All rows have the same problems and evaluation, and the same steps where the method
does not say otherwise. The arms that they are compared with are taken from where they are, if all values agree.
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
    scoring,
    stats,
)
from response_priming.errors import InputError
from response_priming.methods import base
from response_priming.studies.ladder import Made, Rung, make

# What explains students and trains none (see `studies.relevance`): title and arXiv id.
EXPLAINS = {"lrp": ("Layer-wise relevance propagation", "2005.06139")}
EXPLAINED = "trains nothing; see its section"


def rows(run: params.RelatedRun) -> dict[str, Rung]:
    """What is trained: the arms to compare with, then each method, and after it its controls.

    A control is named METHOD-CONTROL, and what is trained before a row for its sake ROW-round-N.

    Raises:
        InputError: there is no such method, or the run's engine cannot run its students.
    """
    found = {arm: Rung(arms.title(arm), arm, {}) for arm in arms.references(run.related_strategy)}
    for name in run.related_methods:
        if name in EXPLAINS:
            continue
        kind = base.find(name)
        if kind.runs_on not in (None, run.inside(run.evaluate_engine)):
            raise InputError(
                f"evaluate.evaluate_engine = {run.evaluate_engine!r}: cannot run the students of {name}; "
                f"allowed: {kind.runs_on!r}"
            )
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
                    kind.arm or run.related_strategy if method["parameters"].get("trained", True) else arms.UNDISTILLED,
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

    The first table has a row for each of `rows`; what trains nothing has a `verdict` alone. Columns:
    `row`; `of`, the method of a control; `title`, and `short`, behind its method's; `source`, arXiv id; `fidelity` (see
    `methods.base.Method`); those of `scoring.summary`; the gain in points over the first control, `control_points` with
    `control_low` and `control_high`, and over KD, `kd_...`; `verdict` on the former (see `evaluate.verdicts`);
    `mechanism`, numbers before and after training and those of what it prepared, in words, one a line; `leaks`,
    problems of the test that it met there; `teacher_accuracy`, of the responses to train problems that it learns from,
    by the same rule; and costs, means of the seeds: `teacher_generated`, `teacher_read` and `student_generated`
    (tokens), `steps`, `cpu_seconds` and `peak_mib` of its making, `active` (parameters).

    The second has a row a comparison, with the columns of `compare.tables.gains`: paired, and corrected for all here.
    """
    rungs = rows(run)
    common = {"seeds": run.related_seeds}
    made = {one.rung: one for one in make(run, rungs, run.output / "related", common)}
    gains = _gains(run, rungs, made)
    table = []
    for row in [*arms.references(run.related_strategy), *run.related_methods]:
        if row not in rungs:
            title, source = EXPLAINS[row]
            about = {"title": title, "short": title, "source": source, "verdict": EXPLAINED}
            table.append({"row": row, "of": "", **about})
            continue
        for name in [row, *(other for other in rungs if rungs[other].of == row)]:
            table.append(_row(run, rungs, made[name], gains[gains["arm"] == name]))
    return pd.DataFrame(table), gains


def rounds(run: params.RelatedRun) -> pd.DataFrame:
    """The learning curves of the methods that go by rounds, and of their controls: a row a round, made unless it is.

    Columns: `title`; `round`, from 1; `texts` that its student is trained on; `accuracy` with `low` and `high` (see
    `scoring.summary`); `teacher_generated` and `student_generated`, tokens of all preparation so far; `prepared`, the
    numbers of this round's, in words.
    """
    rungs = rows(run)
    going = {place.partition("-round-")[0] for place in rungs if "-round-" in place}
    own = {place: rung for place, rung in rungs.items() if place.partition("-round-")[0] in going}
    begun = {rung.before for rung in own.values()}
    needed = {place: rung for place, rung in rungs.items() if place in own or place in begun}
    table, counts = list[dict[str, Any]](), collections.Counter[str]()
    for place, training, graded, _ in make(run, needed, run.output / "related", {"seeds": run.related_seeds}):
        if place not in own:
            continue
        row, spent = place.partition("-round-")[0], collections.Counter[str]()
        counts[row] += 1
        for part in _parts(training)[0]:
            spent.update(base.noted(part).get("spent", {}))
        found = {"title": rungs[row].title, "round": counts[row]} | scoring.summary(graded, run.rule)
        found |= {key: spent[key] for key in ("teacher_generated", "student_generated")}
        if training.store:
            found["texts"] = int(generate.read(training.store, [])["kept"].sum())
        prepared = [base.noted(folder) for folder in training.folders[0].reads]
        table.append(found | {"prepared": "; ".join(_numbers(prepared))})
    return pd.DataFrame(table)


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
    control = made.rung.removeprefix(f"{rung.of}-").replace("-", " ")
    row: dict[str, Any] = {"row": made.rung, "of": rung.of, "title": rung.title}
    row["short"] = f"control: {control}" if rung.of else rung.title
    if rung.method and not row["of"]:
        kind = base.find(made.rung)
        row |= {"source": kind.source, "fidelity": kind.fidelity if kind.source else "ours"}
    row |= scoring.summary(made.graded, run.rule)
    over = {
        "kd" if gain["baseline"] == run.related_strategy else "control": gain for gain in gains[::-1].to_dict("records")
    }
    for baseline, gain in over.items():
        row |= {f"{baseline}_{key}": gain[key] for key in ("points", "low", "high")}
    row["verdict"] = over["control"]["verdict"] if "control" in over else ""
    folders = [folder.path for folder in training.folders] if rung.arm not in arms.UNTRAINED else []
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
    own = distill.of_method(training) if rung.method and folders else []
    for one in own:
        spent.update({key: round(tokens / len(own)) for key, tokens in one["spent"].items()})
    prepared = [noted[folder] for folder in training.folders[0].reads if folder in noted]
    row["mechanism"] = "\n".join([*_in_words([one["mechanism"] for one in own]), *_numbers(prepared)])
    row |= {"leaks": sum(found["leaks"] for found in prepared)} if prepared else {}
    row |= {key: spent[key] for key in ("teacher_generated", "teacher_read", "student_generated")}
    row |= {"steps": training.train_steps if folders else 0, "cpu_seconds": float(np.mean(seconds))}
    row["peak_mib"] = float(max((speed["peak_mib"].max() for speed in speeds), default=np.nan))
    row["active"] = own[0]["active"] if own else models.skeleton(run.student, run.student_revision).num_parameters()
    return row


def _parts(training: params.DistillRun) -> list[set[Path]]:
    """Each seed's student and all that it was made from."""
    begun = _parts(training.earlier) if training.earlier else [set[Path]()] * len(training.seeds)
    made = [set[Path]() if training.arm in arms.UNTRAINED else {one.path} for one in training.folders]
    return [own.union(one.reads, parts) for own, one, parts in zip(made, training.folders, begun, strict=True)]


def _in_words(found: list[dict[str, dict[str, float]]]) -> list[str]:
    """The means of numbers before and after training, each as `rank 12.3 to 11.9`."""
    parts = []
    for name in found[0]["after"] if found else ():
        before, after = (np.mean([one[when][name] for one in found]) for when in ("before", "after"))
        parts.append(f"{name} {before:.3g}" + f" to {after:.3g}" * bool(before != after))
    return parts


def _numbers(prepared: list[dict[str, Any]]) -> list[str]:
    """The numbers of preparations (see `base.note`), each as `right 0.5`."""
    return [f"{name} {number:.3g}" for found in prepared for name, number in found.get("numbers", {}).items()]
