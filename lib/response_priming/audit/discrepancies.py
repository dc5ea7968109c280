"""Where the published study contradicts itself, its code or its logs: the numbers, and the table that states them.

The sentences are in params/published-results.yaml, and name the numbers in braces (see `style.filled`). What can be
computed is, from the counts of the logs (`recount`) and the printed figures; the rest was read in the released code.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from response_priming import arms, stats, style
from response_priming.audit.recount import RULE, Counts, differences

BEST = "ground-truth"


def table(facts: Mapping[str, Any], values: Mapping[str, Any]) -> pd.DataFrame:
    """One row a discrepancy, with `values` (see `numbers`) in its sentences."""
    return pd.DataFrame(
        {"no.": number} | {key: style.filled(text, values) for key, text in entry.items()}
        for number, entry in enumerate(facts["discrepancies"], start=1)
    )


def source(found: Counts | None, facts: Mapping[str, Any]) -> str:
    """A sentence that says where the counts come from, and whether a recount equals the record."""
    differing = differences(found, facts["recount"]) if found else []
    case = "recorded" if found is None else "differing" if differing else "equal"
    return style.filled(facts["source"][case], {"differing": differing})


def numbers(counts: Counts, facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """The numbers of the sentences: printed ones, recounted ones, and those of the released code.

    Differences are in percentage points. A list has a number an arm, of the trained arms as far as they have one, and
    its shares are per cent; all other shares are fractions. `control` is the undistilled arm; `matching`, how many of
    the problems' names keep their place in lexicographic order.

    Args:
        counts: of the logs (see `recount.count`).
        facts: of params/published-results.yaml.
        tables: those of `recount.tabulate`.
    """
    n, chosen, code = counts["n"], counts["arms"], facts["code"]
    trained = [found for arm, found in chosen.items() if arm != arms.UNDISTILLED]
    graded = [found for found in trained if found["graded"] is not None]
    shares = tables["decomposition"].set_index("arm")
    taught = shares[~shares.index.isin(arms.CONTROLS)]
    tests = tables["tests"].set_index(["baseline", "arm"])
    over_none, over_tuned = (
        tests.loc[baseline].loc[taught.index.drop(arms.UNPRIMED)] for baseline in (arms.UNPRIMED, arms.FINE_TUNED)
    )
    best, unprimed = (facts["arms"][arm]["readme_accuracy"] for arm in (BEST, arms.UNPRIMED))
    # The best first.
    ranked = tables["rules"].set_index(["rule", "arm"])["accuracy"].sort_values(ascending=False, kind="stable")
    names = [f"Question {number}" for number in range(1, code["train_problems"] + 1)]
    return {
        **{key: facts[key] for key in ("relative_gain", "model_card_accuracy", "teacher_confidence", "code")},
        "n": n,
        "arms": {arm.replace("-", "_"): _beside_print(counts, facts, arm) for arm in facts["arms"]},
        "control": {key: chosen[arms.UNDISTILLED][key] for key in ("cap", "capped")},
        "cap": [found["cap"] for found in trained],
        "capped": [100 * found["capped"] / n for found in trained],
        **{key: list(100 * taught[key]) for key in ("boxed_share", "boxed_right", "unboxed_right")},
        "slipped": [found["slipped"] for found in trained],
        "by_hand": [n - found["answered"]["published"] for found in graded],
        "graded_otherwise": [found["graded_otherwise"] for found in graded],
        "gain": {**over_none.loc[BEST, ["points", *stats.RELATIVE]], "boxing": shares.loc[BEST, "boxing_points"]},
        "gain_printed": best / unprimed - 1,
        "primed": {"points": list(over_none["points"]), "p": over_none["p"].max()},
        "over_fine_tuning": {"points": list(over_tuned["points"]), "p": over_tuned["p"].max()},
        "distillation_points": tests.loc[(arms.UNDISTILLED, arms.UNPRIMED), "points"],
        "matching": sum(one == other for one, other in zip(names, sorted(names), strict=True)),
        "order": {rule.replace("-", "_"): ranked.loc[rule].to_dict() for rule in (RULE, "last-number")},
        "attention": {metric: _against_accuracy(counts, means) for metric, means in facts["attention"].items()},
    }


def _beside_print(counts: Counts, facts: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """What the README prints of an arm, its count as a share, the counts that fit its per cent, and the recount."""
    printed, n = facts["arms"][arm], facts["n"]
    recounted = {"share": printed["readme_count"] / n, "fitting": fitting(printed["readme_accuracy"], n)}
    return {**printed, **recounted, "correct": counts["arms"][arm]["correct"][RULE]}


def fitting(accuracy: float, n: int) -> list[int]:
    """The counts out of `n` whose percentage has the printed two decimals, cut off behind them as the README does."""
    return [count for count in range(n + 1) if 10_000 * count // n == round(10_000 * accuracy)]


def _against_accuracy(counts: Counts, means: Mapping[str, float]) -> dict[str, float]:
    """Rank correlation of some arms' published means with the recounted accuracy, its p, and the range of the means."""
    rho, p = stats.rank_correlation(list(means.values()), [counts["arms"][arm]["correct"][RULE] for arm in means])
    return {"rho": rho, "p": p, "range": max(means.values()) - min(means.values())}
