"""The table of calculations: right steps counted, and where steps and answers disagree."""

import pandas as pd
import pytest

from response_priming import style
from response_priming.evaluate import calculations


def graded(*rows):
    table = pd.DataFrame(rows, columns=["problem_id", "response", "hash-correct"])
    return {"none": table.assign(seed=0)}


def test_the_table_counts_steps_and_where_steps_and_answers_disagree():
    scores = graded(
        ("a", "1 + 1 = 2\n2 + 2 = 4", True),
        ("b", "1 + 1 = 3", True),
        ("c", "1 + 1 = 2", False),
        ("d", "It is 5.", False),
    )
    (row,) = calculations.calculations_table(scores, "hash").to_dict("records")
    assert (row["responses"], row["seeds"], row["steps"], row["with_steps"], row["right"]) == (4, 1, 4, 0.75, 0.75)
    assert (row["right_despite"], row["wrong_though"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert row["low"] <= row["right"] <= row["high"]


def test_problems_are_resampled_whole():
    one_each = graded(*[(str(number), "1 + 1 = 2" if number % 2 else "1 + 1 = 3", True) for number in range(40)])
    many = graded(*[(str(number % 4), "1 + 1 = 2" if number % 2 else "1 + 1 = 3", True) for number in range(40)])
    wide, narrow = (calculations.calculations_table(scores, "hash").iloc[0] for scores in (many, one_each))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


@pytest.mark.parametrize("rows", [[("a", "It is 5.", True)], [("a", "1 + 1 = 2", True)]])
def test_too_few_steps_leave_blanks(rows):
    found = calculations.calculations_table(graded(*rows), "hash")
    assert found[["low", "high"]].isna().all(axis=None)
    assert "nan" not in style.printed(found, "steps").to_html()
