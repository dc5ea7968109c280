import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file

from response_priming import alignment, distill, engines, losses, manifest, models, paths, responses
from response_priming.errors import InputError

SIZES = {
    "n_train": 12,
    "train_batch": 8,
    "micro_batch": 8,
    "train_steps": 3,
    "train_tokens": 400,
    "warmup_steps": 0,
    "held_out": 0,
}
K = 6
WHAT = ["seed", "step", "loss", "hard", "soft", "grad_norm", "learning_rate"]


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="none", **SIZES)


def changed(run, **values):
    return type(run).model_validate(run.model_dump() | values)


def random_response(number, seed=0):
    """A response of 2 to 8 tokens with a random signal, and the end-of-sequence token at its end."""
    random = np.random.default_rng([seed, number])
    length = 1 + number % 7
    logprobs = -np.sort(-random.normal(0, 2, (length + 1, len(tiny.VOCABULARY))))
    logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
    ids = np.stack([random.permutation(len(tiny.VOCABULARY)) for _ in range(length + 1)])[:, :K].astype(np.int32)
    tokens = random.integers(1, 257, length).tolist()
    tail = np.log(np.exp(logprobs[:, K:]).sum(-1))
    text = tiny.tokenizer().decode(tokens)
    return engines.Response([*tokens, 0], text, True, *engines.pack(ids, logprobs[:, :K], tail))


def write_store(run, ids=None, seed=0):
    """Responses to the train problems, as the generate stage leaves them."""
    rows = [
        responses.Answered(name, 0, name, 9, random_response(number, seed))
        for number, name in enumerate(ids or train_ids(run))
    ]
    with manifest.writing(run.build / "responses" / run.arm, {}) as aside:
        responses.write_shard(aside / responses.shard_name(0), rows, vocabulary=len(tiny.VOCABULARY))
        pd.DataFrame({"kept": [True] * len(rows)}).to_parquet(aside / responses.KEPT)


def train_ids(run):
    return [f"train-{number}" for number in range(run.n_train)]


@pytest.fixture
def store(run):
    write_store(run)
    return responses.dataset(run.build / "responses" / "none")


def adapter(run):
    return load_file(run.output / "students" / run.arm / "seed-0" / "adapter_model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# --- the loss ---


def by_hand(run, examples):
    """Hard and soft loss of a step over all examples, one unpadded pass each; forward KL at temperature 1."""
    model = tiny.llama()
    hard = soft = tokens = 0.0
    for example in examples:
        with torch.inference_mode():
            logprobs = model(torch.tensor([example["input_ids"]])).logits[0].double().log_softmax(-1)
        for place, (position, token) in enumerate(zip(example["positions"], example["labels"], strict=True)):
            student = logprobs[position]
            hard -= student[token].item()
            tokens += 1
            if "top_ids" in example:
                q = student[torch.tensor(example["top_ids"][place]).long()].exp().numpy()
                p = np.exp(example["top_logprobs"][place].astype(np.float64))
                soft += (p * np.log(p / q)).sum() + (1 - p.sum()) * np.log((1 - p.sum()) / (1 - q.sum()))
    hard, soft = hard / tokens, soft / tokens
    return {"hard": hard, "soft": soft, "loss": run.alpha * hard + (1 - run.alpha) * soft}


def test_the_first_steps_loss_is_the_bare_models_by_hand(run, store):
    run = changed(run, train_batch=12, micro_batch=4, train_steps=1, alpha=0.3)
    first = distill.train(run).iloc[0]
    expected = by_hand(run, alignment.build_examples(run, tiny.tokenizer(), store))
    assert {key: first[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_the_fine_tuned_arms_loss_is_the_hard_one_alone(run):
    run = changed(run, arm="fine-tuned", train_batch=12, micro_batch=12, train_steps=1, alpha=0.3)
    first = distill.train(run).iloc[0]
    expected = by_hand(run, alignment.build_examples(run, tiny.tokenizer(), None))["hard"]
    assert (first["hard"], first["loss"]) == pytest.approx((expected, expected), rel=1e-4)
    assert np.isnan(first["soft"])


@pytest.fixture
def whole(run):
    """The curve of 8 examples in one pass."""
    write_store(run)
    return distill.train(run)


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_the_curve_is_the_same_however_a_batch_is_cut_and_padded(run, whole, tmp_path, monkeypatch, micro_batch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "cut")
    write_store(run)
    curve = distill.train(changed(run, micro_batch=micro_batch))
    pd.testing.assert_frame_equal(curve[WHAT], whole[WHAT], rtol=1e-4)


# --- training ---


def test_training_lowers_the_loss(run, store):
    curve = distill.train(changed(run, learning_rate=0.02, train_steps=12, train_batch=12, micro_batch=12))
    assert len(store) == 12
    assert curve["step"].tolist() == list(range(1, 13))
    assert curve["hard"].iloc[-1] < 0.9 * curve["hard"].iloc[0]
    assert curve["soft"].iloc[-1] < 0.9 * curve["soft"].iloc[0]


@pytest.mark.usefixtures("store")
def test_the_learning_rate_warms_up_and_decays(run):
    rates = distill.train(changed(run, warmup_steps=2, train_steps=6, learning_rate=0.01))["learning_rate"]
    assert rates.iloc[:3].tolist() == pytest.approx([0, 0.005, 0.01])
    assert rates.iloc[2:].is_monotonic_decreasing


def test_the_adapter_loads_with_plain_peft_and_changes_the_model(run, whole):
    folder = run.output / "students" / "none" / "seed-0"
    trained = PeftModel.from_pretrained(tiny.llama(), folder).eval()
    tokens = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        assert not torch.allclose(trained(tokens).logits, tiny.llama()(tokens).logits, atol=1e-3)
    assert trained.peft_config["default"].r == run.lora_r
    assert set(trained.peft_config["default"].target_modules) == set(run.lora_targets)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "losses.parquet").assign(seed=0), whole)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_same_seed_makes_the_same_adapter_and_another_does_not(run, tmp_path, monkeypatch, optimizer):
    made = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setattr(paths, "BUILD", tmp_path / place)
        write_store(run)
        distill.train(changed(run, seed=seed, optimizer=optimizer, lora_dropout=0.3, train_steps=2))
        made.append(adapter(run))
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


@pytest.mark.usefixtures("store")
def test_every_training_seed_makes_a_student_of_its_own_and_a_new_one_leaves_the_others(run):
    first = distill.train(changed(run, seeds=[0]))
    folder = run.output / "students" / "none"
    made = (folder / "seed-0" / manifest.FILE).read_text()
    both = distill.train(changed(run, seeds=[0, 7]))
    pd.testing.assert_frame_equal(both[both["seed"] == 0], first)
    assert not both.groupby("step")["loss"].nunique().eq(1).all()
    assert (folder / "seed-0" / manifest.FILE).read_text() == made
    assert {path.name for path in folder.iterdir()} == {"seed-0", "seed-7"}


def test_with_alpha_one_the_signal_does_not_matter(run, tmp_path, monkeypatch, whole):
    run = changed(run, alpha=1)
    made = []
    for place, divergence in (("a", "forward-kl"), ("b", "reverse-kl")):
        monkeypatch.setattr(paths, "BUILD", tmp_path / place)
        write_store(run)
        curve = distill.train(changed(run, divergence=divergence))
        assert curve["loss"].tolist() == pytest.approx(curve["hard"].tolist(), rel=1e-4)
        made.append(adapter(run))
    assert same(*made)
    assert not np.allclose(whole["hard"].iloc[1:], curve["hard"].iloc[1:], rtol=1e-6)


# --- the stage ---


@pytest.fixture
def no_training(monkeypatch):
    """Makes training from now on a failure."""
    return lambda: monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("trained again"))


def test_a_second_call_trains_nothing(run, whole, no_training):
    no_training()
    pd.testing.assert_frame_equal(distill.train(run), whole)
    pd.testing.assert_frame_equal(distill.train(changed(run, micro_batch=2, n_test=9)), whole)


def test_a_changed_alpha_trains_again(run, whole):
    again = distill.train(changed(run, alpha=0.9))
    assert again["loss"].iloc[0] == pytest.approx(0.9 * whole["hard"].iloc[0] + 0.1 * whole["soft"].iloc[0], rel=1e-4)


@pytest.mark.usefixtures("whole")
def test_changed_responses_train_again(run, no_training):
    write_store(run, seed=1)
    no_training()
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        distill.train(run)


def test_missing_responses_stop_before_a_model_is_loaded(run, no_training):
    no_training()
    with pytest.raises(InputError, match="responses/none: not made yet"):
        distill.train(run)


def test_the_students_folder_has_the_adapter_and_its_curve_and_no_checkpoint(run, whole):
    found = {path.name for path in (run.output / "students" / "none" / "seed-0").iterdir() if path.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors", "losses.parquet", manifest.FILE} <= found
    assert set(whole) == {*WHAT, "tokens_per_second", "peak_mib"}
    assert (whole[["tokens_per_second", "peak_mib"]] > 0).all(axis=None)
    assert not list((run.output / "students").rglob("checkpoint-*"))
