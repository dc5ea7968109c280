"""Problems of the test in what a method writes."""

import pytest

from response_priming.errors import InputError
from response_priming.methods.leaks import leaks, require_none
from response_priming.problems import Problem


def problem(name, question, solution):
    return Problem(name, question, solution, "7")


TEST = [problem("test-0", "Ann has 3 pens and gets 4. How many?", "3 + 4 = <<3+4=7>>7\n#### 7")]
SAME_WORDS = problem("a", "Ann has 3 pens, and gets 4: how many", "It is 7.")
SAME_NUMBERS = problem("b", "Bob has 4 caps and buys 3. How many?", "4 + 3 = 7")
OTHERS = [
    problem("c", "Bob has 4 caps and loses 3. How many?", "4 - 3 = 1"),
    problem("d", "Bob has 4 caps and buys 5. How many?", "4 + 5 = 9"),
    problem("e", "Who is Ann?", "Nobody knows."),
]


def test_copies_in_words_or_in_numbers_are_leaks():
    assert leaks([SAME_WORDS, *OTHERS, SAME_NUMBERS], TEST) == ["a", "b"]
    assert leaks(OTHERS, [*TEST, problem("test-1", "Who?", "Ann.")]) == []


def test_a_store_with_one_is_refused_in_one_line():
    require_none(OTHERS, TEST, "related/x")
    with pytest.raises(InputError, match=r"^related/x: a and 1 more: asked in the test, too; allowed: problems"):
        require_none([SAME_WORDS, SAME_NUMBERS], TEST, "related/x")
