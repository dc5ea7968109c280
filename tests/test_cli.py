import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from response_priming import cli, params, paths
from response_priming.extraction import RULES


def call(*arguments):
    """The command in this process: one of its own would spend seconds on imports."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["response-priming", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return subprocess.CompletedProcess(arguments, ended.value.code, out.getvalue(), err.getvalue())


def test_the_installed_command_is_the_one_that_is_called_here():
    command = Path(sys.executable).parent / "response-priming"
    done = subprocess.run([command, "run", "gnerate"], capture_output=True, text=True, check=False)
    here = call("run", "gnerate")
    assert (done.returncode, done.stdout, done.stderr) == (here.returncode, here.stdout, here.stderr)


def test_check_prints_every_parameter():
    done = call("check", "laptop")
    printed = yaml.safe_load(done.stdout)
    assert params.Profile.model_validate(printed) == params.load("laptop")


def test_check_says_once_what_the_precision_is_where_the_machine_decides():
    precision = params.load("laptop").model.precision
    assert call("check", "laptop").stderr == f"[check] model.dtype = auto: {precision} on this machine\n"


def test_unknown_stage_names_those_there_are():
    done = call("run", "gnerate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"response-priming: stage 'gnerate': unknown; allowed: {', '.join(params.RUNS)}\n")


@pytest.mark.parametrize("named", [("distill", "--arm", "undistilled"), ("distill-undistilled",)])
def test_item_of_another_profile_names_those_there_are(named):
    done = call("run", *named)
    assert done.returncode == 2
    assert done.stderr == (
        "response-priming: distill of 'undistilled': not in profile laptop; "
        "allowed: fine-tuned, none, teacher, ground-truth, confidence\n"
    )


def test_missing_item_names_those_there_are():
    assert "generate of None: not in profile laptop; allowed: none, teacher" in call("run", "generate").stderr


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"dtype": "float16", "device": "cpu"}, "model.dtype = 'float16': not on a CPU; allowed there: "),
        ({"device": "mps"}, "model.device = 'mps': this machine has no usable MPS device; allowed here: "),
    ],
)
def test_a_precision_or_device_that_cannot_be_is_one_line(tmp_path, monkeypatch, model, problem):
    shutil.copytree(paths.PARAMS, tmp_path / "params")
    (tmp_path / "params" / "odd.yaml").write_text(yaml.safe_dump({"model": model}))
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    done = call("check", "odd")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"response-priming: {problem}")


def test_gpu_profile_is_refused_where_there_is_none():
    done = call("check", "single-gpu")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def responses(tmp_path):
    file = tmp_path / "responses.jsonl"
    file.write_text('{"answer": "so\\n#### 1,234", "response": "A: 1234"}\n{"answer": 8, "response": "#### 7"}\n')
    return file


def test_score_prints_a_row_for_each_rule(responses):
    done = call("score", responses)
    header, *rows = (line.split() for line in done.stdout.splitlines())
    assert header == ["rule", "n", "answered", "correct", "accuracy", "low", "high"]
    assert [row[0] for row in rows] == list(RULES)
    assert next(row for row in rows if row[0] == "last-number")[1:5] == ["2", "2", "1", "50.0%"]


def test_score_prints_json_and_writes_verdicts(responses, tmp_path):
    done = call(
        "score", responses, "--rule", "hash", "--rule", "last-number", "--json", "--verdicts", tmp_path / "v.csv"
    )
    rows = json.loads(done.stdout)
    assert [(row["rule"], row["n"], row["answered"], row["correct"]) for row in rows] == [
        ("hash", 2, 1, 0),
        ("last-number", 2, 2, 1),
    ]
    assert (tmp_path / "v.csv").read_text().splitlines() == [
        "row,rule,extracted,correct",
        "1,hash,,False",
        "2,hash,7,False",
        "1,last-number,1234,True",
        "2,last-number,7,False",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.csv"], "response-priming: gone.csv: cannot be read: No such file or directory"),
        (["responses.jsonl", "--rule", "best"], "response-priming: rule 'best': unknown; allowed: hash, boxed-first"),
        (["responses.jsonl", "--verdicts", "no/v.csv"], "response-priming: no/v.csv: cannot be written: "),
    ],
)
def test_score_refuses_in_one_line(responses, monkeypatch, arguments, message):
    monkeypatch.chdir(responses.parent)
    done = call("score", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "spelling", ["responses.jsonl", "./responses.jsonl", "../{}/responses.jsonl", "link.csv", "hard.csv"]
)
def test_verdicts_never_replace_the_responses(responses, monkeypatch, spelling):
    folder, content = responses.parent, responses.read_bytes()
    monkeypatch.chdir(folder)
    (folder / "link.csv").symlink_to(responses)
    (folder / "hard.csv").hardlink_to(responses)
    verdicts = spelling.format(folder.name)
    done = call("score", responses, "--verdicts", verdicts)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"response-priming: {Path(verdicts)}: holds the responses; write the verdicts to another file\n"
    )
    assert responses.read_bytes() == content


def test_parameters_prints_the_cell():
    assert call("parameters", "distill").stdout == params.parameters_cell("distill") + "\n"


def test_reading_notebooks_compiles_no_grammar():
    script = "import sys, response_priming.cli, papermill, nbformat; print('lark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
