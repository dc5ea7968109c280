"""Whether intervals, tests and verdicts on gains do what they say, on simulated answers.

    python benchmarks/coverage.py [SIMULATIONS]        writes benchmarks/results/coverage.md; a few minutes

Coverage: an undistilled student and four trained arms answer problems of random difficulty; log-odds have a part for
the problem, its template, the arm at the problem and at the template, and the student. Counted is how often an interval
of `stats.gains` holds the true gain, that of the accuracies over all problems, templates and students, and how often
all intervals, corrected, hold theirs at once; the rest to 1 is the share of runs with any false finding. Verdicts:
three primed arms, the unprimed one and one with neutral words, judged by `evaluate.verdicts`.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from response_priming import arms, stats
from response_priming.evaluate import verdicts

RESULTS = Path(__file__).parent / "results" / "coverage.md"
SEED, SIMULATIONS = 0, 2000
PROBLEM, AT_PROBLEM = 1.5, 0.5  # standard deviations in log-odds: of problems, and of an arm at them
LUCK = 0.14  # of students; at 45 % right 2.4 points, so 3.4 in a difference of two


class Design(NamedTuple):
    """`templates`: 0 where each problem is its own; `template`, `luck`: standard deviations in log-odds."""

    problems: int
    templates: int
    students: int
    accuracy: tuple[float, ...] = (0.1, 0.45, 0.45, 0.45, 0.45)
    luck: tuple[float, ...] = (0, *[LUCK] * 4)
    template: float = 0.5


LEVELS = [(level,) * 5 for level in (0.05, 0.25, 0.75, 0.95)]
DESIGNS = [
    *(Design(200, 0, students, luck=(0.0,) * 5) for students in (1, 3)),
    *(Design(200, 0, students) for students in (1, 2, 3, 5)),
    *(Design(200, 0, 3, accuracy=level) for level in LEVELS),
    Design(200, 0, 3, accuracy=(0.1, 0.05, 0.45, 0.6, 0.8)),
    *(Design(400, templates, 3) for templates in (3, 6, 10, 30, 60)),
    *(Design(400, 30, students) for students in (1, 2, 5)),
    *(Design(400, 30, 3, accuracy=level) for level in (LEVELS[0], LEVELS[-1])),
    Design(400, 30, 3, template=1.0),
    Design(400, 30, 3, luck=(0, *[0.4] * 4)),
    *(Design(1319, 0, students) for students in (1, 3, 5)),
    Design(200, 0, 3, luck=(0, *[LUCK] * 3, 0.4)),
]
PAIRS = [(1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (3, 1), (4, 1)]


def logit(accuracy: float, variance: float) -> float:
    """The mean log-odds that make this accuracy, where log-odds are normal with this variance."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(brentq(lambda mean: weights @ odds(mean + variance**0.5 * nodes) / weights.sum() - accuracy, -20, 20))


def odds(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))


def covered(design: Design, simulations: int) -> str:
    """A row of the table."""
    stats.DRAWS = 4000  # a fifth of them, for time
    rng, count = np.random.default_rng(SEED), len(design.accuracy)
    labels, spread = None, design.template if design.templates else 0.0
    places = np.arange(design.problems) % (design.templates or design.problems)
    if design.templates:
        labels = [places] * count
    variance = PROBLEM**2 + AT_PROBLEM**2 + 1.25 * spread**2
    means = [logit(a, variance + luck**2) for a, luck in zip(design.accuracy, design.luck, strict=True)]
    truth = 100 * np.array([design.accuracy[new] - design.accuracy[old] for new, old in PAIRS])
    held = np.zeros((simulations, len(PAIRS), 2), bool)
    for one in range(simulations):
        common = rng.normal(0, PROBLEM, design.problems) + rng.normal(0, spread, design.problems)[places]
        answers = []
        for arm, (mean, luck) in enumerate(zip(means, design.luck, strict=True)):
            own = rng.normal(0, AT_PROBLEM, design.problems) + rng.normal(0, spread / 2, design.problems)[places]
            level = mean + common + own + rng.normal(0, luck, (design.students if arm else 1, 1))
            answers.append(rng.random(level.shape) < odds(level))
        found = stats.gains(stats.sampled(answers, labels, untrained=[0]), PAIRS, seed=one)
        for place, (row, gain) in enumerate(zip(found, truth, strict=True)):
            held[one, place] = [row[f"{key}low"] <= gain <= row[f"{key}high"] for key in ("alone_", "")]
            assert (row["p"] < stats.SIGNIFICANT) == (row["low"] * row["high"] > 0)
    lacks = stats.shortfall(found[-1] | {"differ": design.problems}) or "testable"
    levels = " ".join(f"{100 * level:.0f}" for level in dict.fromkeys(design.accuracy))
    lucks = " ".join(f"{luck:g}" for luck in dict.fromkeys(design.luck[1:]))
    kept = held.mean(axis=0)
    values = [
        f"{100 * share:.1f}" for share in (kept[:4, 0].mean(), kept[4:, 0].mean(), held[..., 1].all(axis=1).mean())
    ]
    sizes = (design.problems, design.templates or "none", f"{spread:g}", design.students, lucks, levels)
    return "| " + " | ".join(map(str, (*sizes, *values, lacks))) + " |"


def judged(gain: float, sd: float, students: int, simulations: int) -> str:
    """How often the primary claim has each verdict: of 200 problems, 16 % discordant, `gain` and `sd` in points."""
    rng, n = np.random.default_rng(SEED), 200
    names = [arms.UNPRIMED, arms.NEUTRAL, "ground-truth", "teacher", "confidence"]
    pairs = [(names[new], names[old]) for new, old in ((2, 0), (2, 1), (3, 0), (4, 0))]
    places = [(names.index(new), names.index(old)) for new, old in pairs]
    found = []
    for one in range(simulations):
        right, answers = rng.random(n) < 0.45, []
        for name in names:
            # Of all problems, those that a student has right though they are usually wrong, and the other way round.
            moved = (gain / 100 if arms.is_primed(name) else 0) + rng.normal(0, sd / 100 / 2**0.5, (students, 1))
            apart = 0.08 if arms.is_primed(name) else 0.0
            won, lost = np.maximum(apart + moved / 2, 0) / 0.55, np.maximum(apart - moved / 2, 0) / 0.45
            answers.append(np.where(right, rng.random((students, n)) >= lost, rng.random((students, n)) < won))
        rows = stats.gains(stats.sampled(answers), places, seed=one, primary=[0, 1])
        counts = [stats.answers_that_differ(answers[new], answers[old]) for new, old in places]
        table = {pair: row | count for pair, row, count in zip(pairs, rows, counts, strict=True)}
        found.append(
            [verdicts.on_primary(table), max(verdicts.on(table[pair]) for pair in pairs if pair[1] == names[0])]
        )
    shares = [100 * np.mean([verdict[which] == verdicts.SUPPORTED for verdict in found]) for which in (0, 1)]
    said = "settled" if found[0][0] != verdicts.UNSETTLED else found[0][0]
    return f"| {gain:g} | {sd:g} | {students} | {shares[0]:.1f} | {shares[1]:.1f} | {said} |"


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else SIMULATIONS
    cases = [(gain, sd, students) for gain, sd in ((8, 0), (8, 3.4), (0, 0), (0, 3.4)) for students in (1, 2, 3, 5)]
    with ProcessPoolExecutor(2) as pool:
        rules = [pool.submit(judged, *case, number) for case in cases]
        coverage = [pool.submit(covered, design, number) for design in DESIGNS]
        for row in (*rules, *coverage):
            print(row.result(), flush=True)
        text = f"""# What the intervals of gains cover, and how often a claim is supported

`python benchmarks/coverage.py {number}`: {number:,} simulations a row, seed {SEED}; so a share near 95 % is known to
{196 * (0.95 * 0.05 / number) ** 0.5:.1f} points.

Coverage in per cent, should be 95. "untrained", "trained": intervals alone, of trained arms over the undistilled
student and over a trained one. "family": all seven corrected intervals at once; the rest to 100 is the share of runs
with any false finding. "template", "luck": standard deviations in log-odds, of templates and of students; 0.14 are 2.4
points at 45 %. In the last row one arm's students differ three times as much as the others', which the procedure
assumes not to be; "trained" is the mean of three arms there, of which that is one.

| problems | templates | template | students | luck | accuracies (%) | untrained | trained | family | by the rules |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(row.result() for row in coverage)}

How often a claim is supported, in per cent: 200 problems, 16 % discordant, three primed arms that all have the gain.
"primary": Ground Truth, over both the unprimed arm and neutral words; "best of": any primed arm over the unprimed one,
corrected. "luck": standard deviation of a gain between pairs of students (points).

| gain (points) | luck (points) | students an arm | primary | best of | by the rules |
|---|---|---|---|---|---|
{chr(10).join(row.result() for row in rules)}
"""
    RESULTS.write_text(text, encoding="utf-8")
