import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from response_priming import artifacts, engines, generate, models, params, paths
from response_priming.distill import training
from response_priming.distill.trainer import DistillTrainer
from response_priming.engines.base import pack
from response_priming.errors import InputError
from response_priming.generate import store as responses
from response_priming.methods.examples import Examples

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


def random_response(number, seed=0, text=None):
    """A response of 2 to 8 tokens with a random signal, and the end-of-sequence token at its end."""
    random = np.random.default_rng([seed, number])
    length = 1 + number % 7
    logprobs = -np.sort(-random.normal(0, 2, (length + 1, len(tiny.VOCABULARY))))
    logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
    ids = np.stack([random.permutation(len(tiny.VOCABULARY)) for _ in range(length + 1)])[:, :K].astype(np.int32)
    tokens = random.integers(1, 257, length).tolist()
    tail = np.log(np.exp(logprobs[:, K:]).sum(-1))
    text = tiny.tokenizer().decode(tokens) if text is None else text
    return engines.Response([*tokens, 0], text, True, pack(ids, logprobs[:, :K], tail))


def write_store(run, ids=None, seed=0, text=None, recipe=None):
    """Responses to the train problems, as the generate stage leaves them."""
    rows = [
        responses.Answered(name, 0, name, 9, random_response(number, seed, text))
        for number, name in enumerate(ids or train_ids(run))
    ]
    with artifacts.writing(run.build / "responses" / run.arm, recipe or {}) as aside:
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


def test_the_first_steps_loss_is_the_bare_bothby_hand(run, store):
    run = changed(run, train_batch=12, micro_batch=4, train_steps=1, alpha=0.3)
    first = training.train(run).iloc[0]
    expected = by_hand(run, Examples(run, tiny.tokenizer(), store))
    assert {key: first[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_the_fine_tuned_arms_loss_is_the_hard_one_alone(run):
    run = changed(run, arm="fine-tuned", train_batch=12, micro_batch=12, train_steps=1, alpha=0.3)
    first = training.train(run).iloc[0]
    expected = by_hand(run, Examples(run, tiny.tokenizer(), None))["hard"]
    assert (first["hard"], first["loss"]) == pytest.approx((expected, expected), rel=1e-4)
    assert np.isnan(first["soft"])


@pytest.fixture
def whole(run):
    """The curve of 8 examples in one pass."""
    write_store(run)
    return training.train(run)


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_the_curve_is_the_same_however_a_batch_is_cut_and_padded(run, whole, tmp_path, monkeypatch, micro_batch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "cut")
    write_store(run)
    curve = training.train(changed(run, micro_batch=micro_batch))
    pd.testing.assert_frame_equal(curve[WHAT], whole[WHAT], rtol=1e-4)


# --- training ---


def test_training_lowers_the_loss(run, store):
    curve = training.train(changed(run, learning_rate=0.02, train_steps=12, train_batch=12, micro_batch=12))
    assert len(store) == 12
    assert curve["step"].tolist() == list(range(1, 13))
    assert curve["hard"].iloc[-1] < 0.9 * curve["hard"].iloc[0]
    assert curve["soft"].iloc[-1] < 0.9 * curve["soft"].iloc[0]


@pytest.mark.usefixtures("store")
def test_the_learning_rate_warms_up_and_decays(run):
    rates = training.train(changed(run, warmup_steps=2, train_steps=6, learning_rate=0.01))["learning_rate"]
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
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "losses.parquet").assign(seed=0), whole.drop(columns=training.SPEED)
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_same_seed_makes_the_same_adapter_and_another_does_not(run, tmp_path, monkeypatch, optimizer):
    made = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setattr(paths, "BUILD", tmp_path / place)
        write_store(run)
        training.train(changed(run, seed=seed, optimizer=optimizer, lora_dropout=0.3, train_steps=2))
        made.append(adapter(run))
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


@pytest.mark.usefixtures("store")
def test_every_training_seed_makes_a_student_of_its_own_and_a_new_one_leaves_the_others(run):
    first = training.train(changed(run, seeds=[0]))
    folder = run.output / "students" / "none"
    made = (folder / "seed-0" / artifacts.FILE).read_text()
    both = training.train(changed(run, seeds=[0, 7]))
    pd.testing.assert_frame_equal(both[both["seed"] == 0], first)
    assert not both.groupby("step")["loss"].nunique().eq(1).all()
    assert (folder / "seed-0" / artifacts.FILE).read_text() == made
    assert {path.name for path in folder.iterdir()} == {"seed-0", "seed-7"}


def test_with_alpha_one_the_signal_does_not_matter(run, tmp_path, monkeypatch, whole):
    run = changed(run, alpha=1)
    made = []
    for place, divergence in (("a", "forward-kl"), ("b", "reverse-kl")):
        monkeypatch.setattr(paths, "BUILD", tmp_path / place)
        write_store(run)
        curve = training.train(changed(run, divergence=divergence))
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
    pd.testing.assert_frame_equal(training.train(run), whole)
    pd.testing.assert_frame_equal(training.train(changed(run, micro_batch=2, n_test=9, evaluate_every=1)), whole)


def test_a_finer_validation_curve_leaves_the_weights_alone(run, tmp_path, monkeypatch):
    run, weights = changed(run, held_out=0.25, train_steps=4, lora_dropout=0.3), []
    for every in (3, 1):
        monkeypatch.setattr(paths, "BUILD", tmp_path / f"every-{every}")
        write_store(run)
        finer = changed(run, evaluate_every=every)
        training.train(finer)
        assert list(training.validation(finer)["step"]) == sorted({*range(0, 4, every), 4})
        weights.append(load_file(run.output / "students/none/seed-0/adapter_model.safetensors"))
    assert same(*weights)


def test_a_changed_alpha_trains_again(run, whole):
    again = training.train(changed(run, alpha=0.9))
    assert again["loss"].iloc[0] == pytest.approx(0.9 * whole["hard"].iloc[0] + 0.1 * whole["soft"].iloc[0], rel=1e-4)


@pytest.mark.usefixtures("whole")
def test_changed_responses_train_again(run, no_training):
    write_store(run, seed=1)
    no_training()
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        training.train(run)


def test_missing_responses_stop_before_a_model_is_loaded(run, no_training):
    no_training()
    with pytest.raises(InputError, match="responses/none: not made yet"):
        training.train(run)


def test_the_students_folder_has_the_adapter_and_its_curve_and_no_checkpoint(run, whole):
    found = {path.name for path in (run.output / "students" / "none" / "seed-0").iterdir() if path.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors", "losses.parquet", artifacts.FILE} <= found
    assert set(whole) == {*WHAT, "tokens_per_second", "peak_mib"}
    assert (whole[["tokens_per_second", "peak_mib"]] > 0).all(axis=None)
    assert not list((run.output / "students").rglob("checkpoint-*"))
    assert not list((run.output / "students" / "none").glob(".*"))


# --- validation, and what the student is like ---


def test_validation_starts_before_training_and_ends_after_it(run, store):
    run = changed(run, held_out=0.25, train_steps=5, evaluate_every=2)
    training.train(run)
    found = training.validation(run)
    assert found["step"].tolist() == [0, 2, 4, 5]
    aside = [place for place, name in enumerate(store["problem_id"]) if name in {"train-9", "train-10", "train-11"}]
    examples = Examples(run, tiny.tokenizer(), store)
    expected = by_hand(run, [examples[place] for place in aside])
    assert found["response_hard"].iloc[0] == pytest.approx(expected["hard"], rel=1e-4)
    assert found["response_soft"].iloc[0] == pytest.approx(expected["soft"], rel=1e-3)
    assert found["gold_hard"].notna().all()


@pytest.mark.usefixtures("store")
def test_the_divergence_by_position_adds_up_to_the_validation(run):
    run = changed(run, held_out=0.5, learning_rate=0.02, train_steps=6)
    training.train(run)
    by_position, validation = training.by_position(run), training.validation(run)
    for when, row in (("before", 0), ("after", -1)):
        mean = np.average(by_position[when], weights=by_position["tokens"])
        assert mean == pytest.approx(validation["response_soft"].iloc[row], rel=1e-4)
    assert by_position["position"].tolist() == list(range(len(by_position)))
    assert by_position["tokens"].is_monotonic_decreasing


@pytest.mark.usefixtures("store")
def test_samples_are_of_held_out_problems_before_and_after(run):
    run = changed(run, held_out=0.25, learning_rate=0.05, train_steps=6)
    training.train(run)
    samples = training.samples(run)
    assert samples["problem_id"].tolist() == ["train-9", "train-10", "train-11"]
    assert list(samples) == ["problem_id", "question", "wanted", "before", "after", "seed"]
    assert (samples["before"] != samples["after"]).any()


@pytest.mark.usefixtures("whole")
def test_the_model_card_says_what_the_student_is(run):
    card = (run.output / "students" / "none" / "seed-0" / "README.md").read_text()
    assert card.startswith(f"---\nbase_model: {run.student}\n")
    assert "responses/none" in card
    assert "3 steps of 8 sequences, adamw, learning rate 0.001" in card


# --- other things to train, other labels ---


@pytest.mark.usefixtures("store")
def test_all_weights_can_be_trained_and_loaded(run):
    run = changed(run, adapter="full", learning_rate=0.01)
    curve = training.train(run)
    model, tokenizer = models.load_adapted(
        run.student, run.output / "students/none/seed-0", dtype="float32", device="cpu"
    )
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    assert not any(torch.equal(*pair) for pair in zip(model.parameters(), tiny.llama().parameters(), strict=True))
    assert tokenizer.decode([5, 6]) == tiny.tokenizer().decode([5, 6])


@pytest.mark.usefixtures("store")
def test_a_quantised_student_learns_and_is_loaded_as_it_was_trained(run):
    pytest.importorskip("bitsandbytes")
    run = changed(run, adapter="qlora", learning_rate=0.02, train_steps=8, held_out=0.25, evaluate_every=2)
    curve = training.train(run)
    assert (curve["grad_norm"] > 0).all()
    assert curve["loss"].iloc[-1] < 0.95 * curve["loss"].iloc[0]
    model, _ = models.load_adapted(run.student, run.output / "students/none/seed-0", dtype="float32", device="cpu")
    assert "Linear4bit" in {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize("micro_batch", [12, 2])
def test_with_gold_labels_each_part_is_a_mean_over_its_own_tokens(run, store, micro_batch):
    run = changed(run, hard_labels="gold", train_batch=12, micro_batch=micro_batch, train_steps=1, alpha=0.3)
    first = training.train(run).iloc[0]
    examples = Examples(run, tiny.tokenizer(), store)
    gold = Examples(changed(run, arm="fine-tuned"), tiny.tokenizer(), None)
    assert first["soft"] == pytest.approx(by_hand(run, examples)["soft"], rel=1e-3)
    assert first["hard"] == pytest.approx(by_hand(run, gold)["hard"], rel=1e-4)


@pytest.mark.usefixtures("store")
def test_recomputed_activations_change_nothing(run, whole):
    again = training.train(changed(run, gradient_checkpointing=True))
    pd.testing.assert_frame_equal(again[WHAT], whole[WHAT], rtol=1e-4)


@pytest.mark.usefixtures("store")
def test_the_released_schedule_climbs_again_after_an_epoch(run):
    run = changed(run, schedule="one-epoch", train_batch=1, micro_batch=1, train_steps=20, learning_rate=0.01)
    rates = training.train(run)["learning_rate"]
    assert rates.iloc[12] == pytest.approx(0, abs=1e-9)
    assert rates.iloc[19] > rates.iloc[13] > 0


# --- killed, out of memory, diverged ---

TRAIN = """
import os, sys, torch
from pathlib import Path
from response_priming import params, paths
from response_priming.distill import trainer, training

torch.set_num_threads(1)
folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
paths.BUILD = folder
run = params.DistillRun.model_validate_json((folder / "run.json").read_text())
step = trainer.DistillTrainer.training_step

def killed(self, *arguments, **keywords):
    if self.state.global_step == kill_at:
        os.kill(os.getpid(), 9)
    return step(self, *arguments, **keywords)

trainer.DistillTrainer.training_step = killed
training.train(run)
"""


def train_in_a_process(run, folder, kill_at):
    """Train in a process of its own, from a store in `folder`; returns how it ended."""
    (folder / "run.json").write_text(run.model_dump_json())
    (folder / "train.py").write_text(TRAIN)
    command = [sys.executable, str(folder / "train.py"), str(folder), str(kill_at)]
    return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def test_a_killed_training_goes_on_and_ends_with_the_same_adapter_to_the_bit(run, tmp_path, monkeypatch):
    run = changed(run, lora_dropout=0.3, train_steps=6, save_every=2, held_out=0.25, evaluate_every=2, seeds=[3])
    made = []
    for place in ("a", "b"):
        monkeypatch.setattr(paths, "BUILD", tmp_path / place)
        write_store(run)
        if place == "b":
            killed = train_in_a_process(run, paths.BUILD, 5)
            assert killed.returncode == -9, killed.stderr
            (checkpoints,) = (run.output / "students/none").glob(".seed-3.checkpoints-*")
            assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
            spent = artifacts.manifest(checkpoints / "checkpoint-4")["cpu_seconds"]
            # As if it had been killed while it wrote another.
            (checkpoints / "checkpoint-5").mkdir()
        curve = training.train(run)
        folder = run.output / "students/none/seed-3"
        made.append((load_file(folder / "adapter_model.safetensors"), curve[WHAT], training.validation(run)))
    assert same(made[0][0], made[1][0])
    pd.testing.assert_frame_equal(made[0][1], made[1][1])
    pd.testing.assert_frame_equal(made[0][2], made[1][2])
    assert artifacts.read(folder)["cpu_seconds"] > spent > 0


# --- several processes ---

FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
num_processes: 2
mixed_precision: 'no'
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP, fsdp_state_dict_type: FULL_STATE_DICT}
"""
# FSDP2 itself shards on CPU too, but `accelerate` takes it up for accelerators alone.
SHARDED = """
import sys

from accelerate import state
from accelerate.utils import DistributedType

begin = state.AcceleratorState.__init__

def with_fsdp(self, *arguments, fsdp_plugin=None, **keywords):
    begin(self, *arguments, fsdp_plugin=fsdp_plugin, **keywords)
    if fsdp_plugin is not None:
        self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin

state.AcceleratorState.__init__ = with_fsdp

from response_priming.cli import main

try:
    main()
finally:
    # In one write: two processes share the pipe, and print's line end would be one of its own.
    sys.stdout.write(f"{state.PartialState().distributed_type}\\n")
"""


def launch(run, project, *arguments):
    """Train the run by `accelerate launch`, as the arm of profile laptop in a copy of the project."""
    for name in ("lib", "params"):
        shutil.copytree(paths.ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    sections = {name: params.Profile.model_fields[name].annotation for name in ("problems", "model", "distill")}
    profile = {name: run.model_dump(include=set(section.model_fields)) for name, section in sections.items()}
    (project / "params" / "laptop.yaml").write_text(yaml.safe_dump(profile | {"arms": [run.arm]}))
    # A free port: another launch on this machine may have the default one.
    launching = [Path(sys.executable).parent / "accelerate", "launch", "--main_process_port", "0"]
    command = [*launching, *arguments, "distill", "--arm", run.arm]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(project / "lib")}
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.mark.parametrize("way", ["replicated", "sharded"])
def test_two_processes_of_accelerate_launch_make_the_student_of_one(run, tmp_path, monkeypatch, way):
    run = changed(run, held_out=0.25, evaluate_every=2, save_every=2)
    made = []
    for place in ("one", "two"):
        monkeypatch.setattr(paths, "BUILD", tmp_path / place / "build")
        write_store(run)
        if place == "two" and way == "replicated":
            options = ["--multi_gpu", "--num_processes", "2", "--module"]
            launch(run, tmp_path / place, *options, "response_priming")
        elif place == "two":
            config, script = tmp_path / "fsdp.yaml", tmp_path / "sharded.py"
            config.write_text(FSDP)
            script.write_text(SHARDED)
            said = launch(run, tmp_path / place, "--config_file", config, script)
            assert said.split() == ["DistributedType.FSDP"] * 2
        curve = training.train(run)[WHAT]  # in the second place this finds what is there
        tables = [curve, training.validation(run), training.by_position(run), training.samples(run)]
        student = PeftModel.from_pretrained(tiny.llama(), run.output / "students/none/seed-0")
        made.append((tables, dict(student.named_parameters())))
    (one, alone), (two, together) = made
    for left, right in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(left, right, rtol=1e-4)
    assert all(torch.allclose(alone[name], together[name], rtol=1e-3, atol=1e-5) for name in alone)


@pytest.mark.usefixtures("store")
def test_out_of_memory_goes_on_with_smaller_micro_batches_and_the_same_steps(run, whole, capsys, monkeypatch):
    step = DistillTrainer.training_step

    def limited(self, model, inputs, *arguments, **keywords):
        if len(inputs["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, model, inputs, *arguments, **keywords)

    monkeypatch.setattr(DistillTrainer, "training_step", limited)
    curve = training.train(changed(run, seeds=[0], weight_decay=1e-9))
    pd.testing.assert_frame_equal(curve[WHAT], whole[WHAT], rtol=1e-4)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Out of memory")]
    assert said == [
        f"Out of memory: going on with micro_batch = {size}; a step is still 8 responses." for size in (4, 2)
    ]


@pytest.mark.usefixtures("store")
def test_a_single_sequence_out_of_memory_is_refused(run, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DistillTrainer, "training_step", full)
    with pytest.raises(InputError, match=r"^distill.micro_batch = 1: out of memory; a smaller one"):
        training.train(run)


def nan_loss(step):
    def spoilt(self, model, inputs, *arguments, **keywords):
        if self.state.global_step == 3:
            next(weight for weight in model.parameters() if weight.requires_grad).data.fill_(float("nan"))
        return step(self, model, inputs, *arguments, **keywords)

    return spoilt


def nan_gradient(step):
    def spoilt(self, model, *arguments, **keywords):
        loss = step(self, model, *arguments, **keywords)
        if self.state.global_step == 3:
            next(weight for weight in model.parameters() if weight.grad is not None).grad.fill_(float("nan"))
        return loss

    return spoilt


@pytest.mark.parametrize(("where", "spoil"), [("loss", nan_loss), ("gradient", nan_gradient)])
@pytest.mark.usefixtures("store")
def test_a_diverged_training_names_step_and_problems_and_keeps_the_last_good_checkpoint(run, monkeypatch, where, spoil):
    monkeypatch.setattr(DistillTrainer, "training_step", spoil(DistillTrainer.training_step))
    problem = rf"^distill, step 4: the {where} is not finite; problems: train-\d+, train-\d+; the last checkpoint"
    with pytest.raises(InputError, match=problem):
        training.train(changed(run, train_batch=2, micro_batch=2, save_every=2, train_steps=6))
    (checkpoint,) = (run.output / "students/none").glob(".seed-0.checkpoints-*/checkpoint-2")
    kept = load_file(checkpoint / "adapter_model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in kept.values())


def test_processes_that_cannot_share_a_step_are_refused(run):
    with pytest.raises(InputError, match=r"^distill.train_batch = 8: 3 processes cannot share it evenly$"):
        training._micro_batch(run, 3)
    assert [training._micro_batch(run, count) for count in (1, 2, 4, 8)] == [8, 4, 2, 1]


# --- dropout, and outputs without a token ---


def test_with_dropout_the_micro_batch_is_in_the_recipe(run):
    def recipe(**values):
        one = changed(run, **values)
        return artifacts.recipe(one, one.folders[0])["parameters"]

    write_store(run)
    assert recipe(micro_batch=2) == recipe(micro_batch=8)
    assert recipe(lora_dropout=0.3, micro_batch=2) != recipe(lora_dropout=0.3, micro_batch=8)
    assert recipe(lora_dropout=0.3, micro_batch=2)["micro_batch"] == 2
    assert "micro_batch" not in recipe(lora_dropout=0.3, train_batch=1, micro_batch=1)  # there is no other


def test_out_of_memory_does_not_change_the_masks_of_dropout(run, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(training, "_attempt", full)
    write_store(run)
    with pytest.raises(InputError, match=r"^distill.micro_batch = 8: out of memory; a smaller one"):
        training.train(changed(run, lora_dropout=0.1))


@pytest.mark.parametrize("top_k", [4, "all"])
def test_outputs_without_a_token_train_nothing(make_run, tiny_model, padded_model, monkeypatch, tmp_path, top_k):
    made = {}
    for teacher, student in ((tiny_model, tiny_model), (padded_model, tiny_model), (tiny_model, padded_model)):
        monkeypatch.setattr(paths, "BUILD", tmp_path / f"{teacher.name}-{student.name}")
        both = {"teacher": str(teacher), "student": str(student)}
        asked = {"n_train": 12, "worked_examples": 1, "response_tokens": 5, "top_k": top_k}
        generate.respond(make_run("generate", strategy="none", **both, **asked))
        run = make_run("distill", arm="none", **SIZES, student=str(student), kd_temperature=2, divergence="jsd")
        made[teacher, student] = training.train(run)[["hard", "soft", "loss"]], adapter(run)
    (curve, weights), *others = made.values()
    for other, found in others:
        assert np.allclose(other, curve, rtol=1e-4)
        assert all(torch.allclose(found[name], weights[name], atol=1e-5) for name in weights)
