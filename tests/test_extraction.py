from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from response_priming import params
from response_priming.extraction import RULES, boxed_first, hash_mark, last_number, same_number


def test_rules_are_those_that_a_profile_may_name():
    assert set(RULES) == set(get_args(params.Rule))


# --- last-number ---


@pytest.mark.parametrize(
    ("response", "number"),
    [
        pytest.param("He has 3 bags and 18 apples", "18", id="last_of_several"),
        pytest.param("It is 18.", "18", id="full_stop_after_it"),
        pytest.param("It is 18.Then he", "18", id="run_on_after_full_stop"),
        pytest.param("7 left.5 more", "5", id="run_on_before_number"),
        pytest.param("She pays $1,234.50", "1234.50", id="thousands_and_cents"),
        pytest.param("1,234,567 in all", "1234567", id="millions"),
        pytest.param("the pair 1,2", "2", id="comma_of_a_list"),
        pytest.param("from 1,2345", "2345", id="comma_before_four_digits"),
        pytest.param("a share of .5", ".5", id="no_leading_zero"),
        pytest.param("that is 25%", "25", id="percent"),
        pytest.param("3 + 4 = <<3+4=7>>7", "7", id="calculator_mark"),
        pytest.param("3 + 4 = <<3+4=7>>", "7", id="only_in_calculator_mark"),
        pytest.param("5 - 8 = <<5-8=-3>>-3", "-3", id="negative_after_calculator_mark"),
        pytest.param("so 5 - 3", "3", id="subtraction_with_spaces"),
        pytest.param("so 5-3", "3", id="subtraction_without_spaces"),
        pytest.param("so 5 -3", "3", id="subtraction_with_one_space"),
        pytest.param("so (4 + 1)-3", "3", id="subtraction_from_bracket"),
        pytest.param("so x-3", "3", id="subtraction_from_name"),
        pytest.param("= -3", "-3", id="negative_after_equals"),
        pytest.param("The change is -3", "-3", id="negative_after_word"),
        pytest.param("it lost -$5", "-5", id="negative_before_currency"),
        pytest.param("it lost $-5", "-5", id="negative_after_currency"),
        pytest.param("= \u22123", "-3", id="unicode_minus"),
        pytest.param("from 5\u20137", "7", id="range_with_en_dash"),
        pytest.param("**18**", "18", id="bold"),
        pytest.param("no idea", None, id="none_there"),
        pytest.param("", None, id="empty"),
    ],
)
def test_last_number(response, number):
    assert last_number(response) == number


# --- hash ---


@pytest.mark.parametrize(
    ("response", "number"),
    [
        pytest.param("3 + 4 = 7\n#### 7", "7", id="gsm8k_form"),
        pytest.param("#### 7\n\nBen has 5 eggs.\n#### 9", "7", id="runs_on_to_another_problem"),
        pytest.param("#### 7Ben has 5 eggs", "7", id="runs_on_without_a_space"),
        pytest.param("####7", "7", id="no_space"),
        pytest.param("#### $1,234.50", "1234.50", id="money"),
        pytest.param("#### -3", "-3", id="negative"),
        pytest.param("#### Answer\n7\n#### 8", "8", id="heading_without_a_number_is_passed_over"),
        pytest.param("## 7", None, id="shorter_heading"),
        pytest.param("The answer is 7", None, id="no_mark"),
        pytest.param("7 ####", None, id="cut_off_after_mark"),
    ],
)
def test_hash(response, number):
    assert hash_mark(response) == number


# --- boxed-first ---


@pytest.mark.parametrize(
    ("response", "number"),
    [
        pytest.param(r"is $\boxed{18}$ as 9 doubles", "18", id="box_before_last_number"),
        pytest.param(r"\boxed{18} then \boxed{20}", "18", id="first_of_two"),
        pytest.param(r"\boxed{\text{Total: } 18 \text{ eggs}} or 5", "18", id="nested_braces"),
        pytest.param(r"\boxed{9 + 9 = 18}", "18", id="equation_in_box"),
        pytest.param(r"\boxed{\$1{,}234} for 2", "1234", id="guarded_comma"),
        pytest.param(r"\boxed{-3} of 5", "-3", id="negative"),
        pytest.param(r"so \boxed{18", "18", id="cut_off_inside"),
        pytest.param(r"7, so \boxed{x}", "7", id="box_without_a_number"),
        pytest.param("$boxed{18}$ of 20", "18", id="lost_backslash"),
        pytest.param("It is 7.", "7", id="no_box"),
        pytest.param("boxed up", None, id="neither"),
    ],
)
def test_boxed_first(response, number):
    assert boxed_first(response) == number


# --- same_number ---


@pytest.mark.parametrize(
    "extracted", ["18", "18.0", "18.", " 18 ", "$18", "18%", "18 %", "018", "\u20ac18.00", "18\\%"]
)
def test_writings_of_18_are_the_same_number(extracted):
    assert same_number(extracted, "18")


@pytest.mark.parametrize(
    ("extracted", "answer"), [("1,234.50", "1234.5"), ("\u22123", "-3"), ("-$3", "-3"), ("-0", "0"), (".5", "0.5")]
)
def test_same_number_in_another_writing(extracted, answer):
    assert same_number(extracted, answer)


@pytest.mark.parametrize(
    ("extracted", "answer"),
    [
        ("1,2", "12"),
        ("18.01", "18"),
        ("-3", "3"),
        ("3/4", "0.75"),
        (None, "0"),
        ("", ""),
        ("NaN", "NaN"),
        ("1e1", "10"),
    ],
)
def test_not_the_same_number(extracted, answer):
    assert not same_number(extracted, answer)


def test_floating_point_does_not_blur_long_numbers():
    assert not same_number("9007199254740993", "9007199254740992")


@given(st.text())
def test_odd_text_never_raises(text):
    for rule in RULES.values():
        same_number(rule(text), text)
        same_number(text, text)


@given(st.integers(), st.sampled_from(list(RULES)))
def test_every_rule_reads_back_a_written_answer(number, rule):
    assert same_number(RULES[rule](rf"2 of them, so \boxed{{{number}}}, that is" + f"\n#### {number:,}"), str(number))
