"""The recount of the released logs: what the audit counts in them, and the tables that follow from the counts alone.

The tables need no log, so they are the same whether the counts were made just now or are those on record. Shares are
fractions; differences are in percentage points.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from response_priming import arms, stats
from response_priming.extraction import RULES, boxed_number
from response_priming.scoring import grade

RULE = "boxed-first"  # one rule for every arm, close to the released cascade's first step
Counts = dict[str, Any]


def count(logs: Mapping[str, pd.DataFrame]) -> Counts:
    """All that the audit takes from the logs (see `released.read`).

    `n`, problems. `arms`, of each: the longest response (`cap`, tokens), and numbers of responses: that ran into the
    cap, that have a boxed number, those of either that are right by `RULE`; that the released grading marks correct,
    and on which it contradicts `RULE` (None: not graded); for which the cascade's slip changes the number; answered and
    correct by each rule. `only_right`: for each arm and each other one, the problems that the arm gets right by `RULE`
    and the other does not.
    """
    chosen, verdicts = {}, {}
    for arm, log in logs.items():
        graded = grade(log)
        verdicts[arm] = right = graded[f"{RULE}-correct"]
        boxed, capped = graded["response"].map(boxed_number), graded["capped"]
        marked = graded["graded"].astype(bool) if "graded" in graded else None
        chosen[arm] = {
            "cap": int(graded["tokens"].max()),
            "capped": int(capped.sum()),
            "capped_correct": int((capped & right).sum()),
            "boxed": int(boxed.sum()),
            "boxed_correct": int((boxed & right).sum()),
            "graded": None if marked is None else int(marked.sum()),
            "graded_otherwise": None if marked is None else int((marked != right).sum()),
            "slipped": int((graded["published"].fillna("") != graded["published-corrected"].fillna("")).sum()),
            "answered": {rule: int(graded[rule].notna().sum()) for rule in RULES},
            "correct": {rule: int(graded[f"{rule}-correct"].sum()) for rule in RULES},
        }
    only_right = {
        arm: {other: int((right & ~verdicts[other]).sum()) for other in logs if other != arm}
        for arm, right in verdicts.items()
    }
    return {"n": len(next(iter(logs.values()))), "arms": chosen, "only_right": only_right}


def differences(found: Any, recorded: Any, name: str = "") -> list[str]:
    """Every count in which two differ, as `arms.none.boxed = 411 (recorded: 412)`."""
    if not (isinstance(found, dict) and isinstance(recorded, dict)):
        return [] if found == recorded else [f"{name} = {found} (recorded: {recorded})"]
    keys = dict.fromkeys([*found, *recorded])
    return [
        line
        for key in keys
        for line in differences(found.get(key), recorded.get(key), f"{name}.{key}" if name else str(key))
    ]


def rows(counts: Counts, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an arm and rule, and under `graded` and `readme` what the log's grading and the README say.

    `arm`; `rule`; `n`; `answered` and `correct`, numbers of responses; `accuracy`, a fraction, with `low` and `high`,
    its 95 % Wilson interval. The README's accuracy is the printed one, whether or not its count bears it out, and has
    no interval; None stands for what a log does not have.
    """
    n, made = counts["n"], []
    for arm, found in counts["arms"].items():
        for rule in RULES:
            made.append(_row(arm, rule, n, found["answered"][rule], found["correct"][rule]))
        made.append(_row(arm, "graded", n, None if found["graded"] is None else n, found["graded"]))
        printed = facts["arms"][arm]
        readme = _row(arm, "readme", facts["n"], None, None)
        made.append(readme | {"correct": printed["readme_count"], "accuracy": printed["readme_accuracy"]})
    return made


def _row(arm: str, rule: str, n: int, answered: int | None, correct: int | None) -> dict[str, Any]:
    accuracy, (low, high) = None, (None, None)
    if correct is not None:
        accuracy, (low, high) = correct / n, stats.accuracy_interval((np.arange(n) < correct)[None])
    row = {"arm": arm, "rule": rule, "n": n, "answered": answered, "correct": correct}
    return row | {"accuracy": accuracy, "low": low, "high": high}


# --- tables ---


def tabulate(counts: Counts, facts: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables that follow from the counts.

    `published`: an arm's printed figures beside its recount by `RULE`. `rules`: see `rows`. `decomposition`: an arm's
    `shares`, and of a primed one its `gain` over the unprimed one and what of it `boxing` explains. `tests`: every pair
    of arms, the columns of `stats.gains`, corrected for all pairs, and of `stats.answers_that_differ`.
    """
    every = pd.DataFrame(rows(counts, facts)).assign(title=lambda table: table["arm"].map(arms.title))
    recount, unprimed = every[every["rule"] == RULE].set_index("arm"), shares(counts, arms.UNPRIMED)
    published, decomposition = [], []
    for arm, found in counts["arms"].items():
        printed, share = facts["arms"][arm], shares(counts, arm)
        row = {
            "title": arms.title(arm),
            "readme": printed["readme_accuracy"],
            "readme_count": printed["readme_count"],
            "readme_share": printed["readme_count"] / facts["n"],
            "graded": found["graded"],
            **recount.loc[arm, ["correct", "accuracy", "low", "high"]],
            "boxed": found["boxed"],
        }
        published.append(row)
        gain = {"gain": np.nan, "boxing_points": np.nan}
        if arm not in (*arms.CONTROLS, arms.UNPRIMED):
            gain = {"gain": 100 * (share["accuracy"] - unprimed["accuracy"]), "boxing_points": boxing(share, unprimed)}
        decomposition.append({"arm": arm, "title": arms.title(arm), **share, **gain})
    return {
        "published": pd.DataFrame(published).astype({"graded": "Int64"}),
        "rules": every,
        "decomposition": pd.DataFrame(decomposition),
        "tests": _tests(counts),
    }


def boxing(arm: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The points of an arm's lead over another (`shares` of both) that come from boxing more answers.

    Kitagawa's decomposition (1955): the difference in shares times how much likelier a boxed answer is to be right, the
    mean of both arms; the remainder comes from being right more often with a box, or without.
    """
    premium = sum(one["boxed_right"] - one["unboxed_right"] for one in (arm, other)) / 2
    return 100 * (arm["boxed_share"] - other["boxed_share"]) * premium


def shares(counts: Counts, arm: str) -> dict[str, float]:
    """What an arm's counts say of it: its accuracy by `RULE`, and the factors that make it up."""
    n, found = counts["n"], counts["arms"][arm]
    correct = found["correct"][RULE]
    return {
        "cap": found["cap"],
        "finished": n - found["capped"],
        "capped_share": found["capped"] / n,
        "accuracy": correct / n,
        "boxed_share": found["boxed"] / n,
        "boxed_right": _ratio(found["boxed_correct"], found["boxed"]),
        "unboxed_right": _ratio(correct - found["boxed_correct"], n - found["boxed"]),
        "finished_right": _ratio(correct - found["capped_correct"], n - found["capped"]),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def _tests(counts: Counts) -> pd.DataFrame:
    chosen = list(counts["arms"])
    only = np.array([[counts["only_right"][arm].get(other, 0) for other in chosen] for arm in chosen])
    right = [found["correct"][RULE] for found in counts["arms"].values()]
    pairs = [(place, before) for place in range(len(chosen)) for before in range(place)]
    rows = []
    for (new, old), gain in zip(
        pairs, stats.gains(stats.counted(counts["n"], right, only), pairs, seed=0), strict=True
    ):
        names = {"arm": chosen[new], "title": arms.title(chosen[new])}
        names |= {"baseline": chosen[old], "baseline_title": arms.title(chosen[old])}
        wins, losses = int(only[new, old]), int(only[old, new])
        rows.append(names | gain | dict(zip(stats.DIFFER, (wins, losses, wins + losses), strict=True)))
    return pd.DataFrame(rows)
