"""The tables of the comparison that follow from the arms' graded answers alone, as pure functions.

`scores` is always arm -> its graded answers (see `evaluate.answer`), in the order of the table and the same problems in
the same order for every arm. An arm with several students has one block of all problems for each `seed`. Shares are
fractions; differences are in percentage points.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from response_priming import arms, evaluate, scoring, stats
from response_priming.extraction import RULES

COUNTED = ["n", "seeds", "correct", "accuracy", "low", "high"]
SLICES = ["arm", "title", "rule", "calculations", "seed", *COUNTED, "problems_low", "problems_high"]


def accuracy(scores: Mapping[str, pd.DataFrame], rule: str) -> pd.DataFrame:
    """One row an arm: `scoring.summary`."""
    return pd.DataFrame(
        {"arm": arm, "title": arms.title(arm), **scoring.summary(answers, rule)} for arm, answers in scores.items()
    )


def teacher(graded: Mapping[str, pd.DataFrame], rule: str) -> pd.DataFrame:
    """One row a strategy: `scoring.summary` of the teacher's own graded responses under it."""
    rows = [{"arm": name, "title": arms.title(name), **scoring.summary(rows, rule)} for name, rows in graded.items()]
    return pd.DataFrame(rows, columns=["arm", "title", *scoring.SUMMARY])


def pairs(names: Collection[str]) -> list[tuple[str, str]]:
    """Every trained arm with the undistilled student, every primed arm or control with the unprimed one, every primed
    arm with the one with neutral words, and every distilled one with the fine-tuned; as far as both are there."""
    found = [(arm, arms.UNDISTILLED) for arm in names if arm != arms.UNDISTILLED]
    found += [(arm, arms.unprimed(arm)) for arm in names if arm not in arms.CONTROLS and arm != arms.unprimed(arm)]
    found += [(arm, arms.NEUTRAL) for arm in names if arms.is_primed(arm)]
    found += [(arm, arms.FINE_TUNED) for arm in names if arms.is_distilled(arm)]
    return [pair for pair in found if pair[1] in names]


def gains(scores: Mapping[str, pd.DataFrame], rule: str, *, seed: int) -> pd.DataFrame:
    """A row for each of the `pairs`, an arm and its baseline: the columns of `stats.gains`, corrected for all of them,
    those of `stats.answers_that_differ`, and `lacks` (see `stats.shortfall`)."""
    chosen = pairs(scores)
    names, right = list(scores), [scoring.by_student(answers, rule) for answers in scores.values()]
    untrained = [place for place, arm in enumerate(names) if arm in arms.UNTRAINED]
    templates = scoring.templates(next(iter(scores.values())))
    drawn = stats.sampled(right, None if templates is None else [templates] * len(right), untrained=untrained)
    places = [(names.index(arm), names.index(baseline)) for arm, baseline in chosen]
    primary = [place for place, pair in enumerate(chosen) if pair in evaluate.verdicts.PRIMARY]
    rows = []
    for (arm, baseline), (new, old), gain in zip(
        chosen, places, stats.gains(drawn, places, seed=seed, primary=primary), strict=True
    ):
        titles = {"arm": arm, "title": arms.title(arm), "baseline": baseline, "baseline_title": arms.title(baseline)}
        row = titles | gain | stats.answers_that_differ(right[new], right[old])
        rows.append(row | {"lacks": stats.shortfall(row)})
    columns = ["arm", "title", "baseline", "baseline_title", *stats.GAIN, *stats.DIFFER, "lacks"]
    return pd.DataFrame(rows, columns=columns)


def power(names: Sequence[str], n: int, students: int, *, seed: int, **assumed: float) -> pd.DataFrame:
    """The smallest gains in points that designs of these arms find 4 times in 5, before any of them is run.

    One row a design, of so many `problems` and `students` of each trained arm, the first with `n` and `students`:
    `primary`, of the first primary comparison or of the less precise of the two, NaN where neither is made; `others`,
    the least precise of all the others, corrected for them all; and `lacks`. No row where no two arms are compared.

    Args:
        assumed: see `stats.assumed`.
    """
    chosen, rows = pairs(names), []
    places = [(names.index(arm), names.index(baseline)) for arm, baseline in chosen]
    primary = [place for place, pair in enumerate(chosen) if pair in evaluate.verdicts.PRIMARY]
    designs = dict.fromkeys([(n, students), (n, 3), (n, 5), (2 * n, 3), (2 * n, 5), (4 * n, 5)]) if chosen else ()
    for size, each in designs:
        drawn = stats.assumed(size, [0 if arm in arms.UNTRAINED else each for arm in names], **assumed)
        found = stats.gains(drawn, places, seed=seed, primary=primary)
        least = [gain["detectable"] for gain in found]
        main = max((least[place] for place in primary), default=np.nan)
        others = max(points for place, points in enumerate(least) if place not in primary)
        # Two untrained arms have a student each, whatever the design.
        trained = max(found, key=lambda gain: gain["seeds"])
        lacks = stats.shortfall(trained | {"differ": round(assumed["discordant"] * size)})
        rows.append((size, each, main, others, lacks))
    return pd.DataFrame(rows, columns=["problems", "students", "primary", "others", "lacks"])


def slices(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every accuracy a reader may ask for: a row an arm, rule, number of `calculations` and `seed`, the last two NaN
    where a row is of all of them. `low` and `high` cover what an arm's accuracy does (see `stats.accuracy_interval`),
    `problems_low` and `problems_high` another draw of problems for these very students."""
    rows = []
    for arm, answers in scores.items():
        lengths = sorted(answers["calculations"].unique()) if "calculations" in answers else []
        for number in (np.nan, *lengths):
            some = answers if np.isnan(number) else answers[answers["calculations"] == number]
            # Problems of a single template, say, tell nothing of others.
            alone = not np.isnan(number) and some.get("template", pd.Series()).nunique() < 2
            named = None if alone else scoring.templates(some)
            seeds = list(answers.get("seed", pd.Series([0])).unique())
            for rule in RULES:
                right = scoring.by_student(some, rule)
                # Problems alone: the students' mean is all there is, and each problem, or template, a cluster.
                clusters = np.arange(right.shape[1]) if named is None and len(right) > 1 else named
                students = zip(seeds, np.split(right, len(right)), strict=True) if len(right) > 1 else ()
                for seed, part in ((np.nan, right), *students):
                    ends = stats.accuracy_interval(part, named)
                    mean = part.mean(axis=0, keepdims=True)
                    over_problems = ends if len(part) == 1 else stats.accuracy_interval(mean, clusters)
                    counts = (part.shape[1], len(part), int(part.sum()), float(part.mean()), *ends, *over_problems)
                    rows.append((arm, arms.title(arm), rule, number, seed, *counts))
    return pd.DataFrame(rows, columns=SLICES)


def rules(slices: pd.DataFrame) -> pd.DataFrame:
    """One row an arm and extraction rule, of the `slices` of all problems and students."""
    return slices[slices["calculations"].isna() & slices["seed"].isna()][["arm", "title", "rule", *COUNTED]]


def lengths(slices: pd.DataFrame, rule: str) -> pd.DataFrame:
    """One row an arm and number of `calculations` in a problem's solution, of the `slices` of all students."""
    some = slices[slices["calculations"].notna() & slices["seed"].isna() & (slices["rule"] == rule)]
    return some[["arm", "title", "calculations", *COUNTED]].astype({"calculations": int})


def samples(scores: Mapping[str, pd.DataFrame], rule: str, *, count: int = 2) -> pd.DataFrame:
    """What every arm's first student answered to the first `count` test problems: the first ones, not chosen ones."""
    tables = [answers.head(count).assign(arm=arm, title=arms.title(arm)) for arm, answers in scores.items()]
    table = pd.concat(tables).sort_index(kind="stable").rename(columns={f"{rule}-correct": "correct"})
    return table[["question", "answer", "arm", "title", "response", "correct"]].reset_index(drop=True)
