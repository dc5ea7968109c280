import bisect
import hashlib
import itertools
import json
import os
import re
import string
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from response_priming import paths, problems
from response_priming.compare import leakage
from response_priming.errors import InputError
from response_priming.params import sections

GSM8K = Path(os.environ.get("GSM8K_DIR") or Path(__file__).parents[2] / "shared" / "gsm8k")
SPLITS = problems.SPLITS
STEP = re.compile(r"(\d+) \+ (\d+) = <<(\d+)\+(\d+)=(\d+)>>(\d+)")


def make(split="train", limit=40, *, seed=0, largest=20, two_step_share=0.25):
    return problems.procedural(split, limit, seed=seed, largest=largest, two_step_share=two_step_share)


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def story(question):
    """The question with its persons, its things and its numbers taken out."""
    return re.sub(rf"\b({'|'.join([*problems.NAMES, *problems.THINGS])}|\d+)\b", "_", question)


any_set = given(
    split=st.sampled_from(SPLITS), seed=st.integers(0, 99), largest=st.integers(10, 60), two_step_share=st.floats(0, 1)
)


# --- procedural problems ---


@any_set
@settings(max_examples=30, deadline=None)
def test_worked_solutions_are_right(split, seed, largest, two_step_share):
    for problem in make(split, seed=seed, largest=largest, two_step_share=two_step_share):
        *steps, last = problem.solution.splitlines()
        total, *rest = numbers(problem.question)
        for step, more in zip(steps, rest, strict=True):
            x, y, marked_x, marked_y, marked, result = map(int, STEP.fullmatch(step).groups())
            assert (x, y) == (marked_x, marked_y) == (total, more)
            assert marked == result == x + y
            total = result
        assert problem.answer == str(total)
        assert last == f"#### {total}"
        assert max(numbers(problem.question)) <= largest


@any_set
@settings(max_examples=30, deadline=None)
def test_two_steps_come_as_often_as_asked_for(split, seed, largest, two_step_share):
    made = make(split, seed=seed, largest=largest, two_step_share=two_step_share)
    assert sum(len(STEP.findall(problem.solution)) == 2 for problem in made) == int(len(made) * two_step_share)


@any_set
@settings(max_examples=15, deadline=None)
def test_a_seed_decides_the_problems_and_a_larger_set_begins_with_the_smaller(split, seed, largest, two_step_share):
    sizes = {"seed": seed, "largest": largest, "two_step_share": two_step_share}
    made = make(split, **sizes)
    assert made[:17] == make(split, 17, **sizes)
    assert made != make(split, **sizes | {"seed": seed + 1})


@given(seed=st.integers(0, 99), largest=st.integers(10, 60))
@settings(max_examples=15, deadline=None)
def test_splits_share_no_question_no_story_and_no_operand_pair(seed, largest):
    made = {split: make(split, seed=seed, largest=largest, two_step_share=0.5) for split in SPLITS}
    for what in (
        lambda problem: problem.question,
        lambda problem: story(problem.question),
        lambda problem: frozenset(numbers(problem.question)[:2]),
    ):
        found = [{what(problem) for problem in made[split]} for split in SPLITS]
        assert len(set.union(*found)) == sum(map(len, found))


@pytest.mark.parametrize(("split", "least"), [("train", 40), ("validation", 10), ("test", 30)])
def test_a_story_comes_as_often_as_another_with_one_step_and_with_two(split, least):
    stories = problems.stories(split)
    assert len(stories) >= least
    made = make(split, 8 * len(stories))
    assert set(Counter(problem.template for problem in made).values()) == {8}
    longer = Counter(problem.template for problem in made if len(STEP.findall(problem.solution)) == 2)
    assert longer.keys() == {story.name for story in stories}
    assert max(longer.values()) <= 3


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("longer", [False, True])
def test_every_story_is_grammatical_with_any_name_and_thing(split, longer):
    for story in problems.stories(split):
        words = story.words(longer=longer)
        assert re.findall(r"\{([xyz])\}", words) == ["x", "y", "z"][: 2 + longer]
        assert {*re.findall(r"\{(\w+)\}", words)} <= {*"nmtxyz"}
        assert not re.search(r"\d|  |\b(a|an|one|each|every|this|that) \{t\}|\{t\}'", words, re.IGNORECASE)
        assert re.search(r"(?<!does )(?<!did )\{[nm]\} (have|are|get|buy|do)\b", words) is None
        *told, asked = re.findall(r"[^.?!]+[.?!]", words)
        assert all(sentence.endswith(".") and sentence.strip()[0] in "{" + string.ascii_uppercase for sentence in told)
        assert re.fullmatch(r" (How many [^?]*\{t\}|What is the total number of \{t\})[^?]*\?", asked)
    assert all(re.fullmatch("[A-Z][a-z]*[^s]", name) for name in problems.NAMES)  # whose genitive is 's
    assert all(re.fullmatch("[a-z]+s", thing) for thing in problems.THINGS)


@pytest.mark.parametrize("longer", [False, True])
def test_no_story_is_like_that_of_another_split(longer):
    told = {split: [story.words(longer=longer) for story in problems.stories(split)] for split in SPLITS}
    bare = {split: [re.sub(r"\{\w\}", "0", words) for words in told[split]] for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert leakage.overlaps(bare[one], bare[other]) == []


def test_what_a_seed_makes_is_that_of_the_version():
    made = [problem for split in SPLITS for problem in make(split, 100, seed=3)]
    digest = hashlib.sha256(repr(made).encode()).hexdigest()[:16]
    assert (problems.GENERATOR, digest) == (2, "c15db399e03c32d8"), "raise GENERATOR, for the fingerprint"


def test_other_stories_are_other_data(monkeypatch, tmp_path):
    before = problems.fingerprint(sections.Problems())
    changed = tmp_path / "stories.jsonl"
    changed.write_text(problems.STORIES.read_text().replace("gets", "takes", 1))
    monkeypatch.setattr(problems, "STORIES", changed)
    assert problems.fingerprint(sections.Problems()) != before


def test_questions_differ():
    assert len({problem.question for problem in make(limit=500)}) == 500


def test_a_worked_solution_has_no_calculator_marks():
    problem = problems.Problem("a", "q", "3 + 4 = <<3+4=7>>7\n7 - 1 = <<7-1=6>>6\n#### 6", "6")
    assert problem.worked == "3 + 4 = 7\n7 - 1 = 6\n#### 6"


def test_none_asked_for_is_none():
    assert make("validation", 0) == []


@pytest.mark.parametrize("split", SPLITS)
def test_the_smallest_numbers_allowed_make_every_split(split):
    smallest = sections.Problems.model_fields["largest_operand"].metadata[0].ge
    assert len(make(split, 4, largest=smallest)) == 4


def test_too_many_problems_of_small_numbers_are_refused():
    with pytest.raises(
        InputError, match=r"^problems.largest_operand = 5: too small for 500 different validation problems$"
    ):
        make("validation", 500, largest=5, two_step_share=0)


# --- GSM8K ---


def record(number):
    return {"question": f"How many is {number}? ", "answer": f"It is <<{number}>>{number}.\n#### {number:,}"}


@pytest.fixture
def gsm8k(tmp_path):
    """Writes train.jsonl and test.jsonl, and reads them as the loader does."""

    def load(lines, split="train", limit=1):
        own, other = ("test", "train") if split == "test" else ("train", "test")
        for stem, some in ((own, lines), (other, [json.dumps({"question": "Another?", "answer": "#### 1"})])):
            (tmp_path / f"{stem}.jsonl").write_text("".join(f"{line}\n" for line in some), encoding="utf-8")
        return problems.load(sections.Problems(dataset="gsm8k", data_dir=str(tmp_path)), split, limit, seed=0)

    return load


def test_a_record_becomes_a_problem(gsm8k):
    assert gsm8k([json.dumps(record(1234))]) == [
        problems.Problem("train-0", "How many is 1234?", "It is <<1234>>1234.\n#### 1,234", "1234")
    ]


def test_train_begins_and_validation_ends_the_same_file(gsm8k):
    lines = [json.dumps(record(number)) for number in range(9)]
    assert [problem.id for problem in gsm8k(lines, "train", 2)] == ["train-0", "train-1"]
    assert [problem.id for problem in gsm8k(lines, "validation", 2)] == ["train-7", "train-8"]
    assert [problem.id for problem in gsm8k(lines, "test", 2)] == ["test-0", "test-1"]


def test_a_line_separator_inside_a_question_ends_no_record(gsm8k):
    line = json.dumps(record(7) | {"question": "One\u2028two\x85three?"}, ensure_ascii=False)
    assert gsm8k([line])[0].question == "One\u2028two\x85three?"


@pytest.mark.parametrize(
    ("written", "answer"),
    [("3.0", "3"), ("-$5", "-5"), ("5.", "5"), ("**5**", "5"), ("1{,}500", "1500"), ("3 pens", "3")],
)
def test_the_right_answer_is_the_number_at_the_end(gsm8k, written, answer):
    assert gsm8k([json.dumps(record(1) | {"answer": f"2 + 1\n#### {written}"})])[0].answer == answer


@pytest.mark.parametrize("written", ["3,5", "1,2,3", ",", "5 million", ""])
def test_what_is_no_number_is_no_right_answer(gsm8k, written):
    with pytest.raises(InputError, match="train-0: answer does not end in `#### NUMBER`: "):
        gsm8k([json.dumps(record(1) | {"answer": f"2 + 1\n#### {written}"})])


def test_a_file_is_read_as_other_tools_write_it(gsm8k):
    long = json.dumps(record(2) | {"n": 0}).replace("0}", "1" * 5000 + "}")
    assert [problem.answer for problem in gsm8k([f"\ufeff{json.dumps(record(1))}\r", "", long, " "], limit=2)] == [
        "1",
        "2",
    ]


def test_half_a_surrogate_pair_is_a_replaced_character(gsm8k):
    assert gsm8k([json.dumps(record(1) | {"question": "A \ud83d?"})])[0].question == "A \ufffd?"


def test_another_encoding_is_named(gsm8k, tmp_path):
    gsm8k([json.dumps(record(1))])
    (tmp_path / "train.jsonl").write_text('{"question": "Où?", "answer": "#### 1"}', encoding="latin-1")
    with pytest.raises(InputError, match=r"train.jsonl: cannot be read: 'utf-8' codec can't decode byte 0xf9"):
        problems.load(sections.Problems(dataset="local", data_dir=str(tmp_path)), "train", 1, seed=0)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([json.dumps(record(1)), '{"question": "How'], r"train.jsonl: row 2: not JSON \(.*\): '{\"question\": \"How'"),
        ([json.dumps(record(1)), '{"question": "How?"}'], r"train.jsonl: row 2: needs a string field 'answer'"),
        (['{"question": 3, "answer": "#### 3"}'], r"train.jsonl: row 1: needs a string field 'question'"),
        (["[]"], r"train.jsonl: row 1: must be a JSON object, is '\[\]'"),
        ([], r"train.jsonl: empty"),
        (
            [json.dumps(record(1) | {"answer": "It is 1."})] * 2,
            r"train-0: answer does not end in `#### NUMBER`: 'It is 1.'",
        ),
        ([json.dumps(record(1))], r": train holds 1 problems, 2 asked for"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(gsm8k, lines, problem):
    with pytest.raises(InputError, match=problem) as refused:
        gsm8k(lines, limit=2)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"test.jsonl: no such file; the folder holds train.jsonl and test.jsonl"):
        problems.load(sections.Problems(dataset="gsm8k", data_dir=str(tmp_path)), "test", 1, seed=0)


def test_local_problems_are_read_and_known_by_their_content(gsm8k, tmp_path):
    found = gsm8k([json.dumps(record(1))], "test")
    source = sections.Problems(dataset="local", data_dir=str(tmp_path))
    assert problems.load(source, "test", 1, seed=0) == found
    assert not problems.fingerprint(source).startswith("procedural")


def test_a_changed_file_changes_the_fingerprint(gsm8k, tmp_path):
    source = sections.Problems(dataset="gsm8k", data_dir=str(tmp_path))
    gsm8k([json.dumps(record(1))])
    before = problems.fingerprint(source)
    gsm8k([json.dumps(record(2))])
    assert problems.fingerprint(source) != before


@pytest.mark.skipif(not (GSM8K / "test.jsonl").exists(), reason="GSM8K is not here; GSM8K_DIR may say where it is")
@pytest.mark.parametrize(("split", "size"), [("train", 7473), ("test", 1319)])
def test_all_of_gsm8k_parses(split, size):
    found = problems.load(sections.Problems(dataset="gsm8k", data_dir=str(GSM8K)), split, size, seed=0)
    assert len({problem.id for problem in found}) == size
    assert all(re.fullmatch(r"-?\d+", problem.answer) for problem in found)
    assert not any("<<" in problem.worked for problem in found)


def test_a_relative_folder_starts_at_the_project_and_a_tilde_at_home(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / "data" / f"{name}.jsonl").write_text('{"question": "1 + 1?", "answer": "2\\n#### 2"}\n')
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    given = [sections.Problems(dataset="local", data_dir=name) for name in ("data", "~/data", str(tmp_path / "data"))]
    assert [problems.load(source, "test", 1, seed=0)[0].answer for source in given] == ["2"] * 3
    assert len({problems.fingerprint(source) for source in given}) == 1


@pytest.mark.parametrize(("values", "limit"), [({}, 250_000), ({"largest_operand": 5}, 60_000)])
def test_more_procedural_problems_than_there_are_words_and_numbers_for_are_refused_at_once(monkeypatch, values, limit):
    monkeypatch.setattr(problems, "_make", lambda *_: pytest.fail("made one"))
    source = sections.Problems(two_step_share=0, **values)
    for load in (problems.load, problems.some):
        with pytest.raises(InputError, match=f"too small for {limit} different train problems$"):
            load(source, "train", limit, seed=0)


@pytest.mark.parametrize("split", problems.SPLITS)
@pytest.mark.parametrize("share", [0, 0.4])
def test_as_many_procedural_problems_as_there_are_can_be_made(split, share):
    source = sections.Problems(two_step_share=share, largest_operand=5)

    def too_many(size):
        try:
            problems.some(source, split, size, seed=0)
        except InputError:
            return True
        return False

    most = bisect.bisect_left(range(50_000), True, key=too_many) - 1
    assert len(problems.load(source, split, most, seed=0)) == most


def test_a_folder_may_name_templates(gsm8k):
    lines = [json.dumps(record(number) | {"template": f"t{number % 2}"}) for number in range(4)]
    assert [problem.template for problem in gsm8k(lines, "test", 3)] == ["t0", "t1", "t0"]
    assert [problem.template for problem in gsm8k([json.dumps(record(1))], "test")] == [None]


@pytest.mark.parametrize(
    ("templates", "problem"),
    [
        (["a", "a", "a"], "template = 'a' in all 3 test problems; allowed: two or more"),
        (["a", None, "b"], "test-1: has no template, and others have"),
        (["a", 5, "b"], r"test.jsonl: row 2: template = Decimal\('5'\): must be text, or left out"),
    ],
)
def test_templates_that_statistics_cannot_go_by_are_refused(gsm8k, templates, problem):
    lines = [
        json.dumps(record(number) | ({} if name is None else {"template": name}))
        for number, name in enumerate(templates)
    ]
    with pytest.raises(InputError, match=problem) as refused:
        gsm8k(lines, "test")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("change", [str, str.upper, lambda text: f" {text.replace(' ', '  ').replace('?', ' ?!')}"])
def test_a_question_of_test_is_not_trained_on_however_it_is_written(tmp_path, change):
    asked = [f"What are {n} and 1?" for n in range(6)]
    for stem, questions in (("train", [*asked[:3], change(asked[4])]), ("test", asked[3:])):
        rows = [json.dumps({"question": question, "answer": "#### 1"}) for question in questions]
        (tmp_path / f"{stem}.jsonl").write_text("\n".join(rows))
    source = sections.Problems(dataset="local", data_dir=str(tmp_path))
    with pytest.raises(
        InputError, match=r"train-3 is in test, too, as are 0 others of train: take them out, or go on .*leaked = true$"
    ):
        problems.require_unleaked(source)
    problems.require_unleaked(source.model_copy(update={"allow_leaked": True}))
    assert len(problems.load(source, "train", 4, seed=0)) == 4
