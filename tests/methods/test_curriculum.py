import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tests.distill.test_training import changed, train_ids, write_store

from response_priming.errors import InputError
from response_priming.methods import alignment, curriculum
from response_priming.methods.losses import IGNORED

SIZES = {"n_train": 12, "train_tokens": 400}


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="none", **SIZES)


def prepare(run, **values):
    run = changed(run, **values)
    return curriculum.prepare(run, tiny.tokenizer())


def ids_of(items):
    return [item[0]["problem_id"] for item in (items[place] for place in range(len(items)))]


@pytest.mark.parametrize("arm", ["none", "fine-tuned"])
def test_the_same_problems_are_held_out_of_every_arm(run, arm):
    write_store(run, ids=[name for name in train_ids(run) if name != "train-3"])
    data = prepare(run, arm=arm, held_out=0.25)
    held_out = ["train-9", "train-10", "train-11"]
    assert [problem.id for problem in data.held_out] == held_out
    for examples in data.validation.values():
        assert [examples[place]["problem_id"] for place in range(3)] == held_out
    trained = [f"train-{number}" for number in range(9) if arm == "fine-tuned" or number != 3]
    assert ids_of(data.items) == trained


def test_the_teachers_responses_are_validated_on_where_there_is_a_teacher(run):
    write_store(run)
    assert set(prepare(run, held_out=0.25).validation) == {"gold", "response"}
    assert set(prepare(run, held_out=0.25, arm="fine-tuned").validation) == {"gold"}
    assert prepare(run, held_out=0.0).validation == {}


def test_with_gold_labels_the_response_teaches_by_its_distributions_and_the_solution_by_its_tokens(run):
    write_store(run)
    plain, paired = (prepare(run, hard_labels=labels).items for labels in ("response", "gold"))
    for place in range(len(paired)):
        response, solution = paired[place]
        assert set(response["labels"]) == {IGNORED}
        assert response["top_ids"] is not None
        assert all(response["scored"])
        assert tiny.tokenizer().decode(solution["labels"]).endswith("<end>")
        assert "####" in tiny.tokenizer().decode(solution["labels"])
        assert not any(solution["scored"])
        assert response["problem_id"] == solution["problem_id"] == plain[place][0]["problem_id"]
    batch = alignment.collate([example for place in range(3) for example in paired[place]], 0)
    assert batch["top_ids"].shape[:2] == batch["labels"].shape == batch["scored"].shape


@given(items=st.integers(1, 20), count=st.integers(1, 60), seed=st.integers(0, 9))
def test_every_pass_takes_every_item_once_in_an_order_of_its_own(items, count, seed):
    stream = curriculum.Stream(list(range(items)), count=count, seed=seed)
    taken = [stream[place] for place in range(len(stream))]
    assert len(taken) == count
    for start in range(0, count, items):
        part = taken[start : start + items]
        assert len(set(part)) == len(part)
    again = curriculum.Stream(list(range(items)), count=count, seed=seed)
    assert taken == [again[place] for place in range(count)]


def test_another_seed_is_another_order():
    orders = [curriculum.Stream(list(range(50)), count=50, seed=seed).order for seed in (0, 1)]
    assert not np.array_equal(*orders)


@pytest.mark.parametrize(
    ("key", "value", "shown"), [("largest_operand", 30, "20, this run has 30"), ("seed", 5, "0, this run has 5")]
)
def test_responses_made_for_other_problems_are_refused(run, key, value, shown):
    write_store(run, recipe={"parameters": run.model_dump()})
    with pytest.raises(InputError, match=rf"^responses/none: made with {key} = {shown}: generate them anew$"):
        prepare(run, **{key: value})


def test_responses_of_another_tokenizer_are_refused(run):
    write_store(run, text="something else")
    with pytest.raises(InputError, match=r"^responses/none: tokens of another tokenizer than that of the student"):
        prepare(run)
    assert len(prepare(run, signal="text").items) == 11


def test_holding_out_everything_is_refused(run):
    write_store(run)
    with pytest.raises(InputError, match=r"^distill.held_out = 0.99: leaves none of 12 examples to train on$"):
        prepare(run, held_out=0.99)
