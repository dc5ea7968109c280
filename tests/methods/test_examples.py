import json

import numpy as np
import pytest
import tiny
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.distill.test_training import train_ids, write_store

from response_priming import problems, prompts
from response_priming.engines import Signal
from response_priming.errors import InputError
from response_priming.methods.examples import Examples, collate, deal, prepare, released_pairing, stream
from response_priming.methods.losses import IGNORED
from response_priming.params import sections

SIZES = {"n_train": 4, "train_tokens": 400}


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="none", **SIZES)


def changed(run, **values):
    return type(run).model_validate(run.model_dump() | values)


def answered(run, k=3):
    """A response of two tokens or more to each train problem; the signal's ids say which problem and position."""
    rows = []
    for number, problem in enumerate(problems.load(run, "train", run.n_train, seed=run.seed)):
        length = 2 + number
        ids = 10 * number + np.arange(length)[:, None] + np.zeros((1, k), int)
        rows.append(
            {
                "problem_id": problem.id,
                "text": f"{problem.answer}.",
                "tokens": np.array([*range(1, length), 0]),
                "top_ids": ids,
                "top_logprobs": np.full((length, k), -1.5, np.float16),
                "tail_logprobs": np.full(length, -0.5, np.float16),
            }
        )
    return rows


def stored(rows):
    """Rows as the memory-mapped store gives them: flat."""
    flat = [{key: np.ravel(value) if key.startswith("top") else value for key, value in row.items()} for row in rows]
    return Dataset.from_list(flat).with_format("numpy")


def prompt_of(run, index):
    problem = problems.load(run, "train", run.n_train, seed=run.seed)[index]
    return prompts.encode(tiny.tokenizer(), prompts.bare(problem.question, run.system_prompt))


# --- response ---


def test_a_response_is_learned_from_the_bare_question_token_by_token(run):
    rows = answered(run)
    for index, example in enumerate(Examples(run, tiny.tokenizer(), stored(rows))):
        prompt, target = prompt_of(run, index), list(rows[index]["tokens"])
        assert example["problem_id"] == f"train-{index}"
        assert example["input_ids"] == prompt + target[:-1]
        assert example["positions"] == [len(prompt) - 1 + place for place in range(len(target))]
        assert example["labels"] == target
        assert all(example["scored"])
        assert all(np.array_equal(example[key], rows[index][key]) for key in Signal._fields)


def test_the_fine_tuned_arm_learns_the_worked_solutions(run):
    examples = Examples(changed(run, arm="fine-tuned"), tiny.tokenizer(), None)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    assert [tiny.tokenizer().decode(example["labels"]) for example in examples] == [f"{p.worked}<end>" for p in asked]
    assert not {"scored", *Signal._fields} & examples[0].keys()


def test_an_example_that_is_too_long_is_named(run):
    with pytest.raises(InputError, match=r"^distill.train_tokens = 20: problem train-0 needs \d+$"):
        Examples(changed(run, train_tokens=20), tiny.tokenizer(), stored(answered(run)))


def test_an_example_of_exactly_the_length_allowed_is_taken(run):
    rows = answered(run)
    longest = max(len(prompt_of(run, index)) + len(row["tokens"]) for index, row in enumerate(rows))
    assert len(Examples(changed(run, train_tokens=longest), tiny.tokenizer(), stored(rows))) == 4
    with pytest.raises(InputError, match="train_tokens"):
        Examples(changed(run, train_tokens=longest - 1), tiny.tokenizer(), stored(rows))


def test_a_response_to_another_problem_is_refused(run):
    rows = answered(run)
    rows[2]["problem_id"] = "train-99"
    with pytest.raises(InputError, match=r"^responses/none: problem train-99 is not among the 4 of train$"):
        Examples(run, tiny.tokenizer(), stored(rows))


# --- batches ---

BATCH = [
    {"problem_id": "train-0", "input_ids": [5, 6, 7, 8], "positions": [2, 3], "labels": [8, 0]},
    {"problem_id": "train-0", "input_ids": [9, 1], "positions": [0, 1], "labels": [1, IGNORED]},
    {"problem_id": "train-0", "input_ids": [4, 4], "positions": [1], "labels": [0]},
]


def test_a_batch_is_padded_on_the_right_and_keeps_its_end_though_it_is_also_padding():
    padded = collate(BATCH, pad=0)
    assert padded["input_ids"].tolist() == [[5, 6, 7, 8], [9, 1, 0, 0], [4, 4, 0, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert padded["positions"].tolist() == [[2, 3], [0, 1], [1, 0]]
    assert padded["labels"].tolist() == [[8, 0], [1, IGNORED], [0, IGNORED]]


def test_signals_stand_at_their_positions_and_padding_is_not_scored():
    signals = [
        {
            "scored": [True, False][: len(row["positions"])],
            "top_ids": np.full((len(row["positions"]), 2), 3),
            "top_logprobs": np.full((len(row["positions"]), 2), -1.5, np.float16),
            "tail_logprobs": np.full(len(row["positions"]), -0.5, np.float16),
        }
        for row in BATCH
    ]
    padded = collate([row | signal for row, signal in zip(BATCH, signals, strict=True)], pad=0)
    assert padded["scored"].tolist() == [[True, False]] * 3
    assert padded["top_ids"].shape == padded["top_logprobs"].shape == (3, 2, 2)
    scored = padded["scored"]
    assert (padded["top_ids"][scored] == 3).all()
    assert (padded["top_logprobs"][scored] == -1.5).all()
    assert (padded["tail_logprobs"][scored] == -0.5).all()


# --- published ---

PREFIX = "Explain it. "
# "Question 1", "Question 10", "Question 11", "Question 12", "Question 2", ...
LEXICOGRAPHIC = [0, 9, 10, 11, 1, 2, 3, 4, 5, 6, 7, 8]
BEGIN = 1


@pytest.fixture
def tokenizer():
    """With a beginning-of-sequence token, which the tiny one lacks."""
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(BEGIN)
    return tokenizer


@pytest.fixture
def build(run, tokenizer):
    """Makes the examples of 12 problems by the released procedure with some repairs."""
    run = changed(run, n_train=12)

    def build(*repairs, **values):
        wanted = changed(run, alignment="published", repairs=list(repairs), **values)
        store = answered(run) if "teacher-answers" in repairs else scored_prompts(run)
        return Examples(wanted, tokenizer, stored(store))

    return build


def scored_prompts(run):
    """Signals over prompts; the ids say which problem they are of and which position of the teacher's prompt."""
    rows = []
    for number, (question, _) in enumerate(texts(run)):
        tokens = prompts.encode_plain(tiny.tokenizer(), PREFIX) + question
        ids = 1000 * number + np.arange(len(tokens))[:, None] + np.zeros((1, 2), int)
        row = {"problem_id": f"train-{number}", "text": "", "tokens": np.array(tokens), "top_ids": ids}
        rows.append(row | {"top_logprobs": np.full(ids.shape, -1.5), "tail_logprobs": np.full(len(ids), -0.5)})
    return rows


def texts(run):
    """Token ids of each problem's question and worked solution."""
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    return [[prompts.encode_plain(tiny.tokenizer(), text) for text in (p.question, p.worked)] for p in asked]


def signals(example):
    """Which of the teacher's distributions stand where, and at which positions."""
    places = zip(example["positions"], example["top_ids"][:, 0].tolist(), example["scored"], strict=True)
    return {position: number for position, number, scored in places if scored}


def labels(example):
    """Which labels stand where."""
    places = zip(example["positions"], example["labels"], strict=True)
    return {position: label for position, label in places if label != IGNORED}


def test_with_all_repairs_the_published_alignment_is_the_response_alignment(run, build, tokenizer):
    run = changed(run, n_train=12)
    usual = Examples(run, tokenizer, stored(answered(run)))
    for left, right in zip(usual, build(*sections.REPAIRS), strict=True):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[key], right[key]) for key in left)


def test_as_released_answer_tokens_meet_question_positions_and_another_prompts_signal(run, build):
    for index, (question, answer) in enumerate(texts(changed(run, n_train=12))):
        example = build()[index]
        begun, length = [BEGIN, *answer], min(len(question), len(answer)) + 1
        assert example["input_ids"] == [BEGIN, *question]
        assert labels(example) == dict(enumerate(begun[:length]))
        assert signals(example) == {t: 1000 * LEXICOGRAPHIC[index] + t for t in range(length)}


def test_pairing_gives_every_problem_its_own_signal(build):
    assert [signals(example)[0] // 1000 for example in build()] == LEXICOGRAPHIC
    assert [signals(example)[0] // 1000 for example in build("pairing")] == list(range(12))


def test_of_the_2638_released_pairs_one_matches():
    assert [place for place, own in enumerate(released_pairing(2638)) if place == own] == [0]


def test_prefix_offset_passes_over_the_prefix(build):
    assert signals(build("pairing", "prefix-offset")[3])[0] == 3000 + len(PREFIX)
    assert signals(build("prefix-offset")[3])[0] == 1000 * LEXICOGRAPHIC[3] + len(PREFIX)


def test_bos_begins_neither_question_nor_labels(run, build):
    (question, answer), example = texts(run)[0], build("bos")[0]
    assert example["input_ids"] == question
    assert example["labels"][:3] == answer[:3]


def test_eos_closes_the_labels(build):
    assert 0 not in build("truncation", "positions")[0]["labels"]
    assert build("truncation", "positions", "eos")[0]["labels"][-1] == 0


def test_teacher_answers_are_the_labels_and_their_signals_the_teachers(run, build):
    example, row = build("teacher-answers", "pairing", "bos", "eos")[5], answered(changed(run, n_train=12))[5]
    assert example["labels"] == row["tokens"].tolist()
    assert signals(example) == dict(enumerate(row["top_ids"][:, 0]))


def test_positions_move_labels_to_the_answer_and_leave_the_prompts_signal(run, build):
    (question, answer), example = texts(run)[0], build("positions", "bos", "truncation")[0]
    assert example["input_ids"] == question + answer[:-1]
    assert labels(example) == {len(question) - 1 + t: token for t, token in enumerate(answer)}
    assert signals(example) == {t: t for t in range(min(len(PREFIX) + len(question), len(question + answer[:-1])))}


def test_template_is_the_students_prompt_in_the_evaluation(run, build):
    assert build("template", "bos")[0]["input_ids"] == prompt_of(run, 0)


def test_truncation_leaves_no_more_positions_than_the_shortest_has(run, build):
    for index, (question, answer) in enumerate(texts(run)):
        cut, whole = build("bos", "positions")[index], build("bos", "positions", "truncation")[index]
        assert len(labels(cut)) == len(signals(cut)) == min(len(question), len(answer))
        assert len(labels(whole)) == len(answer)


def test_as_released_nothing_is_read_beyond_256_tokens(run, build, monkeypatch):
    asked = problems.load(run, "train", 12, seed=run.seed)
    long = [problems.Problem(p.id, 300 * "x", 300 * "y", p.answer) for p in asked]
    monkeypatch.setattr(problems, "load", lambda *_, **__: long)
    assert len(build()[0]["input_ids"]) == len(build()[0]["labels"]) == 256
    with pytest.raises(InputError, match=r"^distill.train_tokens = 400: problem train-0 needs 602$"):
        build("truncation")


@given(st.sets(st.sampled_from(sections.REPAIRS)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_set_of_repairs_gives_whole_examples(build, repairs):
    for example in [build(*repairs)[index] for index in (0, 7)]:
        count = len(example["positions"])
        assert {len(example[key]) for key in ("labels", "scored", *Signal._fields)} == {count}
        assert 0 <= min(example["positions"]) <= max(example["positions"]) < len(example["input_ids"])
        assert labels(example)
        assert signals(example)


def test_without_a_teacher_the_published_alignment_has_labels_alone(run, tokenizer):
    run = changed(run, arm="fine-tuned", alignment="published")
    example = Examples(run, tokenizer, None)[0]
    assert "scored" not in example
    assert example["labels"][0] == BEGIN


# --- controls ---


@given(st.integers(2, 60), st.integers(0, 5))
def test_every_problem_is_dealt_one_wrong_response(count, seed):
    dealt = deal(count, seed)
    assert sorted(dealt) == list(range(count))
    assert all(place != own for place, own in enumerate(dealt))
    assert dealt == deal(count, seed)


def test_the_shuffled_arm_learns_another_problems_response_and_signal(run):
    run = changed(run, arm="shuffled")
    rows = answered(run)
    dealt = deal(len(rows), run.seed)
    for index, example in enumerate(Examples(run, tiny.tokenizer(), stored(rows))):
        prompt = prompt_of(run, index)
        assert example["input_ids"][: len(prompt)] == prompt
        assert example["labels"] == rows[dealt[index]]["tokens"].tolist()
        assert np.array_equal(example["top_ids"], rows[dealt[index]]["top_ids"])


def test_one_response_cannot_be_dealt_to_a_wrong_problem(run):
    run = changed(run, arm="shuffled", n_train=1)
    with pytest.raises(InputError, match=r"^arm 'shuffled': needs two responses or more, there is 1;"):
        Examples(run, tiny.tokenizer(), stored(answered(run)))


def test_responses_as_text_are_tokenised_anew_and_have_no_signal(run):
    rows = answered(run)
    example = Examples(changed(run, signal="text"), tiny.tokenizer(), stored(rows))[1]
    assert tiny.tokenizer().decode(example["labels"]) == rows[1]["text"] + "<end>"
    assert "scored" not in example


# --- training data ---


@pytest.fixture
def twelve(run):
    return changed(run, n_train=12)


def prepared(run, **values):
    return prepare(changed(run, **values), tiny.tokenizer())


def ids_of(items):
    return [item[0]["problem_id"] for item in (items[place] for place in range(len(items)))]


@pytest.mark.parametrize("arm", ["none", "fine-tuned"])
def test_the_same_problems_are_held_out_of_every_arm(twelve, arm):
    write_store(twelve, ids=[name for name in train_ids(twelve) if name != "train-3"])
    data = prepared(twelve, arm=arm, held_out=0.25)
    held_out = ["train-9", "train-10", "train-11"]
    assert [problem.id for problem in data.held_out] == held_out
    for examples in data.validation.values():
        assert [examples[place]["problem_id"] for place in range(3)] == held_out
    trained = [f"train-{number}" for number in range(9) if arm == "fine-tuned" or number != 3]
    assert ids_of(data.items) == trained


def test_the_teachers_responses_are_validated_on_where_there_is_a_teacher(twelve):
    write_store(twelve)
    assert set(prepared(twelve, held_out=0.25).validation) == {"gold", "response"}
    assert set(prepared(twelve, held_out=0.25, arm="fine-tuned").validation) == {"gold"}
    assert prepared(twelve, held_out=0.0).validation == {}


def test_with_gold_labels_the_response_teaches_by_its_distributions_and_the_solution_by_its_tokens(twelve):
    write_store(twelve)
    plain, paired = (prepared(twelve, hard_labels=labels).items for labels in ("response", "gold"))
    for place in range(len(paired)):
        response, solution = paired[place]
        assert set(response["labels"]) == {IGNORED}
        assert response["top_ids"] is not None
        assert all(response["scored"])
        assert tiny.tokenizer().decode(solution["labels"]).endswith("<end>")
        assert "####" in tiny.tokenizer().decode(solution["labels"])
        assert not any(solution["scored"])
        assert response["problem_id"] == solution["problem_id"] == plain[place][0]["problem_id"]
    batch = collate([example for place in range(3) for example in paired[place]], 0)
    assert batch["top_ids"].shape[:2] == batch["labels"].shape == batch["scored"].shape


@given(items=st.integers(1, 20), count=st.integers(1, 60), seed=st.integers(0, 9))
def test_every_pass_takes_every_item_once_in_an_order_of_its_own(items, count, seed):
    once = stream(list(range(items)), count=count, seed=seed)
    taken = [once[place] for place in range(len(once))]
    assert len(taken) == count
    for start in range(0, count, items):
        part = taken[start : start + items]
        assert len(set(part)) == len(part)
    again = stream(list(range(items)), count=count, seed=seed)
    assert taken == [again[place] for place in range(count)]


def test_another_seed_is_another_order():
    orders = [stream(list(range(50)), count=50, seed=seed).indices for seed in (0, 1)]
    assert not np.array_equal(*orders)


@pytest.mark.parametrize(
    ("key", "value", "shown"), [("largest_operand", 30, "20, this run has 30"), ("seed", 5, "0, this run has 5")]
)
def test_responses_made_for_other_problems_are_refused(twelve, key, value, shown):
    write_store(twelve, recipe={"parameters": twelve.model_dump()})
    with pytest.raises(InputError, match=rf"^responses/none: made with {key} = {shown}: generate them anew$"):
        prepared(twelve, **{key: value})


def test_responses_of_another_tokenizer_are_refused(twelve):
    write_store(twelve, text="something else")
    with pytest.raises(InputError, match=r"^responses/none: tokens of another tokenizer than that of the student"):
        prepared(twelve)
    assert len(prepared(twelve, signal="text").items) == 11


def test_a_solution_to_a_test_problem_trains_nobody(run, tmp_path):
    rows = [json.dumps({"question": f"How many are {n} and 1?", "answer": f"#### {n + 1}"}) for n in range(20)]
    for stem in ("train", "test"):
        (tmp_path / f"{stem}.jsonl").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"train-0 is in test, too, as are 19 others of train: take them out, or"):
        prepared(run, arm="fine-tuned", dataset="local", data_dir=str(tmp_path), n_train=12)


def test_holding_out_everything_is_refused(twelve):
    write_store(twelve)
    with pytest.raises(InputError, match=r"^distill.held_out = 0.99: leaves none of 12 examples to train on$"):
        prepared(twelve, held_out=0.99)
