"""The price before the run: fits, what it refuses, and that it is quick."""

import shutil
import subprocess
import sys

import pytest
import yaml

from response_priming import cli, params, paths
from response_priming.errors import InputError
from response_priming.machines import cost


def stages(profile, gpu=None):
    found = cost.estimate(profile, gpu)
    return found, {stage.name: stage for stage in found.stages}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Writes a profile of one's own: another one, of which values are changed, or left out (None)."""
    shutil.copytree(paths.PARAMS, tmp_path / "params")
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")

    def written(base, **changed):
        content = yaml.safe_load((paths.PARAMS / f"{base}.yaml").read_text()) or {}
        for section, values in changed.items():
            merged = content.get(section, {}) | values
            content[section] = {key: value for key, value in merged.items() if value is not None}
        name = f"own-{len(params.profiles())}"
        (paths.PARAMS / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return params.load(name)

    return written


def test_the_papers_teacher_fits_its_eight_gpus_and_no_single_one(profile):
    found, by_name = stages(params.load("paper"))
    assert (found.gpu, found.change) == ("h100", "")
    teacher = by_name["generate"]
    assert teacher.items == 4 * 2638
    assert (teacher.gpus, teacher.needed) == (8, 4)
    # The cache of a whole batch at its longest: 2 x layers x key heads x head size x bytes a token.
    tokens = teacher.working / (2 * 126 * 8 * 128 * 2) / 256
    assert 350 < tokens < 600
    alone = cost.estimate(profile("paper", generate={"tensor_parallel": 1}), "h100")
    assert alone.change == "generate.tensor_parallel = 4"


def test_a_batch_too_large_is_made_as_large_as_fits(profile):
    found = cost.estimate(params.load("single-gpu"), "l4")
    name, _, size = found.change.partition(" = ")
    assert name == "generate.generate_batch"
    assert cost.estimate(profile("single-gpu", generate={"generate_batch": int(size)}), "l4").change == ""
    assert cost.estimate(profile("single-gpu", generate={"generate_batch": int(size) + 2}), "l4").change


def test_counts_follow_the_profile():
    laptop = params.load("laptop")
    _, by_name = stages(laptop)
    assert by_name["generate"].items == 4 * 160
    assert by_name["distill"].items == 5
    assert by_name["evaluate"].items == 7 * 200
    _, of_three = stages(params.load("laptop-full"))
    assert of_three["distill"].items == 3 * 7
    assert by_name["evaluate"].written[1] == 7 * 200 * laptop.evaluate.answer_tokens


def test_training_more_takes_more_memory(profile):
    one, more = profile("paper"), profile("paper", distill={"micro_batch": 16})
    (_, less), (_, much) = stages(one), stages(more)
    assert much["distill"].working > 4 * less["distill"].working
    without = dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout"))
    _, all_weights = stages(profile("paper", distill={"adapter": "full", **without}))
    assert all_weights["distill"].working - less["distill"].working > 40e9  # three numbers a weight in 16 bits


def test_activations_computed_again_take_less_memory_and_more_time(profile):
    (_, kept), (_, again) = stages(profile("paper")), stages(profile("paper", distill={"gradient_checkpointing": True}))
    assert again["distill"].working < kept["distill"].working
    assert again["distill"].seconds > kept["distill"].seconds


@pytest.mark.parametrize(
    ("profile_", "changed", "gpu"),
    [
        ("paper", {"distill": {"micro_batch": 16, "train_tokens": 4096}}, "l4"),
        ("single-gpu", {"evaluate": {"evaluate_batch": 4096}}, "l4"),
        ("single-gpu", {"generate": {"teacher": "meta-llama/Llama-3.1-70B-Instruct"}}, "a100"),
    ],
)
def test_the_change_that_is_named_makes_it_fit(profile, profile_, changed, gpu):
    tight = profile(profile_, **changed)
    while change := cost.estimate(tight, gpu).change:
        assert change != cost.NONE_KNOWN
        for part in change.split(" and "):
            parameter, _, value = part.partition(" = ")
            tight = tight.changed(parameter, yaml.safe_load(value))
    assert all(stage.needed <= stage.gpus for stage in cost.estimate(tight, gpu).stages)


def test_what_no_known_change_makes_fit_says_so(profile):
    large = profile("paper", model={"student": "meta-llama/Llama-3.1-405B-Instruct"})
    assert cost.estimate(large, "h100").change == cost.NONE_KNOWN


def test_hours_and_money_are_ranges_and_a_risk_is_named():
    found = cost.estimate(params.load("paper"), "a100")
    low, high = found.hours
    assert 0 < low < high
    *_, total, risk = cost.shown(found, 2.0)
    assert (
        total
        == f"On a100 (80.0 GB): {low:,.2f} to {high:,.2f} GPU hours; at 2 an hour {2 * low:,.0f} to {2 * high:,.0f}."
    )
    assert risk.startswith("Largest risk: generate")


def test_a_budget_that_cuts_responses_is_the_risk(profile):
    found = cost.estimate(profile("paper", evaluate={"answer_tokens": 100}), "h100")
    assert found.risk.startswith("evaluate.answer_tokens = 100: solutions take 125 tokens on average")


def test_unknown_gpus_are_refused():
    with pytest.raises(InputError, match=r"gpu = 'h1000': unknown; allowed: l4, "):
        cost.estimate(params.load("laptop"), "h1000")


def test_what_does_not_fit_is_refused_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["response-priming", "cost", "single-gpu", "--gpu", "l4", "--price", "0.5"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("stage ")
    (line,) = printed.err.splitlines()
    assert line.startswith("response-priming: profile single-gpu: does not fit l4; the smallest change that does: ")


def test_it_imports_no_torch():
    code = "import sys; from response_priming.machines import cost; from response_priming import params; "
    code += "cost.estimate(params.load('paper'), None); print({'torch', 'pandas', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
