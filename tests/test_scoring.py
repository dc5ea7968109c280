import csv
import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from response_priming import problems, scoring
from response_priming.errors import InputError
from response_priming.extraction import RULES
from response_priming.params import sections
from response_priming.scoring import grade

RULE = "last-number"


def graded(responses, **columns):
    defaults = {"answer": "7", "finished": True, "tokens": 4}
    return grade(pd.DataFrame({"response": responses} | defaults | columns))


# --- summary ---


def test_summary_of_one_student():
    table = graded(["7", "7", "8", "none"], finished=[True, True, False, True], tokens=[1, 2, 3, 6])
    found = scoring.summary(table, RULE)
    low, high = proportion_confint(2, 4, method="wilson")
    shares = {"accuracy": 0.5, "low": low, "high": high, "answered": 0.75, "accuracy_answered": 2 / 3, "finished": 0.75}
    shares["accuracy_finished"] = 2 / 3
    counts = {"n": 4, "seeds": 1, "correct": 2, "covers": "problems", "spread": np.nan, "mean_tokens": 3.0}
    assert found == pytest.approx(shares | counts, nan_ok=True)


def test_summary_of_two_students():
    table = graded(["7", "7", "8", "7", "8", "8"], seed=[3, 3, 3, 9, 9, 9])
    found = scoring.summary(table, RULE)
    assert (found["n"], found["seeds"], found["correct"], found["accuracy"]) == (3, 2, 3, 0.5)
    assert found["covers"] == "problems and seeds"
    assert found["spread"] == pytest.approx(np.std([2 / 3, 1 / 3], ddof=1))


@given(st.lists(st.sampled_from(["7", "8", "none"]), min_size=1))
@settings(deadline=None)
def test_accuracy_is_share_answered_times_accuracy_of_those(responses):
    found = scoring.summary(graded(responses), RULE)
    assert found["accuracy"] == pytest.approx(found["answered"] * np.nan_to_num(found["accuracy_answered"]))


def test_accuracy_given_an_answer_is_nan_where_nothing_was_answered():
    assert pd.isna(scoring.summary(graded(["none"]), RULE)["accuracy_answered"])


# --- files ---


def solutions(count, seed=0):
    """(answer, response, is right): in the form that solutions of GSM8K's authors' models have, with calculator marks
    and a last line `A: N`, some of them wrong, some cut off before that line."""
    choose = random.Random(seed)
    money = [lambda n: f"{n}", lambda n: f"{n:,}", lambda n: f"${n:,}", lambda n: f"{n}.", lambda n: f"{n}.0"]
    money += [
        lambda n: f"${n}.00",
        lambda n: f"{n}%",
        lambda n: f" {n} ",
        lambda n: f"{n} dollars",
        lambda n: f"**{n}**",
    ]
    for _ in range(count):
        first, second = choose.randint(2, 90_000), choose.randint(2, 90_000)
        right = choose.choice([first + second, first - second])
        sign = "+" if right == first + second else "-"
        kind = choose.choice(["right", "wrong", "negated", "cut off"])
        given_ = {"right": right, "wrong": right + choose.choice([-1, 1, 10]), "negated": -right, "cut off": right}[
            kind
        ]
        step = f"So {first:,} {sign} {second:,} = $<<{first}{sign}{second}={right}>>{right:,} in all."
        last = f"Then {second}{sign}" if kind == "cut off" else f"A: {choose.choice(money)(given_)}"
        yield f"{step}\n#### {right:,}", f"{step}\n{last}", kind == "right"


def write(path, rows):
    table = pd.DataFrame(rows)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("name", ["responses.jsonl", "responses.csv"])
def test_last_number_agrees_with_every_verdict_on_solutions_in_gsm8k_style(tmp_path, name):
    made = list(solutions(600))
    file = write(tmp_path / name, [{"answer": answer, "response": response} for answer, response, _ in made])
    counts, verdicts = scoring.score(scoring.read(file), [RULE])
    assert list(verdicts["correct"]) == [right for *_, right in made]
    assert counts[0]["correct"] == sum(right for *_, right in made)


@pytest.mark.parametrize("name", ["responses.jsonl", "responses.csv"])
def test_a_file_scores_as_its_rows_do(tmp_path, name):
    rows = [
        {"answer": "7", "response": "#### 7"},
        {"answer": "8", "response": "NA"},
        {"answer": "9", "response": "10, é"},
    ]
    counts, verdicts = scoring.score(scoring.read(write(tmp_path / name, rows)), ["hash", RULE])
    low, high = proportion_confint(1, 3, method="wilson")
    share = {
        "n": 3,
        "correct": 1,
        "accuracy": pytest.approx(1 / 3),
        "low": pytest.approx(low),
        "high": pytest.approx(high),
    }
    assert counts == [{"rule": "hash", "answered": 1} | share, {"rule": RULE, "answered": 2} | share]
    assert list(verdicts) == ["row", "rule", "extracted", "correct"]
    assert list(verdicts["row"]) == [1, 2, 3, 1, 2, 3]
    assert list(verdicts["extracted"].dropna()) == ["7", "7", "10"]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("so 9\n#### 1,234", "1234"),
        ("#### $18", "18"),
        ("#### -3 ", "-3"),
        ("1,234", "1234"),
        ("$0.50", "0.50"),
        ("18.00", "18"),
        ("#### -$5", "-5"),
        ("#### 3 pens", "3"),
        ("12{,}000", "12000"),
        (10**16, "1" + "0" * 16),
        (1e16, "1" + "0" * 16),
        (0.00001, "0.00001"),
        ("1e+16", "1" + "0" * 16),
        ("7" * 5000, "7" * 5000),
        (18, "18"),
        (18.0, "18"),
        (-0.5, "-0.5"),
    ],
)
def test_right_answer_may_be_a_solution_or_a_number(tmp_path, written, number):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"answer": written, "response": ""}))
    assert list(scoring.read(file)["answer"]) == [number]


@pytest.mark.parametrize(
    "answer",
    ["", "eighteen", "A: eighteen", "3 or 4", "#### x", "#### 3,5", "1,2,3", ",", None, True, [18], float("nan")],
)
def test_reference_without_a_number_is_refused(tmp_path, answer):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"answer": "1", "response": ""}) + "\n" + json.dumps({"answer": answer, "response": ""}))
    with pytest.raises(InputError, match=r"one.jsonl: row 2: answer = .*: must be a number or end in `#### NUMBER`"):
        scoring.read(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"a\.txt: extension '\.txt': allowed: \.jsonl, \.csv"),
        ("a.csv", "", "a.csv: empty"),
        ("a.jsonl", "", "a.jsonl: empty"),
        ("a.csv", "answer,response\n", "a.csv: empty"),
        ("a.csv", "answer,text\n1,2\n", "a.csv: row 1: no field 'response'; there are: answer, text"),
        ("a.jsonl", '{"response": "1"}\n', "a.jsonl: row 1: no field 'answer'; there are: response"),
        ("a.jsonl", '{"answer": "1", "response": "1"}\n{"answer": 2}\n', "row 2: no field 'response'"),
        ("a.jsonl", '{"answer": "1", "response": null}\n', "row 1: response = None: must be text"),
        ("a.jsonl", "[1]\n", r"row 1: must be a JSON object, is '\[1\]'"),
        ("a.jsonl", "{'a': 1}\n", r"row 1: not JSON \(.*\): .{'a': 1}"),
        ("a.csv", "answer,response\n1\n", "row 1: response = None: must be text"),
        ("a.csv", "answer,response\n1,2\n1,2,3\n", "row 2: more fields than columns"),
        ("a.csv", "id,answer,response\n5,1,1\n6,1,1\n5,1,1\n", "row 3: id = '5': occurs twice"),
        ("a.csv", "problem_id,answer,response\nx,1,1\nx,1,1\n", "row 2: problem_id = 'x': occurs twice"),
        ("a.csv", 'answer,response\n1,"2\n', "a.csv: cannot be read: unexpected end of data"),
        ("a.jsonl", '{"id": 5, "answer": 1, "response": "1"}\n' * 2, "row 2: id = '5': occurs twice"),
        ("a.jsonl", '{"id": 0, "answer": 1, "response": "1"}\n\n' * 2, "row 2: id = '0': occurs twice"),
        ("a.jsonl", '{"answer": 1, "response": 5}', "row 1: response = 5: must be text"),
        ("a.jsonl", '{"answer": 1, "response": ' + "[" * 100_000, "row 1: cannot be read: brackets too deep"),
        ("a.jsonl", '{"answer": 1e99999999999999999999, "response": ""}', "row 1: cannot be read: .* an exponent too"),
        ("a.jsonl", '{"answer": 1e5000, "response": ""}', r"row 1: answer = '1E\+5000': must be a number"),
        ("a.jsonl", '{"a\\nb": 1}', "row 1: no field 'answer'; there are: a b"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        scoring.read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'\xef\xbb\xbf{"answer": 7, "response": "7"}\r\n\n  \r\n{"answer": 8, "response": "8"}\n\n'),
        ("a.csv", b"\xef\xbb\xbfanswer,response\n\n7,7\n\n8,8\n\n"),
        ("a.csv", b"answer,response\r7,7\r\r8,8"),
        ("a.jsonl", b'{"id": null, "answer": 7, "response": "7"}\n{"answer": 8, "response": "8", "id": ""}'),
        ("a.jsonl", b'{"id": NaN, "answer": 7, "response": "7"}\n{"answer": 8, "response": "8", "id": NaN}'),
        ("a.csv", b"id,problem_id,answer,response\n,,7,7\n,,8,8\n"),
        (
            "a.jsonl",
            b'{"answer": 7, "response": "7", "n": ' + b"1" * 5000 + b'}\n{"answer": 8, "response": "8", "n": 1e400}',
        ),
    ],
)
def test_a_file_is_read_as_other_tools_write_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    table = scoring.read(tmp_path / name)
    assert list(table["answer"]) == list(table["response"]) == ["7", "8"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_response_may_be_long(tmp_path, name):
    file = write(tmp_path / name, [{"answer": "7", "response": "6 and " * 50_000 + "7"}])
    assert scoring.score(scoring.read(file), [RULE])[0][0]["correct"] == 1


def test_half_a_surrogate_pair_is_a_replaced_character(tmp_path):
    row = {"answer": "7", "response": "\\boxed{\ud83d 5}", "\udfff": "\U0001f600"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    table = scoring.read(tmp_path / "a.jsonl")
    assert table.to_dict("records") == [{"answer": "7", "response": "\\boxed{\ufffd 5}", "\ufffd": "\U0001f600"}]
    assert len(scoring.score(table, list(RULES))[1]) == len(RULES)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_another_encoding_is_named(tmp_path, name, encoding):
    file = write(tmp_path / name, [{"answer": "7", "response": "é"}])
    file.write_bytes(file.read_text().replace("\\u00e9", "é").encode(encoding))
    with pytest.raises(InputError, match=rf"{name}: cannot be read: 'utf-8' codec can't decode byte") as refused:
        scoring.read(file)
    assert len(str(refused.value).splitlines()) == 1


def test_byte_order_mark_and_line_breaks_in_a_response_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('\ufeffanswer,response\r\n7,"so\n7"\r\n', encoding="utf-8")
    assert scoring.read(tmp_path / "a.csv").to_dict("records") == [{"answer": "7", "response": "so\n7"}]


def test_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"answer,response\n1,\xff\xfe\n")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("gone.csv", "bytes.csv", "folder.jsonl"):
        with pytest.raises(InputError, match=f"{name}: cannot be read: ."):
            scoring.read(tmp_path / name)


# --- any file, and the pipeline ---


def outcome(work):
    """What some work gives, or the one line by which it is refused."""
    try:
        return work()
    except InputError as error:
        (line,) = str(error).splitlines()
        return line


WRITTEN = st.one_of(
    st.text("0123456789,.$ -+\u2212eE%*'{}\\!\u00a0#", max_size=12),
    st.integers(-(10**7), 10**7).flatmap(
        lambda n: st.sampled_from(
            [f"{n}", f"{n:,}", f"${n:,}.00", f"{n:,}".replace(",", " "), f"**{n}**", f"{n}.0", f"{n} pens"]
        )
    ),
    st.floats(allow_nan=False).map(str),
    st.text(max_size=6),
)
RESPONSES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "#### ", "so \\boxed{", "In 2024 ", "the answer is "]),
    WRITTEN,
    st.text(max_size=8),
)


@given(st.lists(st.tuples(WRITTEN, RESPONSES), min_size=1, max_size=3), st.sampled_from(["a.jsonl", "a.csv"]))
@settings(deadline=None, max_examples=60)
def test_a_file_is_scored_as_the_pipeline_grades_its_problems(tmp_path_factory, pairs, name):
    folder = tmp_path_factory.mktemp("files")
    table = pd.DataFrame(pairs, columns=["answer", "response"]).assign(question="How many?")
    table["answer"] = "Step.\n#### " + table["answer"]
    table.to_json(folder / "test.jsonl", orient="records", lines=True)
    if name == "a.csv":
        table.to_csv(folder / name, index=False, quoting=csv.QUOTE_ALL)
    else:
        table.to_json(folder / name, orient="records", lines=True)
    rules, source = list(RULES)[:-1], sections.Problems(dataset="local", data_dir=str(folder))  # the last is slow
    asked = outcome(lambda: problems.load(source, "test", len(table), seed=0))
    read = outcome(lambda: scoring.read(folder / name))
    if isinstance(asked, str) or isinstance(read, str):
        assert "`#### NUMBER`" in asked
        assert "`#### NUMBER`" in read
        return
    pipeline = grade(table.assign(answer=[problem.answer for problem in asked]), rules)
    for rule, verdicts in scoring.score(read, rules)[1].groupby("rule"):
        assert list(verdicts["correct"]) == list(pipeline[f"{rule}-correct"])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ROW = st.fixed_dictionaries(
    {}, optional={"answer": WRITTEN | JSON, "response": RESPONSES | JSON, "id": JSON, "\ud800": JSON}
)
LINES = st.lists(
    ROW.map(json.dumps) | st.sampled_from(["", " ", "[", '"', "answer,response", "7,", '"7","8"']), max_size=4
)


@given(LINES.map("\n".join).map(str.encode) | st.binary(max_size=60), st.sampled_from(["a.jsonl", "a.csv"]))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_scored_or_refused_in_one_line(tmp_path_factory, content, name):
    file = tmp_path_factory.mktemp("files") / name
    file.write_bytes(content)
    found = outcome(lambda: scoring.score(scoring.read(file), [RULE, "lm-eval-flexible"]))
    assert isinstance(found, str) or len(found[1]) == 2 * found[0][0]["n"]


def test_rules_asked_for_are_known_once_each_and_all_by_default():
    assert scoring.known([]) == list(RULES)
    assert scoring.known(["hash", RULE, "hash"]) == ["hash", RULE]
    with pytest.raises(InputError, match="rule 'first': unknown; allowed: hash, boxed-first"):
        scoring.known(["first"])


# --- the teacher ---


def test_teacher_is_graded_by_problem_whatever_the_order():
    asked = [problems.Problem("train-0", "", "", "7"), problems.Problem("train-1", "", "", "8")]
    answered = pd.DataFrame({"problem_id": ["train-1", "train-0"], "text": ["8", "8"], "tokens": [[1], [1, 2]]})
    table = scoring.grade_teacher(answered, asked, RULE)
    assert list(table[f"{RULE}-correct"]) == [True, False]
    assert list(table["tokens"]) == [1, 2]
