from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from response_priming import prompts
from response_priming.distill import trainer
from response_priming.methods import examples
from response_priming.methods.base import Method
from response_priming.problems import Problem


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="none")


@pytest.mark.parametrize(
    ("optimizer", "kind", "own"), [("adamw", torch.optim.AdamW, {}), ("sgd", torch.optim.SGD, {"momentum": 0.7})]
)
def test_the_optimiser_gets_its_arguments(run, optimizer, kind, own):
    values = {"optimizer": optimizer, "learning_rate": 0.5, "weight_decay": 0.25, "momentum": 0.7}
    wanted = type(run).model_validate(run.model_dump() | values)
    assert trainer.optimizer_of(wanted) == (kind, {"lr": 0.5, "weight_decay": 0.25} | own)


def test_the_memory_said_is_that_of_this_process():
    if torch.cuda.is_available():
        pytest.skip("says the GPU's memory where there is one")
    before = trainer.peak_mib()
    block = np.ones(2**25)
    assert trainer.peak_mib() >= before
    assert trainer.peak_mib() > block.nbytes / 2**20


class Half(Method):
    """A method with another loss."""

    def loss(self, model, batch, **counts):
        loss = super().loss(model, batch, **counts)
        return loss._replace(total=loss.total / 2)


def test_the_loss_is_the_methods(make_run, tmp_path):
    sizes = {"n_train": 8, "train_steps": 1, "held_out": 0, "train_tokens": 400}
    run, curves = make_run("distill", arm="fine-tuned", **sizes), []
    for method in (Method(run), Half(run)):
        torch.manual_seed(0)
        model, tokenizer = method.student()
        place = {"folder": tmp_path / type(method).__name__, "seed": 0, "micro_batch": 8}
        made = trainer.DistillTrainer(
            method, examples.prepare(run, tokenizer), model=model, tokenizer=tokenizer, **place
        )
        made.train()
        curves.append(made.curve().iloc[0])
    whole, half = curves
    assert half["loss"] == pytest.approx(whole["loss"] / 2)
    assert half["grad_norm"] == pytest.approx(whole["grad_norm"] / 2, rel=1e-4)
    assert half["hard"] == pytest.approx(whole["hard"])


# --- snapshots ---

PROBLEMS = [
    Problem(f"train-{n}", f"What is {n} + 1?", f"{n} + 1 = {n + 1}\n#### {n + 1}", str(n + 1)) for n in range(5)
]
SUMS = pd.DataFrame({"soft": [3.0, 0.0, 1.0], "soft_tokens": [2.0, 0.0, 1.0]})


def watched(run, asked=PROBLEMS, **changes):
    """What of a trainer a snapshot is taken from."""
    usual = {
        "run": run,
        "data": SimpleNamespace(held_out=asked),
        "reader": tiny.tokenizer(),
        "model": tiny.llama(),
        "positions": {"response": SUMS},
        "is_fsdp_enabled": False,
        "is_deepspeed_enabled": False,
        "is_world_process_zero": lambda: True,
    }
    return SimpleNamespace(**usual | changes)


def snapshot(folder, run, **changes):
    trainer.DistillTrainer.snapshot(watched(run, **changes), folder)
    return [pd.read_parquet(folder / name) for name in ("positions.parquet", "samples.parquet")]


def test_divergence_is_a_mean_over_the_responses_that_reach_a_position(run, tmp_path):
    positions, _ = snapshot(tmp_path / "at", run)
    assert positions.to_dict("list") == {"position": [0, 2], "tokens": [2, 1], "divergence": [1.5, 1.0]}


def test_answers_are_the_models_own_greedy_ones_to_the_bare_question(run, tmp_path):
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    _, samples = snapshot(tmp_path / "at", run, model=model)
    assert samples["problem_id"].tolist() == ["train-0", "train-1", "train-2"]
    assert samples["wanted"].tolist() == [problem.worked for problem in PROBLEMS[:3]]
    for problem, answer in zip(PROBLEMS, samples["answer"], strict=False):
        tokens = prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt))
        for _ in range(trainer.SAMPLE_TOKENS):
            with torch.inference_mode():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
        expected = tokens[len(prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt))) :]
        assert answer == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_model_in_training_answers_without_dropout_and_is_left_ready_for_training(run, tmp_path):
    model = tiny.llama().train()
    _, samples = snapshot(tmp_path / "a", run, model=model)
    _, again = snapshot(tmp_path / "b", run, model=model)
    pd.testing.assert_frame_equal(samples, again)


def test_nothing_held_out_and_no_teacher_leave_empty_tables_with_their_columns(run, tmp_path):
    positions, samples = snapshot(tmp_path / "at", run, positions={}, asked=[])
    assert list(positions) == ["position", "tokens", "divergence"]
    assert list(samples) == ["problem_id", "question", "wanted", "answer"]
    assert positions.empty
    assert samples.empty


@pytest.mark.parametrize(
    "how",
    [{"is_deepspeed_enabled": True}, {"is_fsdp_enabled": True, "accelerator": SimpleNamespace(is_fsdp2=False)}],
)
def test_weights_that_are_sharded_are_not_decoded_with(run, tmp_path, how):
    _, samples = snapshot(tmp_path / "at", run, model=SimpleNamespace(), **how)
    assert samples["answer"].tolist() == [""] * 3


def test_only_the_first_process_writes(run, tmp_path):
    trainer.DistillTrainer.snapshot(watched(run, is_world_process_zero=lambda: False), tmp_path / "at")
    assert not (tmp_path / "at").exists()
