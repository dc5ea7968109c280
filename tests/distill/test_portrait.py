"""What is measured of a student before and after its training."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from response_priming import prompts
from response_priming.distill import portrait
from response_priming.problems import Problem

PROBLEMS = [
    Problem(f"train-{n}", f"What is {n} + 1?", f"{n} + 1 = {n + 1}\n#### {n + 1}", str(n + 1)) for n in range(5)
]
SUMS = pd.DataFrame({"soft": [3.0, 0.0, 1.0], "soft_tokens": [2.0, 0.0, 1.0]})


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="none")


def trainer(model=None, **changes):
    """What of a trainer a portrait is drawn from."""
    usual = {
        "model": model or tiny.llama(),
        "positions": {"response": SUMS},
        "is_fsdp_enabled": False,
        "is_deepspeed_enabled": False,
        "is_world_process_zero": lambda: True,
    }
    return SimpleNamespace(**usual | changes)


def write(run, folder, who=None, asked=PROBLEMS[:3]):
    portrait.write(run, who or trainer(), tiny.tokenizer(), asked, folder)
    return [pd.read_parquet(folder / name) for name in portrait.FILES]


def test_divergence_is_a_mean_over_the_responses_that_reach_a_position(run, tmp_path):
    positions, _ = write(run, tmp_path / "at")
    assert positions.to_dict("list") == {"position": [0, 2], "tokens": [2, 1], "divergence": [1.5, 1.0]}


def test_answers_are_the_models_own_greedy_ones_to_the_bare_question(run, tmp_path):
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    _, samples = write(run, tmp_path / "at", trainer(model))
    assert samples["problem_id"].tolist() == ["train-0", "train-1", "train-2"]
    assert samples["wanted"].tolist() == [problem.worked for problem in PROBLEMS[:3]]
    for problem, answer in zip(PROBLEMS, samples["answer"], strict=False):
        tokens = prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt))
        for _ in range(portrait.SAMPLE_TOKENS):
            with torch.inference_mode():
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
        expected = tokens[len(prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt))) :]
        assert answer == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_model_in_training_answers_without_dropout_and_is_left_ready_for_training(run, tmp_path):
    model = tiny.llama().train()
    _, samples = write(run, tmp_path / "a", trainer(model))
    _, again = write(run, tmp_path / "b", trainer(model))
    pd.testing.assert_frame_equal(samples, again)


def test_nothing_held_out_and_no_teacher_leave_empty_tables_with_their_columns(run, tmp_path):
    positions, samples = write(run, tmp_path / "at", trainer(positions={}), asked=[])
    assert list(positions) == ["position", "tokens", "divergence"]
    assert list(samples) == ["problem_id", "question", "wanted", "answer"]
    assert positions.empty
    assert samples.empty


@pytest.mark.parametrize(
    "how",
    [{"is_deepspeed_enabled": True}, {"is_fsdp_enabled": True, "accelerator": SimpleNamespace(is_fsdp2=False)}],
)
def test_weights_that_are_sharded_are_not_decoded_with(run, tmp_path, how):
    _, samples = write(run, tmp_path / "at", trainer(SimpleNamespace(), **how))
    assert samples["answer"].tolist() == [""] * 3


def test_only_the_first_process_writes(run, tmp_path):
    portrait.write(run, trainer(is_world_process_zero=lambda: False), tiny.tokenizer(), PROBLEMS, tmp_path / "at")
    assert not (tmp_path / "at").exists()


def test_before_and_after_stand_side_by_side(run, tmp_path):
    write(run, tmp_path / "before")
    later = SUMS.assign(soft=SUMS["soft"] / 2)
    write(run, tmp_path / "after", trainer(positions={"response": later}))
    (tmp_path / "student").mkdir()
    portrait.join(tmp_path / "before", tmp_path / "after", tmp_path / "student")
    positions = pd.read_parquet(tmp_path / "student" / "positions.parquet")
    assert positions["before"].tolist() == [1.5, 1.0]
    assert positions["after"].tolist() == [0.75, 0.5]
    samples = pd.read_parquet(tmp_path / "student" / "samples.parquet")
    assert list(samples) == ["problem_id", "question", "wanted", "before", "after"]
    assert samples["before"].tolist() == samples["after"].tolist()


def test_the_figure_has_a_line_for_before_and_after_as_means_over_seeds():
    table = pd.DataFrame({"position": [0, 1, 0, 1], "before": [1.0, 2.0, 3.0, 4.0], "after": [0.0, 1.0, 1.0, 1.0]})
    (axes,) = portrait.figure(table).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert lines.keys() == {"before", "after"}
    assert np.allclose(lines["before"], [2, 3])
    assert np.allclose(lines["after"], [0.5, 1])


CURVE = pd.DataFrame({"step": [1, 2], "hard": [2.0, 1.0], "soft": [1.0, 0.5]}).assign(
    grad_norm=1.0, tokens_per_second=[100.0, 200.0], peak_mib=300.0
)
VALIDATED = pd.DataFrame({"step": [0, 2], "gold_hard": [3.0, 2.0], "response_hard": [2.0, 1.0], "response_soft": 1.0})


def labels(axes):
    return [line.get_label() for line in axes.lines]


def test_losses_of_training_and_held_out_problems_share_an_axis():
    training, held_out = portrait.losses_figure(CURVE, VALIDATED).axes
    assert (labels(training), labels(held_out)) == (list(portrait.TRAINED.values()), list(portrait.HELD_OUT.values()))
    assert held_out.lines[0].get_ydata().tolist() == [3, 2]
    assert training.get_ylim() == held_out.get_ylim()


def test_losses_that_an_arm_has_not_are_left_out():
    nothing = pd.DataFrame(columns=["step", *portrait.HELD_OUT], dtype=float)
    training, held_out = portrait.losses_figure(CURVE.assign(soft=np.nan), nothing).axes
    assert labels(training) == ["hard: cross-entropy"]
    assert held_out.get_title() == "No held-out problems"


def test_costs_are_means_over_seeds():
    both = pd.concat([CURVE, CURVE.assign(tokens_per_second=400.0)])
    speed = portrait.cost_figure(both).axes[1]
    assert speed.get_title() == "Tokens per second"
    assert speed.lines[0].get_ydata().tolist() == [250, 300]


def test_without_held_out_responses_the_figure_says_so():
    nothing = pd.DataFrame({"position": [], "before": [], "after": []})
    assert portrait.figure(nothing).axes[0].get_title() == "No held-out response: nothing to compare"
