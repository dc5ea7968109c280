import os
import threading
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from response_priming import extraction, paths
from response_priming.extraction import (
    RULES,
    boxed_first,
    boxed_last,
    boxed_number,
    hash_mark,
    last_number,
    lm_eval_flexible,
    lm_eval_strict,
    math_verify,
    number,
    published,
    published_corrected,
    right_answer,
    same_number,
    same_text,
    same_value,
)
from response_priming.params import sections

LOGS = Path(os.environ.get("PUBLISHED_LOGS", paths.ROOT.parent / "shared" / "published-logs"))


def test_a_profile_may_name_the_rules_and_no_other(monkeypatch):
    assert [sections.Evaluate(rule=name).rule for name in RULES] == list(RULES)
    with pytest.raises(ValidationError, match="'longest' is none of hash, boxed-first, "):
        sections.Evaluate(rule="longest")
    monkeypatch.setitem(RULES, "longest", RULES["hash"])
    assert sections.Evaluate(rule="longest").rule == "longest"


# --- last-number ---


@pytest.mark.parametrize(
    ("response", "number"),
    [
        pytest.param("He has 3 bags and 18 apples", "18", id="last_of_several"),
        pytest.param("It is 18.", "18", id="full_stop_after_it"),
        pytest.param("It is 18...", "18", id="dots_after_it"),
        pytest.param("It is 18.Then he", "18", id="run_on_after_full_stop"),
        pytest.param("7 left.5 more", "5", id="run_on_before_number"),
        pytest.param("A: 18\nQ: Ben", "18", id="run_on_without_a_number"),
        pytest.param("A: 18\nQ: Ben has 5 eggs", "5", id="run_on_to_another_problem"),
        pytest.param("She pays $1,234.50", "1234.50", id="thousands_and_cents"),
        pytest.param("1,234,567 in all", "1234567", id="millions"),
        pytest.param("the pair 1,2", "2", id="comma_of_a_list"),
        pytest.param("from 1,2345", "2345", id="comma_before_four_digits"),
        pytest.param("a share of .5", ".5", id="no_leading_zero"),
        pytest.param("a share of 3/4", "4", id="fraction"),
        pytest.param("that is 25%", "25", id="percent"),
        pytest.param("it takes 25km", "25", id="unit_without_a_space"),
        pytest.param("it takes 25 km", "25", id="unit"),
        pytest.param("3 + 4 = <<3+4=7>>7", "7", id="calculator_mark"),
        pytest.param("3 + 4 = <<3+4=7>>", "7", id="only_in_calculator_mark"),
        pytest.param("5 - 8 = <<5-8=-3>>-3", "-3", id="negative_after_calculator_mark"),
        pytest.param("so 5 - 3", "3", id="subtraction_with_spaces"),
        pytest.param("so 2-1", "-1", id="cut_off_in_a_subtraction"),
        pytest.param("= -3", "-3", id="negative_after_equals"),
        pytest.param("The change is -3", "-3", id="negative_after_word"),
        pytest.param("- 18", "18", id="bullet"),
        pytest.param("it lost -$5", "-5", id="negative_before_currency"),
        pytest.param("it lost $-5", "-5", id="negative_after_currency"),
        pytest.param("= \u22123", "-3", id="unicode_minus"),
        pytest.param("= \u20133", "-3", id="en_dash_as_minus"),
        pytest.param("**18**", "18", id="bold"),
        pytest.param("no idea", None, id="none_there"),
        pytest.param("", None, id="empty"),
    ],
)
def test_last_number(response, number):
    assert last_number(response) == number


@given(st.text(st.sampled_from("0123456789.,-$ \n\u2212\u00a0ax{}%#e+'\\!")))
def test_last_number_is_the_last_of_all_numbers_in_the_whole_text(text):
    every = [extraction._plain(found) for found in extraction._NUMBER.finditer(text)]
    assert last_number(text) == (every[-1] if every else None)


# --- thousands and exponents, wherever a rule of ours looks ---

SEPARATORS = [*",'_\u2019\u00a0\u2007\u2009\u202f", "{,}", r"\text{,}", r",\!", r"\,", r"\!", r"\;", r"\:", "\\ "]


@given(st.integers(-(10**13), 10**13), st.sampled_from(SEPARATORS), st.sampled_from(["", ".5", ".50"]))
def test_thousands_are_one_number_whatever_separates_them(integer, separator, decimals):
    written, plain = f"{integer:,}".replace(",", separator) + decimals, f"{integer}{decimals}"
    assert last_number(f"In 2024 it is ${written}$ dollars.") == plain
    assert hash_mark(f"so\n#### ${written}\n\n7") == plain
    assert boxed_first(rf"7, so \boxed{{{written}}} or 8") == plain
    assert same_number(written, plain)
    assert same_number(right_answer(f"12\n#### {written}"), plain)


@pytest.mark.parametrize("separator", [*SEPARATORS, " "])
@pytest.mark.parametrize("groups", [("1", "50"), ("1", "5000"), ("1", "500", "50"), ("1234", "500")])
def test_other_groups_are_numbers_of_their_own(separator, groups):
    assert number(separator.join(groups)) is None
    assert last_number(f"so {separator.join(groups)} of them") == groups[-1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("answers 1 500 and 2 000", "2000"),
        ("It costs $12 345.60.", "12345.60"),
        ("a total of 467 000 people", "467000"),
        ("In 2005, 1 050 200 people", "1050200"),
        ("in 2020 467 000 people", "467000"),
        ("**-1 500**", "-1500"),
        ("$409 500", "409500"),
        ("409 500", "409500"),
        ("in 2024 300 people", "300"),
        ("200 - 40 = 160 160", "160"),
        ("the sizes 5 10 100 200", "200"),
        ("it has 1 234 567", "1234567"),
        ("the sizes 100 200 300 400", "400"),
        ("R/12 216 * 4 = x", "4"),
        ("so 12 216 / R", "216"),
        ("at 10:30 500 people", "500"),
        ("he has 5 100-dollar bills", "100"),
        ("3 500ml bottles", "500"),
        ("from 3 100,000", "100000"),
        ("1  500", "500"),
        ("1\n500", "500"),
    ],
)
def test_a_plain_space_groups_thousands_where_it_can_hardly_separate(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("1.2e6", "1200000"), ("1E+16", "1" + "0" * 16), ("1e-05", "0.00001"), ("-2.5e\u22123", "-0.0025"), ("7e0", "7")],
)
def test_an_exponent_belongs_to_its_number(text, number):
    assert right_answer(text) == right_answer(f"#### {text}") == number
    for rule in ("hash", "last-number", "boxed-first", "boxed-last"):
        assert RULES[rule].verdicts([rf"4, so \boxed{{{text}}}" + f"\n#### {text}."], [number])[0][1]


@pytest.mark.parametrize(("text", "number"), [("2e1000", None), ("2e5x", None), ("2e", None)])
def test_what_only_looks_like_an_exponent_is_none(text, number):
    assert right_answer(text) == number


def test_the_rules_of_others_read_thousands_as_they_always_did():
    text = "In all\n1{,}500 or 1 500 or 1.2e6"
    assert published([text]) == published_corrected([text]) == [lm_eval_flexible(text)] == ["6"]
    assert lm_eval_strict("#### 1{,}500") == "1"
    assert not same_text("18.0", "18")


# --- hash ---


@pytest.mark.parametrize(
    ("response", "number"),
    [
        pytest.param("3 + 4 = 7\n#### 7", "7", id="gsm8k_form"),
        pytest.param("#### 7\n\nBen has 5 eggs.\n#### 9", "7", id="runs_on_to_another_problem"),
        pytest.param("#### 7Ben has 5 eggs", "7", id="runs_on_without_a_space"),
        pytest.param("####7", "7", id="no_space"),
        pytest.param("#### $1,234.50", "1234.50", id="money"),
        pytest.param("#### 25%", "25", id="percent"),
        pytest.param("#### 3/4", "3", id="fraction"),
        pytest.param("#### 25 km", "25", id="unit"),
        pytest.param("#### **25** km", "25", id="bold"),
        pytest.param("#### $ 25", "25", id="space_after_currency"),
        pytest.param("#### 123 456\n", "123456", id="plain_space"),
        pytest.param("#### -3", "-3", id="negative"),
        pytest.param("#### \u22123", "-3", id="unicode_minus"),
        pytest.param("#### Answer\n7\n#### 8", "8", id="heading_without_a_number_is_passed_over"),
        pytest.param("## 7", None, id="shorter_heading"),
        pytest.param("The answer is 7", None, id="no_mark"),
        pytest.param("7 ####", None, id="cut_off_after_mark"),
        pytest.param("", None, id="empty"),
    ],
)
def test_hash(response, number):
    assert hash_mark(response) == number


# --- boxed ---


@pytest.mark.parametrize(
    ("response", "number"),
    [
        pytest.param(r"is $\boxed{18}$ as 9 doubles", "18", id="box_before_last_number"),
        pytest.param(r"\boxed{\text{Total: } 18 \text{ eggs}} or 5", "18", id="nested_braces"),
        pytest.param(r"\boxed{\boxed{18}} or 5", "18", id="nested_box"),
        pytest.param(r"\boxed{9 + 9 = 18}", "18", id="equation_in_box"),
        pytest.param(r"\boxed{\$1{,}234} for 2", "1234", id="guarded_comma"),
        pytest.param(r"\boxed{1,\!234.50} for 2", "1234.50", id="spaced_comma_and_decimals"),
        pytest.param(r"\boxed{25\%} of 8", "25", id="percent"),
        pytest.param(r"\boxed{25 km} in 8", "25", id="unit"),
        pytest.param(r"\boxed{\frac{3}{4}} of 8", "4", id="fraction"),
        pytest.param(r"\boxed{-3} of 5", "-3", id="negative"),
        pytest.param("\\boxed{\u22123} of 5", "-3", id="unicode_minus"),
        pytest.param(r"so \boxed{18", "18", id="cut_off_inside"),
        pytest.param(r"7, so \boxed{x}", "7", id="box_without_a_number"),
        pytest.param(r"7, so \boxed{}", "7", id="empty_box"),
        pytest.param("$boxed{18}$ of 20", "18", id="lost_backslash"),
        pytest.param("$\x08oxed{18}$ of 20", "18", id="backspace_for_backslash_b"),
        pytest.param("It is 7.", "7", id="no_box"),
        pytest.param("boxed up", None, id="neither"),
        pytest.param("", None, id="empty"),
    ],
)
def test_boxed(response, number):
    assert boxed_first(response) == boxed_last(response) == number


def test_of_several_boxes_each_rule_takes_its_own():
    response = r"\boxed{18} then \boxed{19} then \boxed{20} of 5"
    assert (boxed_first(response), boxed_last(response)) == ("18", "20")


@pytest.mark.parametrize(
    ("response", "holds"),
    [
        (r"\boxed{18}", True),
        (r"\boxed{ \$-18 eggs}", True),
        ("\x08oxed{18}", True),
        (r"\boxed{x} and \boxed{1", True),
        (r"\boxed{about 18}", False),
        (r"\boxed{\frac{3}{4}}", False),
        (r"\boxed{}", False),
        ("18", False),
    ],
)
def test_boxed_number(response, holds):
    assert boxed_number(response) == holds


# --- published ---


@pytest.mark.parametrize(
    ("response", "number"),
    [
        pytest.param("1\n2 \\boxed{ 1,234.5 } 3 \\boxed{9}", "1234.5", id="first_box_before_all"),
        pytest.param("5 or 6\n\\boxed{x = 18}\n7", "7", id="box_with_more_than_a_number_is_passed_over"),
        pytest.param("\\boxed{-18}", "18", id="sign_hides_a_box_and_is_lost"),
        pytest.param("7 eggs\nthen 8", "7", id="one_number_in_first_line"),
        pytest.param("7 is 7\nthen 8", "7", id="equal_numbers_in_first_line"),
        pytest.param("7 or 7.0\nthen 8", "8", id="numbers_written_otherwise_in_first_line"),
        pytest.param("Well\nthe answer is:", None, id="phrase_without_a_number_and_no_other"),
        pytest.param("Well\n8\nthe answer is:", "8", id="phrase_without_a_number_after_it"),
        pytest.param("Well\nThe answer is 8 of 9", "9", id="phrase_with_capital"),
        pytest.param("Well\n1/2 of $8.50", "8.50", id="last_number_with_currency"),
        pytest.param("Well\n\u22128%", "8", id="no_sign_no_percent"),
        pytest.param("Well, 8\n9", "9", id="comma_counts_as_a_number"),
        pytest.param("Well, yes", None, id="mere_comma"),
        pytest.param("no", None, id="no_number"),
        pytest.param("", None, id="empty"),
    ],
)
def test_published(response, number):
    assert published([response]) == published_corrected([response]) == [number]


@pytest.mark.parametrize(
    "phrase", ["the answer is", "the final answer is", "the correct answer is", "thefinalansweris"]
)
def test_published_takes_the_phrase_from_another_row_and_the_correction_does_not(phrase):
    rows = ["a\n4 and 5", "b\n\\boxed{6}", f"c\n1, {phrase} 8, not 9"]
    assert published(rows) == ["5", "6", "4"]
    assert published_corrected(rows) == ["5", "6", "8"]


def test_published_has_no_number_for_the_phrase_before_any_row_left_one():
    assert published(["a\nthe answer is 8"]) == [None]


# --- lm-evaluation-harness ---


@pytest.mark.parametrize(
    ("response", "strict", "flexible"),
    [
        pytest.param("so\n#### 7", "7", "7", id="gsm8k_form"),
        pytest.param("#### 7\n\nBen\n#### 9 eggs.", "7", "9", id="run_on"),
        pytest.param("####7", None, "7", id="no_space"),
        pytest.param("#### $7.50", None, "$7.50", id="currency"),
        pytest.param("#### 1,234.", "1,234.", "1,234.", id="thousands_and_full_stop"),
        pytest.param("#### -3", "-3", "-3", id="negative"),
        pytest.param("#### \u22123", None, "3", id="unicode_minus"),
        pytest.param("#### 25%", "25", "25", id="percent"),
        pytest.param("#### 3/4", "3", "4", id="fraction"),
        pytest.param("#### 25 km", "25", "25", id="unit"),
        pytest.param("2-1", None, "-1", id="hyphen_is_a_sign"),
        pytest.param("18 and then...", None, "...", id="dots_pass_for_a_number"),
        pytest.param("18 and 5, 6", None, "6", id="one_digit"),
        pytest.param("\\boxed{18}", None, "18", id="box"),
        pytest.param("18 apples, all.", None, "18", id="lone_full_stop_is_passed_over"),
        pytest.param("", None, None, id="empty"),
    ],
)
def test_lm_eval(response, strict, flexible):
    assert (lm_eval_strict(response), lm_eval_flexible(response)) == (strict, flexible)


@pytest.mark.parametrize("extracted", ["1234", "1,234", "$1,234.", "1234."])
def test_lm_eval_ignores_commas_dollars_and_a_last_full_stop(extracted):
    assert same_text(extracted, "1234")


@pytest.mark.parametrize("extracted", ["1234.0", "1234..", "-1234", "...", ""])
def test_lm_eval_compares_texts(extracted):
    assert not same_text(extracted, "1234")


# --- math-verify ---


@pytest.mark.parametrize(
    "response",
    [
        r"so \boxed{18} of 20",
        "A: 18",
        "The final answer is $18$.",
        "It costs $18.00",
        "that is 18%",
        r"\boxed{\frac{36}{2}}",
        "#### 18",
        r"\boxed{\boxed{18}}",
        r"\boxed{18 \text{ km}}",
    ],
)
def test_math_verify_reads(response):
    assert RULES["math-verify"].verdicts([response], ["18"])[0][1]


@pytest.mark.parametrize(
    ("response", "answer"),
    [("A: 1,234", "1234"), ("A: -3", "-3"), (r"\boxed{\frac{3}{4}}", "0.75"), ("#### 0.5", "0.5")],
)
def test_math_verify_reads_other_numbers(response, answer):
    assert same_value(math_verify(response) or "", answer)


@pytest.mark.parametrize("response", ["", "no idea"])
def test_math_verify_finds_nothing(response):
    assert RULES["math-verify"].verdicts([response], ["18"]) == [(None, False)]


def test_math_verify_refuses_another_thread_rather_than_run_without_its_time_limit():
    raised = []

    def attempt():
        try:
            math_verify("A: 18")
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(raised) == 1


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
    [("1,2", "12"), ("18.01", "18"), ("-3", "3"), ("3/4", "0.75"), ("", ""), ("NaN", "NaN"), ("1e1x", "10")],
)
def test_not_the_same_number(extracted, answer):
    assert not same_number(extracted, answer)


def test_floating_point_does_not_blur_long_numbers():
    assert not same_number("9007199254740993", "9007199254740992")


# --- right answers ---


@pytest.mark.parametrize(
    ("written", "number"),
    [
        *[
            ("3.0", "3"),
            ("3.50", "3.50"),
            ("-$5", "-5"),
            ("$-5", "-5"),
            ("5.", "5"),
            ("5%", "5"),
            ("5 \\%", "5"),
            (".5", "0.5"),
        ],
        *[
            ("\u22125", "-5"),
            ("+5", "5"),
            ("\u20ac5", "5"),
            ("5 \u20ac", "5"),
            ("$ 5", "5"),
            ("$5$", "5"),
            ("007", "7"),
        ],
        *[
            ("**5**", "5"),
            ("**$1,234.50**", "1234.50"),
            ("-0.0", "0"),
            ("\uff11\uff12.\uff15", "12.5"),
            ("\u0663", "3"),
        ],
        *[("3 pens", "3"), ("5 km/h.", "5"), ("**5** pens", "5"), ("20% discount", "20"), ("$1,500 per year", "1500")],
        *[("1 500", "1500"), ("123 456", "123456"), ("1" * 5000, "1" * 5000)],
    ],
)
def test_a_right_answer_is_read_alike_in_a_solution_and_alone(written, number):
    assert right_answer(written) == right_answer(f"half of 7\n#### {written}\n") == number


@pytest.mark.parametrize(
    "written",
    [
        *[
            "3,5",
            "1,2,3",
            ",",
            "1,2345",
            "12,34,567",
            "3 or 4",
            "2024 300",
            "5 10 100",
            "3/4",
            "2 x 3",
            "1.2.3",
            "--5",
            "$",
            "%",
        ],
        *[
            "5 million",
            "2 dozen",
            "2 and a half",
            "5 to six",
            "3x",
            "3 x",
            "(5)",
            "= 5",
            "five",
            "x",
            "",
            "1e5000",
            "\u00bd",
        ],
    ],
)
def test_what_is_no_number_is_no_right_answer(written):
    assert right_answer(written) is right_answer(f"#### {written}") is None


# --- all rules ---


@given(st.lists(st.text(st.characters(codec=None))), st.text())
def test_odd_text_never_raises(texts, answer):
    for name, rule in RULES.items():
        if name != "math-verify":  # guarded by its own library, and slow
            assert len(rule.verdicts(texts, [answer] * len(texts))) == len(texts)


@given(st.integers(0), st.sampled_from([name for name in RULES if name != "math-verify"]))
def test_every_rule_reads_back_a_written_answer(number, rule):
    written = rf"so \boxed{{{number}}}, that is" + f"\n#### {number}"
    assert RULES[rule].verdicts([written], [str(number)]) == [(str(number), True)]


# --- the released logs ---


RELEASED = {  # log: correct by boxed-first, responses with a boxed number
    "no-distil": (120, 409),
    "no-distil-fine-tune": (330, 260),
    "base-KD": (411, 412),
    "reversekl-KD-raw": (508, 478),
    "teacher-KD": (561, 559),
    "ai-KD": (637, 663),
}


def released(log):
    if not LOGS.is_dir():
        pytest.skip(f"{LOGS}: the released logs are not here; set PUBLISHED_LOGS to their folder")
    table = pd.read_csv(LOGS / f"{log}.csv", keep_default_na=False)
    responses = [
        text.removeprefix(question) for text, question in zip(table["model_answer"], table["question"], strict=True)
    ]
    return table, responses, [answer.split("#### ")[1].replace(",", "") for answer in table["answer"]]


@pytest.mark.parametrize("log", RELEASED)
def test_boxed_first_counts_of_the_released_logs(log):
    _, responses, answers = released(log)
    correct = sum(right for _, right in RULES["boxed-first"].verdicts(responses, answers))
    assert (correct, sum(map(boxed_number, responses))) == RELEASED[log]


# The first line of both has one number, 1; the log holds the response's last number, as if that line had not counted.
UNEXPLAINED = {"base-KD": [1203], "teacher-KD": [175]}


@pytest.mark.parametrize("log", [log for log in RELEASED if log != "reversekl-KD-raw"])
def test_published_is_what_the_released_logs_hold_wherever_no_person_typed_the_answer(log):
    table, responses, _ = released(log)
    pairs = zip(published([response.strip() for response in responses]), table["model_ex1"].astype(float), strict=True)
    automatic = {row: (float(number), logged) for row, (number, logged) in enumerate(pairs) if number is not None}
    assert len(automatic) > 1319 - 140
    assert [row for row, (number, logged) in automatic.items() if number != logged] == UNEXPLAINED.get(log, [])
