"""The checks of a GPU, at small sizes on the CPU: they pass, they notice, and none stops the others."""

import dataclasses

import numpy as np
import pytest
import torch

from response_priming import cli, engines
from response_priming.machines import check, check_objective, check_stages, check_training, stand_ins

ABSENT = "not run: "


@pytest.fixture
def sizes(monkeypatch):
    monkeypatch.setattr(check_objective, "SECONDS", 0.01)
    return dataclasses.replace(check.sizes(), device="cpu", precision="float32")


@pytest.mark.parametrize("name", [name for name in check.CHECKS if name != "whole paper"])
def test_it_passes_on_the_cpu_or_says_what_is_absent(name, sizes):
    verdict, lines = check.outcome(check.CHECKS[name], sizes)
    wanted = {"nf4": "bitsandbytes is not installed", "vllm": "vLLM is not installed"}
    assert verdict == "passed" or verdict == ABSENT + wanted[name]
    assert bool(lines) == (verdict == "passed")


def test_a_whole_paper_is_made_without_the_page_where_that_cannot_be(monkeypatch, sizes):
    monkeypatch.setattr(stand_ins, "ARMS", ["undistilled"])
    monkeypatch.setattr(check_stages, "PAGE", ["no_such_package"])
    monkeypatch.setattr(check_stages, "ATTRIBUTION", "no_such_package")
    made, page, students = check_stages.paper(sizes)
    assert made.startswith("5 notebooks in ")
    assert page == "without the page: no_such_package not installed"
    assert students.startswith("0 students")


def test_an_objective_that_is_wrong_by_a_hundredth_fails(monkeypatch, sizes):
    ours = check_objective.ours
    monkeypatch.setattr(check_objective, "ours", lambda *given: lambda hidden: 1.01 * ours(*given)(hidden))
    verdict, lines = check.outcome(check.CHECKS["objective"], dataclasses.replace(sizes, head_tokens=(48,)))
    assert verdict.startswith("failed: ours is not float32's: hard at 48 tokens: ")
    assert {line.split(" | ")[1] for line in lines[2:]} == {"hard", "top", "dense"}


def test_a_gradient_that_an_evaluation_zeroes_fails(monkeypatch, sizes):
    gradient, asked = check_training.gradient, []

    def zeroed(*given, **options):
        asked.append(options)
        loss, grads = gradient(*given, **options)
        return loss, {name: grad * (len(asked) < 3) for name, grad in grads.items()}

    monkeypatch.setattr(check_training, "gradient", zeroed)
    assert check.outcome("check_training:bf16", sizes)[0].startswith("failed: loss or gradient")


def test_a_loss_that_does_not_fall_fails(monkeypatch, sizes):
    monkeypatch.setattr(check_training, "optimizer_of", lambda _: (torch.optim.SGD, {"lr": 0.0}))
    assert check.outcome("check_training:whole", sizes)[0].startswith("failed: the loss does not fall")


def response(tokens, logprob=-1.0, *, second=-2.0):
    """A response whose second-likeliest token is always 9."""
    ids, logprobs = ([[token, 9] for token in tokens], [[logprob, second]] * len(tokens))
    signal = engines.pack(ids, logprobs, [-9.0] * len(tokens))
    return engines.Response(tokens, "", False, signal, np.full(len(tokens), logprob, np.float16))


def test_responses_may_part_at_a_close_call_alone():
    close, far = ({0: response([1, 2, 3], second=second)} for second in (-1.01, -1.1))
    (line,) = check_stages.compared(close, {0: response([1, 9, 4])}, "a and b")
    assert line == "a and b: 0 of 1 responses are the same; log-probabilities differ by 0 at most"
    with pytest.raises(check.Failed, match="response 0 parts at token 1, 0"):
        list(check_stages.compared(far, {0: response([1, 9, 4])}, "a and b"))
    with pytest.raises(check.Failed, match="log-probabilities differ by 0"):
        list(check_stages.compared(close, {0: response([1, 2, 3], -1.1)}, "a and b"))


def test_a_check_that_crashes_its_process_is_a_verdict():
    assert check.isolated("crash", "check:os._exit", 3).verdict.startswith("failed: its process was killed")


def test_a_check_that_raises_is_a_verdict_and_the_others_go_on(monkeypatch, tmp_path, sizes, capsys):
    monkeypatch.setattr(check, "sizes", lambda: sizes)
    monkeypatch.setattr(check, "isolated", lambda name, place, given: check.Outcome(name, *ran(place, given)))
    monkeypatch.setattr(check, "CHECKS", {"broken": "check_training:run_of", "device": "check:device"})
    monkeypatch.setattr("sys.argv", ["response-priming", "gpu-check", str(tmp_path)])

    def ran(place, given):
        verdict, lines = check.outcome(place, given)
        return verdict, 1.0, lines

    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    (file,) = tmp_path.iterdir()
    page = file.read_text()
    assert "| broken | failed: TypeError: run_of() missing 3 required" in page
    assert "| device | passed | 1 |" in page
    assert "- a product of matrices is off by " in page
    assert "[gpu-check] device: passed" in capsys.readouterr().err


def test_nothing_is_written_on_a_cpu_unless_asked(monkeypatch, tmp_path, sizes):
    monkeypatch.setattr(check, "sizes", lambda: sizes)
    monkeypatch.setattr(check, "CHECKS", {})
    monkeypatch.setattr(check, "RESULTS", tmp_path)
    assert check.run() == []
    assert not list(tmp_path.iterdir())
