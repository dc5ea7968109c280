import numpy as np
import pytest
import tiny

from response_priming import alignment, losses, priming, problems
from response_priming.errors import InputError

IGNORED = losses.IGNORED
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
                "tokens": np.array([*range(1, length), 0]),
                "top_ids": ids,
                "top_logprobs": np.full((length, k), -1.5, np.float16),
                "tail_logprobs": np.full(length, -0.5, np.float16),
            }
        )
    return rows


def prompt_of(run, index):
    problem = problems.load(run, "train", run.n_train, seed=run.seed)[index]
    return priming.encode(tiny.tokenizer(), priming.bare(problem.question, run.system_prompt))


# --- response ---


def test_a_response_is_learned_from_the_bare_question_token_by_token(run):
    rows = answered(run)
    for index, example in enumerate(alignment.build_examples(run, tiny.tokenizer(), rows)):
        prompt, target = prompt_of(run, index), list(rows[index]["tokens"])
        assert example["problem_id"] == f"train-{index}"
        assert example["input_ids"] == prompt + target[:-1]
        assert example["positions"] == [len(prompt) - 1 + place for place in range(len(target))]
        assert example["labels"] == target
        assert all(example["scored"])
        assert all(np.array_equal(example[key], rows[index][key]) for key in alignment.SIGNAL)


def test_the_fine_tuned_arm_learns_the_worked_solutions(run):
    examples = alignment.build_examples(changed(run, arm="fine-tuned"), tiny.tokenizer(), None)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    assert [tiny.tokenizer().decode(example["labels"]) for example in examples] == [f"{p.worked}<end>" for p in asked]
    assert not {"scored", *alignment.SIGNAL} & examples[0].keys()


def test_an_example_that_is_too_long_is_named(run):
    with pytest.raises(InputError, match=r"^distill.train_tokens = 20: problem train-0 needs \d+$"):
        alignment.build_examples(changed(run, train_tokens=20), tiny.tokenizer(), answered(run))


def test_an_example_of_exactly_the_length_allowed_is_taken(run):
    rows = answered(run)
    longest = max(len(prompt_of(run, index)) + len(row["tokens"]) for index, row in enumerate(rows))
    assert len(alignment.build_examples(changed(run, train_tokens=longest), tiny.tokenizer(), rows)) == 4
    with pytest.raises(InputError, match="train_tokens"):
        alignment.build_examples(changed(run, train_tokens=longest - 1), tiny.tokenizer(), rows)


def test_a_response_to_another_problem_is_refused(run):
    rows = answered(run)
    rows[2]["problem_id"] = "train-99"
    with pytest.raises(InputError, match=r"^responses/none: problem train-99 is not among the 4 of train$"):
        alignment.build_examples(run, tiny.tokenizer(), rows)


# --- batches ---

BATCH = [
    {"problem_id": "train-0", "input_ids": [5, 6, 7, 8], "positions": [2, 3], "labels": [8, 0]},
    {"problem_id": "train-0", "input_ids": [9, 1], "positions": [0, 1], "labels": [1, IGNORED]},
    {"problem_id": "train-0", "input_ids": [4, 4], "positions": [1], "labels": [0]},
]


def test_a_batch_is_padded_on_the_right_and_keeps_its_end_though_it_is_also_padding():
    padded = alignment.collate(BATCH, pad=0)
    assert padded["input_ids"].tolist() == [[5, 6, 7, 8], [9, 1, 0, 0], [4, 4, 0, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert padded["positions"].tolist() == [[2, 3], [0, 1], [1, 0]]
    assert padded["labels"].tolist() == padded["shift_labels"].tolist() == [[8, 0], [1, IGNORED], [0, IGNORED]]


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
    padded = alignment.collate([row | signal for row, signal in zip(BATCH, signals, strict=True)], pad=0)
    assert padded["scored"].tolist() == [[True, False]] * 3
    assert padded["top_ids"].shape == padded["top_logprobs"].shape == (3, 2, 2)
    scored = padded["scored"]
    assert (padded["top_ids"][scored] == 3).all()
    assert (padded["top_logprobs"][scored] == -1.5).all()
    assert (padded["tail_logprobs"][scored] == -0.5).all()
