"""The arithmetic of steps: what is read as one, and what is right."""

import itertools
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from response_priming.methods import steps

NUMBERS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4 = 7",
        "3 + 4 = <<3+4=7>>7\n#### 7",
        "So there are 20 - 5 = 15 eggs.",
        "2 + 3 + 4 = 9",
        "7 * (2 + 3) = 35",
        "2 x 3.50 = $7",
        "$0.50 x 3=$1.50",
        "\\(5 \\times 3 = 15\\)",
        "\\frac{10}{2} = 5",
        "12 \u00f7 4 = 3",
        "100 \u2212 20 = 80",
        "1,200 / 4 = 300",
        "$1,000 + $2,000 = $3,000",
        "3 apples + 4 apples = 7 apples",
        "5cm + 3cm = 8cm",
        "20% * 50 = 10",
        "4 / 10 = 40%",
        "40 + 20 = 60%",
        "10 / 3 = 3.33",
        "-3 + 5 = 2",
        "5 - -3 = 8",
        "- 5 + 3 = 8",
        "1. 5 + 3 = 8",
        "**5 + 3 = 8**",
        "half of 20 is 10, so 10 + 5 = 15",
        "total = 5 + 3 = 8",
        "He sold <<48/2=24>>24 clips",
        "20 dollars * 3 = $<<20*3=60>>60",
        "007 + 1 = 8",
        "3.05 * 2 = 6.1",
        "50*.01*10 = 5",
    ],
)
def test_a_right_step_is_one_right_step(text):
    assert steps.check(text) == [True]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 + 4 = 8", [False]),
        ("10 / 3 = 3", [False]),
        ("10 / 3 = 3.34", [False]),
        ("3 + 4 = -7", [False]),
        ("5 + 3 = 8 + 2 = 10", [False, True]),
        ("2 + 3 = 1 + 4 = 5", [True, True]),
        ("3 + 4 = <<3+4=8>>7", [False]),
        ("3 + 4 = <<3+4=7>>8", [False]),
        ("1 + 1 = 2\n2 + 2 = 5\n<<3+3=6>>6", [True, False, True]),
    ],
)
def test_every_equals_sign_after_a_calculation_is_a_step(text, found):
    assert steps.check(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "#### 7", "x = 7", "2x + 3 = 7", "x + 3 + 4 = 7", "5x - 3 = 12", "2^3 + 1 = 9", "a_1 + 2 + 3 = 5"),
        *("1/0 = 0", "7:50 + 30 = 8:20", "f(3 + 4) = 7", "3 + 4 = 7x", "3 + 4 = 7 * x", "40 nickels = 40 * 2"),
        *("__import__('os') + 1 = 2", "9" * 300 + " + 1 = 2"),
    ],
)
def test_what_is_no_arithmetic_in_numbers_is_no_step(text):
    assert steps.check(text) == []


@given(NUMBERS, NUMBERS, st.sampled_from("+-*"), st.sampled_from([0, 1]))
def test_a_generated_step_is_right_exactly_if_its_result_is(x, y, sign, error):
    result = {"+": x + y, "-": x - y, "*": x * y}[sign]
    assert steps.check(f"so {x:,} {sign} {y} = {result + error:,} in all.") == [error == 0]


@given(NUMBERS, st.integers(1, 999), st.integers(1, 4))
def test_a_quotient_may_be_rounded_to_the_decimals_it_is_written_with(x, y, decimals):
    rounded = round(Fraction(x, y), decimals)
    assert steps.check(f"{x} / {y} = {float(rounded):.{decimals}f}") == [True]


@given(st.text(alphabet="0123456789 +-*/=().,%$x<>\n", max_size=60))
def test_any_text_can_be_checked(text):
    assert all(isinstance(step, bool) for step in steps.check(text))


PIECES = st.sampled_from(
    [
        *"0123456789.,+-*/=()% \n\t^:x<>$\\{}",
        "(2) + ",
        "((2) + ",
        "1 + 1 = 2 ",
        "<<1+1=2>>",
        "\\frac{",
        "3 x ",
        "ab ",
        "\x00",
        "\ufdd0",
    ]
)


@given(
    st.lists(PIECES, min_size=1, max_size=6).map("".join),
    st.integers(1, 3000),
    st.lists(PIECES, max_size=4).map("".join),
)
@settings(deadline=None)
def test_the_time_is_linear_in_the_length(part, times, end):
    started = time.process_time()
    steps.check((part * times)[:6000] + end)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("character", [*map(chr, range(9)), "\x0b", "\x1f", "\x7f", "\u200b", "\ufdd0", "\uffff"])
def test_no_character_stands_for_anything_but_itself(character):
    text = f"2 + 2 = 4{character} and {character}<<1+1=3>>{character}"
    assert steps.check(text) == [True, False]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 + 4 = <<3+4=7>>7, then 7 * 2 = <<7*2=14>>14\n#### 14", (("2", "3", "4", "7"), ("+", "*"))),
        ("3 + 4 = 7, then 7 * 2 = 14", (("2", "3", "4", "7"), ("+", "*"))),
        ("4 + 3 = 7", (("3", "4"), ("+",))),
        ("0.50 x 3 = 1.5", (("1/2", "3"), ("*",))),
        ("It is 5, and x + 3 is more.", ((), ())),
        ("2 + 3 apples", ((), ())),
    ],
)
def test_operations_are_of_the_numbers_alone(text, found):
    assert steps.operations(text) == found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3 + 4 = 7\n#### 7", ["3 + 4 = 7\n", "#### 7"]),
        ("He has 3. She has 4.50! Both?\n\n7", ["He has 3.", " She has 4.50!", " Both?\n\n", "7"]),
        ("One", ["One"]),
        ("", [""]),
        ("End\n", ["End\n"]),
    ],
)
def test_steps_begin_behind_lines_and_sentences(text, wanted):
    # Tokens of two characters, and then of one: a token that spans the end of a sentence is the next one's.
    for size in (1, 2):
        tokens = [text[place : place + size] for place in range(0, len(text), size)]
        begins = steps.begins(tokens, "".join)
        parts = ["".join(tokens[begin:end]) for begin, end in itertools.pairwise([*begins, len(tokens)])]
        assert "".join(parts) == text
        if size == 1:
            assert [part.strip() for part in parts] == [part.strip() for part in wanted]
        assert begins[0] == 0
