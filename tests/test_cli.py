import subprocess
import sys
from pathlib import Path

import yaml

from response_priming import params

COMMAND = Path(sys.executable).parent / "response-priming"


def call(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


def test_check_prints_every_parameter():
    done = call("check", "laptop")
    printed = yaml.safe_load(done.stdout)
    assert params.Profile.model_validate(printed) == params.load("laptop")


def test_unknown_stage_names_those_there_are():
    done = call("run", "gnerate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "response-priming: stage 'gnerate': unknown; "
        "allowed: generate, distill, evaluate, compare, attention-visualize, attribution\n"
    )


def test_item_of_another_profile_names_those_there_are():
    done = call("run", "distill", "--arm", "undistilled")
    assert done.returncode == 2
    assert done.stderr == (
        "response-priming: distill of 'undistilled': not in profile laptop; "
        "allowed: fine-tuned, none, teacher, ground-truth, confidence\n"
    )


def test_missing_item_names_those_there_are():
    assert "generate of None: not in profile laptop; allowed: none, teacher" in call("run", "generate").stderr


def test_gpu_profile_is_refused_where_there_is_none():
    done = call("check", "single-gpu")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_parameters_prints_the_cell():
    assert call("parameters", "distill").stdout == params.parameters_cell("distill") + "\n"
