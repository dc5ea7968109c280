"""Calculations (step consistency): the table of steps that are right, and where steps and answers disagree.

The paper (Goyal et al. 2024, arXiv 2412.17846) scores the consistency of steps by a language-inference model, and gets
under 1 % for every student. Steps of arithmetic need no model: each `a op b = c` can be computed (see `steps`).
"""

from collections.abc import Mapping

import pandas as pd

from response_priming import arms, stats
from response_priming.methods import steps


def calculations_table(scores: Mapping[str, pd.DataFrame], rule: str, *, seed: int = 0) -> pd.DataFrame:
    """One row an arm, from its graded answers (see `evaluate.answer`), all seeds together.

    `responses`, of so many `seeds`, and the share `with_steps`; `steps`; `right`, the share of steps that are right,
    with `low` and `high`, its 95 % percentile interval, bootstrapped over problems because steps of one response go
    together; and of the responses with steps, the shares `right_despite` (answer right, a step wrong) and
    `wrong_though` (answer wrong, all steps right).
    """
    rows = []
    for arm, answers in scores.items():
        checked = answers["response"].map(steps.check)
        counts = pd.DataFrame({"steps": checked.map(len), "right": checked.map(sum), "problem": answers["problem_id"]})
        some, correct = counts["steps"] > 0, answers[f"{rule}-correct"].astype(bool)
        consistent = counts["steps"] == counts["right"]
        by_problem = counts.groupby("problem", sort=False)[["right", "steps"]].sum().to_numpy(float)
        low, high = stats.ratio_interval(by_problem[by_problem[:, 1] > 0], seed)
        row = {
            "arm": arm,
            "title": arms.title(arm),
            "responses": len(answers),
            "seeds": answers["seed"].nunique(),
            "with_steps": some.mean(),
            "steps": counts["steps"].sum(),
            "right": float(stats.ratio(*by_problem.T)),
            "low": low,
            "high": high,
            "right_despite": (correct & ~consistent)[some].mean(),
            "wrong_though": (~correct & consistent)[some].mean(),
        }
        rows.append(row)
    return pd.DataFrame(rows)
