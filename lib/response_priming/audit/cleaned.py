"""The audit under cleaned labels: which claims the logs bear out still, without problems whose answers are disputed.

GSM8K has wrong and ambiguous labels; GSM8K-Platinum (Vendrow et al. 2025, arXiv 2502.03461) is its test split without
them. The list of problems is the user's: a number each, the place in the test split from 0, as in `test-17`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from response_priming import arms, problems, stats, style
from response_priming.audit.discrepancies import BEST, numbers
from response_priming.audit.recount import RULE, Counts, count, tabulate
from response_priming.errors import InputError

COLUMNS = ("claim", "all", "cleaned", "survives")


def read_disputed(path: Path, n: int) -> list[int]:
    """The numbers of the disputed problems in a file, of `n`: one a line, or the field `problem` of JSON lines or CSV.

    Raises:
        InputError: the file is missing, empty or malformed, a number is none of a problem, or fewer than two are left.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the numbers of disputed problems, one a line")
    if path.suffix in problems.FORMATS:
        given = [(where, str(row.get("problem"))) for where, row in problems.rows(path)]
    else:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
        given = [(f"{path}: row {row}", line.strip()) for row, line in enumerate(lines, start=1) if line.strip()]
    for where, written in given:
        if not (written.isascii() and written.isdigit() and int(written[:9]) < n):
            raise InputError(f"{where}: problem = {written[:40]!r}: allowed: a whole number from 0 to {n - 1}")
    found = sorted({int(written) for _, written in given})
    if not found or n - len(found) < 2:
        raise InputError(f"{path}: names {len(found)} of {n} problems; allowed: from 1 to {n - 2}")
    return found


def without(logs: Mapping[str, pd.DataFrame], dropped: Sequence[int]) -> Counts:
    """The counts of the logs (see `recount.count`) without some of their problems."""
    return count({arm: log.drop(index=list(dropped)).reset_index(drop=True) for arm, log in logs.items()})


def survivors(every: Counts, kept: Counts, facts: Mapping[str, Any]) -> pd.DataFrame:
    """One row a claim that the logs can speak of: what they say of it with all problems, what with those that are
    kept, and whether it `survives`: yes, no, or `was not borne out`."""
    before, after = (borne_out(counts, facts) for counts in (every, kept))
    claims = {name: style.filled(entry["claim"], facts) for name, entry in facts["claims"].items()}
    rows = [
        (claims[name], was, now, ("yes" if holds else "no") if held else "was not borne out")
        for (name, (was, held)), (now, holds) in zip(before.items(), after.values(), strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def borne_out(counts: Counts, facts: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """What the counts say of each claim, and whether that bears it out.

    Of several primed arms the most accurate one counts; a gain must have a corrected interval above 0, and a relative
    one reach what is claimed; an order must be the printed one; attention must fall as accuracy rises, p below 0.05.
    """
    tables = tabulate(counts, facts)
    tests = {(row["baseline"], row["arm"]): row for row in tables["tests"].to_dict("records")}
    values = numbers(counts, facts, tables)
    primed = [arm for arm in counts["arms"] if arms.is_primed(arm)]

    def gain(baseline: str, *names: str) -> tuple[str, bool]:
        row = max((tests[baseline, arm] for arm in names), key=lambda row: row["points"])
        ends = style.interval(row["low"], row["high"])
        text = f"{row['title']}: {row['points']:+.1f} points ({ends}), p {style.p_value(row['p'])}"
        return text, row["low"] > 0

    relative, (text, holds) = tests[arms.UNPRIMED, BEST], gain(arms.UNPRIMED, BEST)
    printed = sorted(facts["arms"], key=lambda arm: -facts["arms"][arm]["readme_accuracy"])
    order = sorted(counts["arms"], key=lambda arm: -counts["arms"][arm]["correct"][RULE])
    attention = values["attention"]
    return {
        "priming": gain(arms.UNPRIMED, *primed),
        "relative-gain": (
            f"{text}; relative: {100 * relative['relative']:+.1f} %",
            holds and relative["relative_high"] >= facts["relative_gain"],
        ),
        "order": ("; ".join(map(arms.title, order)), order == printed),
        "over-fine-tuning": gain(arms.FINE_TUNED, *primed),
        "distillation": gain(arms.UNDISTILLED, arms.UNPRIMED),
        "attention": (
            "; ".join(f"{name}: {one['rho']:+.2f}, p {style.p_value(one['p'])}" for name, one in attention.items()),
            all(one["rho"] < 0 and one["p"] < stats.SIGNIFICANT for one in attention.values()),
        ),
    }
