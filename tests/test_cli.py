import contextlib
import errno
import importlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from response_priming import cli, notebooks, params, paths, problems
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


@pytest.mark.parametrize("name", ["../keep", "/", ".", "", "a/../../keep"])
def test_clean_removes_nothing_outside_the_profiles_results(tmp_path, monkeypatch, name):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    for folder in ("build/laptop/scores", "build/a", "keep/scores"):
        (tmp_path / folder).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert call("clean", name).stderr.startswith(f"response-priming: profile: {name!r} is no name; allowed: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_whoever_writes(monkeypatch, number):
    def full(*_):
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(notebooks, "write", full)
    ended = call("plan", "laptop")
    assert ended.returncode == 2
    assert ended.stderr.startswith("response-priming: build: no space left on the disk; free some and run again: ")
    assert ended.stderr.count("\n") == 1


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


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """Gives the folder of the tiny model, changed: its configuration, tokenizer or ends, or without weights."""

    def make(tokenizer=None, weights=True, ends=0, **config):
        folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("changed") / "model")
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        if tokenizer:
            changed = tiny.tokenizer()
            tokenizer(changed)
            (folder / "chat_template.jinja").unlink(missing_ok=True)
            changed.save_pretrained(folder)
        if not weights:
            (folder / "model.safetensors").unlink()
        return str(folder)

    return make


@pytest.fixture
def checked(tmp_path, monkeypatch, tiny_model):
    """Checks a small profile on the tiny model with some sections changed; returns what the command did."""
    shutil.copytree(paths.PARAMS, tmp_path / "params")
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    sections = {
        "problems": {"n_train": 8, "n_test": 4},
        "model": {"student": str(tiny_model), "dtype": "float32", "device": "cpu"},
        "generate": {"teacher": str(tiny_model), "worked_examples": 1, "response_tokens": 8},
        "evaluate": {"answer_tokens": 8},
        "attention": {"attention_prompts": 2},
    }

    def check(**changes):
        both = {name: sections.get(name, {}) | one if isinstance(one, dict) else one for name, one in changes.items()}
        (tmp_path / "params" / "small.yaml").write_text(yaml.safe_dump(sections | both))
        return call("check", "small")

    return check


def drop_template(tokenizer):
    tokenizer.chat_template = None


def refuse_system(tokenizer):
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer.chat_template = refusal + tiny.CHAT_TEMPLATE


def drop_end(tokenizer):
    tokenizer.eos_token = None


def add_token(tokenizer):
    tokenizer.add_tokens(["<new>"])


def test_a_small_profile_passes(checked):
    done = checked()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_template_without_a_system_role_passes(checked, model):
    name = model(refuse_system)
    assert checked(model={"student": name}, generate={"teacher": name}).returncode == 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"audit": {"logs_dir": "nowhere"}}, "nowhere: "),
        ({"problems": {"n_test": 1}}, "problems.n_test = 1: intervals and tests need 2 or more"),
        ({"problems": {"n_train": 400_000}}, "problems.largest_operand = 20: too small for 400000 different train "),
        ({"attention": {"attention_prompts": 5}}, "attention.attention_prompts = 5: more than problems.n_test = 4"),
        ({"distill": {"held_out": 0.05}}, "distill.held_out = 0.05: keeps 0 of 8 problems for validation; allowed: 0"),
        ({"distill": {"held_out": 0.95}}, "distill.held_out = 0.95: keeps 8 of 8 problems for validation; allowed: 0"),
        ({"overrides": {"none": {"held_out": 0.99}}}, "distill.held_out = 0.99: keeps 8 of 8 problems for validation"),
        ({"problems": {"n_train": 1}, "arms": ["shuffled"]}, "problems.n_train = 1: arm 'shuffled' needs 2 or more"),
        ({"distill": {"train_tokens": 64}}, "distill.train_tokens = 64: problem train-"),
        ({"overrides": {"none": {"train_tokens": 64}}}, "distill.train_tokens = 64: problem train-"),
        ({"distill": {"lora_targets": ["q_proj", "c_attn"]}}, "distill.lora_targets = ['c_attn']: "),
        ({"overrides": {"none": {"lora_targets": ["x"]}}}, "distill.lora_targets = ['x']: "),
        ({"attention": {"skip_layers": 2}}, "attention.skip_layers = 2: the student has 2 layers; allowed: fewer"),
        ({"attention": {"chosen_heads": [[2, 0]]}}, "attention.chosen_heads = [2, 0]: is not there; allowed: layers 0"),
        ({"attention": {"chosen_heads": [[0, 4]]}}, "attention.chosen_heads = [0, 4]: is not there; allowed: layers 0"),
        ({"attention": {"chosen_heads": [[1, 0]], "skip_layers": 1}}, "attention.chosen_heads = [1, 0]: is not there"),
        ({"attention": {"attention_tokens": 20}}, "attention.attention_tokens: problem test-0 has "),
        ({"generate": {"top_k": 300}}, "generate.top_k = 300: the teacher has 257 tokens; allowed: as many"),
        ({"generate": {"response_tokens": 4000}}, "generate.response_tokens = 4000: prompt 0: its "),
        ({"evaluate": {"answer_tokens": 4000}}, "evaluate.answer_tokens = 4000: prompt 0: its "),
        ({"generate": {"teacher_quantization": "awq"}}, "quantization = 'awq': engine transformers knows none, nf4"),
        (
            {"generate": {"engine": "server", "server_url": "http://127.0.0.1:9/v1"}},
            "server_url = 'http://127.0.0.1:9/v1': ",
        ),
        (
            {"generate": {"engine": "server", "server_url": "http://x", "teacher_quantization": "nf4"}},
            "engine = 'server': takes no quantization ",
        ),
        ({"model": {"student": "nobody/no-such-model"}}, "model 'nobody/no-such-model': "),
        ({"generate": {"teacher": "nobody/no-such-model"}}, "model 'nobody/no-such-model': "),
        ({"model": {"student": "no such model"}}, "model 'no such model': "),
        ({"model": {"student": "./nowhere"}}, "model './nowhere': no such folder; allowed: "),
    ],
)
def test_check_finds_what_would_fail_later(checked, changes, problem):
    done = checked(**changes)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"response-priming: {problem}")


@pytest.mark.parametrize(
    ("role", "changed", "problem"),
    [
        ("student", {"tokenizer": drop_template}, ": chat template: there is none"),
        ("teacher", {"tokenizer": drop_template}, ": chat template: there is none"),
        ("student", {"tokenizer": add_token}, ": 257 tokens against 258; allowed: a teacher with the student's token"),
        ("teacher", {"weights": False}, ": its weights are not there; allowed: one of model.safetensors, "),
        ("student", {"weights": False}, ": its weights are not there; allowed: one of model.safetensors, "),
        ("student", {"vocab_size": 200}, "257 of 257 tokens are among its outputs, and 200 among the student's"),
        ("teacher", {"vocab_size": 200}, "200 of 257 tokens are among its outputs, and 257 among the student's"),
        ("teacher", {"ends": [0, 7]}, ": it may end with token 7, which ends no answer of the student"),
        ("student", {"tokenizer": drop_end, "ends": None}, ": no token ends its responses; allowed: one that its"),
        ("student", {"model_type": "t5"}, ": cannot be loaded: "),
        ("student", {"model_type": "none-such"}, ": cannot be had"),
        ("student", {"max_position_embeddings": 64}, "evaluate.answer_tokens = 8: prompt "),
    ],
)
def test_check_looks_at_both_models(checked, model, role, changed, problem):
    section = {"student": "model", "teacher": "generate"}[role]
    top_k = {"top_k": "all"} if "vocab_size" in changed and role == "teacher" else {}
    done = checked(**{section: {role: model(**changed)} | top_k})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert problem in line


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """Puts the tiny model into a cache of the hub that this process may not reach, as `me/tiny`; returns its files."""
    files = tmp_path / "hub" / "models--me--tiny" / "snapshots" / "c0ffee"
    shutil.copytree(model(), files)
    (files.parents[1] / "refs").mkdir()
    (files.parents[1] / "refs" / "main").write_text("c0ffee")
    for place in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{place}.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return files


def test_check_says_which_commit_an_unpinned_model_is(checked, hub):
    done = checked(model={"student": "me/tiny"}, generate={"teacher": "me/tiny"})
    assert done.stderr.splitlines() == [
        f"[check] {role}_revision = None: me/tiny as it is in the cache, commit {hub.name}"
        for role in ("generate.teacher", "model.student")
    ]
    assert done.returncode == 0


def test_offline_a_model_without_weights_in_the_cache_is_found(checked, hub):
    (hub / "model.safetensors").unlink()
    done = checked(model={"student": "me/tiny"})
    assert done.stderr.startswith("response-priming: model 'me/tiny': its weights are not there; allowed: ")
    (hub / "config.json").unlink()
    done = checked(model={"student": "me/tiny"})
    assert done.stderr.startswith("response-priming: model 'me/tiny': cannot be had (HF_HUB_OFFLINE is set): ")


def test_without_an_arm_that_learns_from_a_teacher_none_is_asked_for(checked):
    assert checked(arms=["undistilled", "fine-tuned"], generate={"teacher": "nobody/no-such-model"}).returncode == 0


@pytest.mark.parametrize("changes", [{"generate": {"teacher_quantization": "nf4"}}, {"distill": {"adapter": "qlora"}}])
def test_check_misses_bitsandbytes(checked, monkeypatch, changes):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    assert checked(**changes).stderr == (
        "response-priming: quantization = 'nf4': bitsandbytes is not installed: pip install '.[gpu]'\n"
    )


def test_a_hundred_thousand_problems_are_answered_for_at_once(checked):
    assert checked(problems={"n_train": 100_000, "n_test": 10_000}).returncode == 0
    source = params.Problems(n_train=100_000)
    some = problems.some(source, "train", source.n_train, seed=3)
    assert some == problems.load(source, "train", len(some), seed=3)
    assert len(some) <= 100


def test_a_local_test_set_that_is_too_small_is_found(checked, tmp_path):
    for name, count in (("train", 9), ("test", 3)):
        row = json.dumps({"question": f"How many are 1 and 1, {name}?", "answer": "1 + 1 = 2\n#### 2"}) + "\n"
        (tmp_path / f"{name}.jsonl").write_text(row * count)
    found = [
        checked(problems={"dataset": "local", "data_dir": str(tmp_path), "n_test": n_test}).stderr for n_test in (3, 4)
    ]
    assert found == ["", f"response-priming: {tmp_path}: test holds 3 problems, 4 asked for\n"]


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


# --- power ---


def test_power_says_what_a_design_finds_and_what_it_lacks():
    lines = [line.split(maxsplit=4) for line in call("power", "laptop-full").stdout.splitlines()]
    assert lines[0] == ["problems", "students", "primary", "others", "lacks"]
    assert [line[:2] for line in lines[1:]] == [["400", "3"], ["400", "5"], ["800", "3"], ["800", "5"], ["1,600", "5"]]
    alone, corrected = ([float(line[place]) for line in lines[1:]] for place in (2, 3))
    assert all(one < several for one, several in zip(alone, corrected, strict=True))
    assert alone[0] > alone[1] > alone[3] > alone[4]
    one = call("power", "laptop").stdout.splitlines()[1]
    assert one.split(maxsplit=4)[4] == "students an arm: 1 of 3 needed"


def test_power_follows_its_assumptions():
    def primary(*options):
        return float(call("power", "laptop", *options).stdout.splitlines()[2].split()[2])

    usual = primary()
    assert primary("--discordant", "0.1") < primary("--student-sd", "0") < usual < primary("--alike", "1")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--discordant", "30"], "--discordant = 30.0: allowed: 0 to 1"),
        (["--alike", "-1"], "--alike = -1.0: allowed: 0 to 1"),
        (["--student-sd", "nan"], "--student-sd = nan: allowed: 0 to 50"),
    ],
)
def test_power_refuses_what_cannot_be(options, problem):
    done = call("power", "laptop", *options)
    assert (done.returncode, done.stderr) == (2, f"response-priming: {problem}\n")


def test_power_of_arms_that_nothing_is_compared_with(tmp_path, monkeypatch):
    shutil.copytree(paths.PARAMS, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.yaml").write_text("arms: [undistilled]")
    monkeypatch.setattr(paths, "PARAMS", tmp_path)
    assert call("power", "mine").stderr.endswith("arms = ['undistilled']: no two of them are compared\n")
    (tmp_path / "mine.yaml").write_text("arms: [undistilled, undistilled-examples]")  # neither has students to draw
    assert call("power", "mine").stdout.splitlines()[1].endswith("students an arm: 1 of 3 needed")


def test_parameters_prints_the_cell():
    assert call("parameters", "distill").stdout == params.parameters_cell("distill") + "\n"


def test_reading_notebooks_compiles_no_grammar():
    script = "import sys, response_priming.cli, papermill, nbformat; print('lark' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
