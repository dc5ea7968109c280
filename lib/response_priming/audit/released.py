"""The response logs released with Goyal et al. 2024 (arXiv 2412.17846), read from a folder and checked.

A log is a CSV file with one row a problem of GSM8K's test split: `question`; `model_answer`, the response as text;
`model_output_tokens`, its length; `model_max_tokens`, whether it ran into the cap; and `correct`, the released grading.
The log of the confidence arm was released raw: without `correct`, and with the question still before each response.
The logs carry no licence, so the project reads a copy of the user's and keeps none.
"""

import re
from pathlib import Path

import pandas as pd

from response_priming import problems
from response_priming.errors import InputError
from response_priming.extraction import right_answer

SOURCE = "folder assessment/logs of github.com/alonso130r/knowledge-distillation at commit b869e93"
REFERENCE = "extracted_true_answers.csv"
LOGS = {
    "undistilled": "no-distil.csv",
    "fine-tuned": "no-distil-fine-tune.csv",
    "none": "base-KD.csv",
    "teacher": "teacher-KD.csv",
    "ground-truth": "ai-KD.csv",
    "confidence": "reversekl-KD-raw.csv",
}
_COLUMNS = ["question", "model_answer", "model_output_tokens", "model_max_tokens"]
_BOOLEANS = ("True", "False")
_BLANK_BEFORE_MARK = re.compile(r" (?=[.,?!])")


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """Each arm's log, one row a problem, in the order of the reference answers.

    Columns: `question`, `answer` (the right number), `response` (without the question, stripped), `tokens`, `capped`
    (it ran into the cap), and, except for the raw log, `graded` (the released verdict, True or False).

    Raises:
        InputError: the folder or a file is missing, a column or a row is missing, doubled or malformed.
    """
    files = {name: folder / name for name in (REFERENCE, *LOGS.values())}
    expected = f"expected there: {', '.join(files)} ({SOURCE})"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {expected}")
    for file in files.values():
        if not file.is_file():
            raise InputError(f"{file}: no such file; {expected}")
    reference = _table(files[REFERENCE], ["question", "answer"])
    right = reference["answer"].map(right_answer)
    _require(files[REFERENCE], reference["answer"].str[-40:], right.notna(), "must end in `#### NUMBER`")
    answers = dict(zip(reference["question"], right, strict=True))
    return {arm: _log(files[name], answers) for arm, name in LOGS.items()}


def _log(file: Path, answers: dict[str, str]) -> pd.DataFrame:
    table = _table(file, _COLUMNS)
    if len(table) != len(answers):
        raise InputError(f"{file}: {len(table)} rows; must be {len(answers)}, one for each row of {REFERENCE}")
    question, tokens, capped = table["question"], table["model_output_tokens"], table["model_max_tokens"]
    if len(unknown := question[~question.isin(answers)]):
        row, text = unknown.index[0] + 1, unknown.iloc[0]
        raise InputError(f"{file}: row {row}: question = {text[:40]!r}...: not in {REFERENCE}")
    _require(file, tokens, tokens.str.fullmatch(r"\d{1,9}(\.0)?"), "must be a whole number")
    _require(file, capped, capped.isin(_BOOLEANS), "must be True or False")
    said = table["model_answer"] if "correct" in table else map(_without, question, table["model_answer"])
    log = pd.DataFrame({"question": question, "answer": question.map(answers), "response": list(map(str.strip, said))})
    log = log.assign(tokens=tokens.astype(float).astype(int), capped=capped == "True")
    if "correct" in table:
        _require(file, table["correct"], table["correct"].isin(_BOOLEANS), "must be True or False")
        log["graded"] = table["correct"] == "True"
    return log.set_index("question").loc[list(answers)].reset_index()


def _table(file: Path, columns: list[str]) -> pd.DataFrame:
    """The file as text, with at least these columns and no question twice. Rows count from 1, below the header."""
    table = pd.DataFrame([row for _, row in problems.rows(file)], dtype="str")
    for column in columns:
        if column not in table:
            raise InputError(f"{file}: no column {column!r}; columns: {', '.join(map(str, table))}")
        _require(file, table[column], table[column].notna(), "must be text")
    doubled = table["question"].duplicated()
    if doubled.any():
        row = int(doubled.argmax())
        first = int((table["question"] == table["question"][row]).argmax())
        raise InputError(f"{file}: row {row + 1}: question repeats that of row {first + 1}; each must occur once")
    return table


def _require(file: Path, column: pd.Series, holds: pd.Series, allowed: str) -> None:
    """Refuse the first value of a column for which something does not hold."""
    if not holds.all():
        row = int((~holds).argmax())
        raise InputError(f"{file}: row {row + 1}: {column.name} = {column[row]!r}: {allowed}")


def _without(question: str, text: str) -> str:
    """The text behind its question, which decoding may have changed: it drops blanks before punctuation."""
    for form in (question, _BLANK_BEFORE_MARK.sub("", question)):
        if text.startswith(form):
            return text[len(form) :]
    return text
