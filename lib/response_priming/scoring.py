"""Scores: responses graded by every extraction rule, and what the grades of one arm say, with their uncertainty.

Accuracy falls into two factors: the share of responses in which a rule finds a number, and the share of those that is
right. Arms may differ in the first alone: in form, not in arithmetic. So both stand beside every accuracy.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from response_priming import problems, stats
from response_priming.errors import InputError
from response_priming.extraction import RULES, right_answer

SUMMARY = (
    "n", "seeds", "correct", "accuracy", "low", "high", "covers", "spread", "answered", "accuracy_answered", "finished",
    "accuracy_finished", "mean_tokens",
)  # fmt: skip


def grade(answers: pd.DataFrame, rules: Iterable[str] = RULES) -> pd.DataFrame:
    """The table with two columns more for each rule: what it extracts from `response`, and whether that is `answer`."""
    graded = answers.copy()
    for rule in rules:
        verdicts = RULES[rule].verdicts(list(answers["response"]), list(answers["answer"]))
        graded[rule] = pd.Series([extracted for extracted, _ in verdicts], index=answers.index, dtype="str")
        graded[f"{rule}-correct"] = [right for _, right in verdicts]
    return graded


def grade_teacher(answered: pd.DataFrame, asked: Sequence[problems.Problem], rule: str) -> pd.DataFrame:
    """A teacher's responses (see `store.read`), graded by one rule; `asked` are the problems they answer."""
    right = {problem.id: problem.answer for problem in asked}
    answers = answered.rename(columns={"text": "response"})
    return grade(answers.assign(answer=answers["problem_id"].map(right), tokens=answers["tokens"].map(len)), [rule])


def summary(answers: pd.DataFrame, rule: str) -> dict[str, Any]:
    """One arm by one rule, from a graded table; its `seed` column, if any, tells the students of the arm apart.

    `n` (problems); `seeds` (students); `correct` (responses, of all students); `accuracy` with `low` and `high`, its
    95 % interval (see `interval`), and what that `covers`; `spread`, the standard deviation of the students'
    accuracies (NaN for one); `answered`, the share of responses in which the rule found a number, and
    `accuracy_answered`, the accuracy among those (NaN for none): their product is the accuracy; `finished`, the share
    that ended within its budget, and `accuracy_finished`, the accuracy among those (NaN for none); `mean_tokens`.
    """
    right, named = by_student(answers, rule), templates(answers)
    low, high = stats.accuracy_interval(right, named)
    answered, finished, correct = answers[rule].notna(), answers["finished"], answers[f"{rule}-correct"]
    return {
        "n": right.shape[1],
        "seeds": len(right),
        "correct": int(right.sum()),
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "covers": ("problems" if named is None else "templates") + (" and seeds" if len(right) > 1 else ""),
        "spread": float(right.mean(axis=1).std(ddof=1)) if len(right) > 1 else np.nan,
        "answered": float(answered.mean()),
        "accuracy_answered": float(correct[answered].mean()),
        "finished": float(finished.mean()),
        "accuracy_finished": float(correct[finished].mean()),
        "mean_tokens": float(answers["tokens"].mean()),
    }


def by_student(answers: pd.DataFrame, rule: str) -> Any:
    """Right or wrong as an array of bool [seeds, problems]; without a `seed` column all rows are of one student."""
    right = answers[f"{rule}-correct"].to_numpy(bool)
    return right.reshape(answers["seed"].nunique() if "seed" in answers else 1, -1)


def templates(answers: pd.DataFrame) -> Any:
    """The template of each problem, where the answers have a column `template`, else None; problems of one template
    are no independent ones.

    Raises:
        InputError: a problem has none, or all have the same.
    """
    if "template" not in answers:
        return None
    named = answers["template"].to_numpy()[: answers["problem_id"].nunique()]
    if pd.isna(named).any() or len(set(named)) < 2:
        raise InputError(
            f"template: {pd.isna(named).sum()} of {len(named)} problems have none, the others {len(set(named))}; "
            "allowed: one for each problem and two or more in all, or no column `template`"
        )
    return named


# --- any file of responses ---


def read(path: Path) -> pd.DataFrame:
    """Responses and right answers of a JSON-lines or CSV file, all columns as they are but `answer`, now a number as
    the loader of problems writes it.

    Raises:
        InputError: one line that names the row (1 is the first) or the field: no such file, another extension, not
            readable, empty, a column missing, an answer without a number, a response that is no text, an id twice.
    """
    rows, ids = [], set()
    for where, row in problems.rows(path):
        for field in ("answer", "response"):
            if field not in row:
                raise InputError(f"{where}: no field {field!r}; there are: {' '.join(', '.join(row).split())}")
        if not isinstance(row["response"], str):
            raise InputError(f"{where}: response = {str(row['response'])[:60]}: must be text")
        answer = right_answer(str(row["answer"])) if isinstance(row["answer"], str | Decimal) else None
        if answer is None:
            written = str(row["answer"])[-40:]
            raise InputError(f"{where}: answer = {written!r}: must be a number or end in `#### NUMBER`")
        for field in ("problem_id", "id"):
            named = row.get(field)
            if named in (None, "") or named != named:  # missing, NaN included
                continue
            if (field, str(named)) in ids:
                raise InputError(f"{where}: {field} = {str(named)!r}: occurs twice; must be unique")
            ids.add((field, str(named)))
        rows.append(row | {"answer": answer})
    if not rows:
        raise InputError(f"{path}: empty; expected a row for each response")
    return pd.DataFrame(rows, dtype=object)


def score(table: pd.DataFrame, rules: Sequence[str]) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """What each rule makes of a file (see `read`): its counts, and its verdicts.

    Returns:
        for each rule a row of `rule`, `n`, `answered`, `correct` (responses), `accuracy`, `low`, `high` (95 % Wilson
        interval); and a table `row` (1 is the first), `rule`, `extracted` (missing where the rule found nothing),
        `correct`, in the order of rules, then rows.
    """
    graded, n = grade(table, rules), len(table)
    counts, verdicts = [], []
    for rule in rules:
        right = graded[f"{rule}-correct"]
        low, high = stats.accuracy_interval(right.to_numpy(bool).reshape(1, -1))
        row = {"rule": rule, "n": n, "answered": int(graded[rule].notna().sum()), "correct": int(right.sum())}
        counts.append(row | {"accuracy": float(right.mean()), "low": low, "high": high})
        verdicts.append(
            pd.DataFrame({"row": range(1, n + 1), "rule": rule, "extracted": graded[rule], "correct": right})
        )
    return counts, pd.concat(verdicts, ignore_index=True)


def shown(counts: list[dict[str, Any]]) -> str:
    """The rows of `score` as a table of text."""
    percent = dict.fromkeys(("accuracy", "low", "high"), "{:.1%}".format)
    return str(pd.DataFrame(counts).to_string(index=False, formatters=percent))


def known(rules: Sequence[str]) -> list[str]:
    """The rules asked for, all of them where none is; `InputError` where one does not exist."""
    for rule in rules:
        if rule not in RULES:
            raise InputError(f"rule {rule!r}: unknown; allowed: {', '.join(RULES)}")
    return list(dict.fromkeys(rules)) or list(RULES)
