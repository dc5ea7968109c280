import errno
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from response_priming import arms, artifacts, engines, models, paths, problems
from response_priming import prompts as priming
from response_priming.engines import transformers
from response_priming.errors import InputError
from response_priming.extraction import RULES
from response_priming.generate import store, teacher
from response_priming.params import sections

SIZES = {"n_train": 6, "worked_examples": 2, "response_tokens": 5, "generate_batch": 4, "top_k": 3}


@pytest.fixture
def run(make_run):
    return make_run("generate", strategy="teacher", **SIZES)


@pytest.fixture
def no_engine(monkeypatch):
    """Makes loading a model from now on a failure."""
    return lambda: monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("generated again"))


@pytest.fixture
def prompts(run, monkeypatch):
    """The texts that a teacher is given for this run."""
    given = []

    def respond(_, prompts, *, top_k, **__):
        given.extend(tiny.tokenizer().decode(prompt) for prompt in prompts)
        signal = np.zeros((1, top_k))
        yield from (
            (index, engines.Response([1], "a", False, engines.Signal(signal, signal, signal[:, 0])))
            for index in range(len(prompts))
        )

    monkeypatch.setattr(transformers.TransformersEngine, "respond", respond)
    teacher.respond(run)
    return given


def test_every_train_problem_is_answered_once(run):
    answered = teacher.respond(run)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    assert sorted(answered["problem_id"]) == sorted(problem.id for problem in asked)
    assert answered["tokens"].map(len).between(1, 5).all()
    assert answered["kept"].all()
    signals = store.dataset(run.output / "responses" / "teacher")
    assert all(len(row["top_ids"]) == 3 * len(row["tokens"]) for row in signals)


def test_each_answer_is_the_models_to_its_own_prompt(run):
    answered = teacher.respond(run).set_index("problem_id")
    model, tokenizer = models.load(run.teacher, dtype="float32", device="cpu")
    examples = problems.load(run, "validation", 2, seed=run.seed)
    prefix = priming.prefix_of("teacher")
    for problem in problems.load(run, "train", run.n_train, seed=run.seed):
        chat = priming.messages(problem.question, system_prompt=run.system_prompt, prefix=prefix, examples=examples)
        prompt = priming.encode(tokenizer, chat)
        ((_, response),) = transformers.TransformersEngine(model, tokenizer, batch=1).respond([prompt], max_tokens=5)
        assert list(answered.loc[problem.id, "tokens"]) == response.tokens
        assert answered.loc[problem.id, "text"] == response.text
        assert answered.loc[problem.id, "prompt_tokens"] == len(prompt)


def test_rows_are_in_the_problems_order_a_batch_a_shard(run):
    assert teacher.respond(run)["problem_id"].tolist() == [f"train-{number}" for number in range(6)]
    shards = sorted((run.output / "responses" / "teacher").glob("shard-*.parquet"))
    assert [len(pd.read_parquet(shard)) for shard in shards] == [4, 2]


def test_prompts_carry_the_prefix_and_the_worked_examples(run, prompts):
    prefix, examples = priming.prefix_of("teacher"), problems.load(run, "validation", 2, seed=run.seed)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    for prompt, problem in zip(prompts, asked, strict=True):
        assert prompt.startswith(f"system: {run.system_prompt}\nuser: {prefix}{examples[0].question}\n")
        assert all(f"assistant: {example.worked}\n" in prompt for example in examples)
        assert prompt.endswith(f"user: {prefix}{problem.question}\nassistant: ")
        assert prompt.count(prefix) == 3


def test_a_second_call_generates_nothing(run, no_engine):
    first = teacher.respond(run)
    no_engine()
    assert teacher.respond(run)["key"].equals(first["key"])


def test_the_batch_and_the_test_set_change_no_response(run, no_engine):
    teacher.respond(run)
    no_engine()
    teacher.respond(run.model_copy(update={"generate_batch": 1, "n_test": 3}))


@pytest.mark.parametrize(
    "change",
    [{"response_tokens": 4}, {"seed": 1}, {"worked_examples": 1}, {"top_k": 4}, {"temperature": 0.5}, {"n_train": 7}],
)
def test_other_parameters_generate_again(run, no_engine, change):
    teacher.respond(run)
    no_engine()
    with pytest.raises(pytest.fail.Exception, match="generated again"):
        teacher.respond(run.model_copy(update=change))


@pytest.mark.parametrize("stored", [3, "all"])
def test_fewer_tokens_of_the_signal_or_fewer_problems_are_taken_from_what_is_there(run, no_engine, stored):
    teacher.respond(run.model_copy(update={"top_k": stored}))
    wanted = run.model_copy(update={"top_k": 2, "n_train": 5})
    signal = ["top_ids", "top_logprobs", "tail_logprobs"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", paths.BUILD.with_name("anew"))
        teacher.respond(wanted)
        anew = store.read(store_of(wanted), columns=["problem_id", "key", "text", *signal])
    no_engine()
    teacher.respond(wanted)
    taken = store.read(store_of(wanted), columns=["problem_id", "key", "text", *signal])
    pd.testing.assert_frame_equal(taken.drop(columns=signal), anew.drop(columns=signal))
    for name in signal:
        for one, other in zip(taken[name], anew[name], strict=True):
            np.testing.assert_allclose(one, other, atol=2e-3 if name == "tail_logprobs" else 0)


def test_no_response_is_lost_whatever_changes_and_changes_back(run, asked):
    changes = [{}, {"response_tokens": 4}, {"worked_examples": 1}, {"n_train": 2}, {"samples": 2, "temperature": 0.5}]
    keys = [teacher.respond(run.model_copy(update=change))["key"] for change in changes]
    done = sum(asked)
    for change, before in zip(changes, keys, strict=True):
        assert teacher.respond(run.model_copy(update=change))["key"].equals(before)
    assert sum(asked) == done


def test_with_the_teacher_away_another_setting_loses_nothing(run, no_engine):
    before = teacher.respond(run)
    no_engine()
    with pytest.raises(pytest.fail.Exception, match="generated again"):
        teacher.respond(run.model_copy(update={"response_tokens": 4}))
    assert teacher.respond(run)["key"].equals(before["key"])


def test_a_changed_prefix_generates_again(run, monkeypatch):
    before = teacher.respond(run)["prompt_tokens"]
    changed = arms.strategies() | {"teacher": arms.strategies()["teacher"] | {"prefix": "Think. "}}
    monkeypatch.setattr(arms, "strategies", lambda: changed)
    assert (teacher.respond(run)["prompt_tokens"] < before).all()


def test_without_worked_examples_the_question_stands_alone(make_run):
    run = make_run("generate", strategy="none", **SIZES | {"worked_examples": 0})
    answered = teacher.respond(run).set_index("problem_id")
    problem = problems.load(run, "train", 1, seed=run.seed)[0]
    prompt = priming.encode(tiny.tokenizer(), priming.bare(problem.question, run.system_prompt))
    assert answered.loc[problem.id, "prompt_tokens"] == len(prompt)


# --- what is stored is used again ---


@pytest.fixture
def asked(monkeypatch):
    """How many prompts engines are given from now on, a number a call."""
    calls, respond = [], transformers.TransformersEngine.respond

    def counting(self, prompts, **settings):
        calls.append(len(prompts))
        return respond(self, prompts, **settings)

    monkeypatch.setattr(transformers.TransformersEngine, "respond", counting)
    return calls


def store_of(run):
    return run.output / "responses" / run.strategy


def outputs(run):
    return artifacts.read(store_of(run))["outputs"]


def test_more_problems_generate_only_what_is_new(run, asked):
    first = teacher.respond(run)
    more = teacher.respond(run.model_copy(update={"n_train": 9}))
    assert asked[:2] == [4, 2]
    assert sum(asked[2:]) == 3
    assert more["key"].tolist()[:6] == first["key"].tolist()
    assert more["problem_id"].tolist() == [f"train-{number}" for number in range(9)]


def test_a_changed_prefix_uses_no_response_again(run, asked, monkeypatch):
    before = teacher.respond(run)["key"]
    changed = arms.strategies() | {"teacher": arms.strategies()["teacher"] | {"prefix": "Think. "}}
    monkeypatch.setattr(arms, "strategies", lambda: changed)
    assert not set(teacher.respond(run)["key"]) & set(before)
    assert asked == [4, 2, 4, 2]


def test_a_damaged_shard_alone_is_made_again_as_it_was(run, asked):
    teacher.respond(run)
    before = outputs(run)
    shard = store_of(run) / store.shard_name(0)
    shard.write_bytes(shard.read_bytes()[:-7])
    teacher.respond(run)
    assert asked == [4, 2, 4]
    assert outputs(run) == before
    assert not artifacts.damaged(store_of(run))


def test_a_smaller_batch_continues_a_stopped_run(run, asked, monkeypatch):
    def stop(self, name, write):
        if name == store.shard_name(4):
            raise KeyboardInterrupt
        put(self, name, write)

    with monkeypatch.context() as patch:
        put = artifacts.Partial.put
        patch.setattr(artifacts.Partial, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            teacher.respond(run)
    answered = teacher.respond(run.model_copy(update={"generate_batch": 1}))
    assert asked == [4, 2, 1, 1]
    assert answered["problem_id"].tolist() == [f"train-{number}" for number in range(6)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=8), st.integers(1, 4))
def test_gaps_fill_what_is_not_stored_in_order(runs, size):
    stored, position = {}, 0
    for there, length in runs:
        if there:
            stored[position] = length
        position += length
    found = list(teacher.gaps(stored, position, size))
    have = [number for first, length in stored.items() for number in range(first, first + length)]
    made = [number for first, last in found for number in range(first, last)]
    assert sorted(have + made) == list(range(position))
    assert all(0 < last - first <= size for first, last in found)


def test_batches_that_come_back_in_another_order_make_the_same_shards(run, monkeypatch):
    teacher.respond(run)
    wanted = outputs(run)
    monkeypatch.setattr(paths, "BUILD", paths.BUILD.with_name("anew"))
    in_order = engines.Engine.respond_to
    backwards = lambda self, requests: reversed(list(in_order(self, requests)))  # noqa: E731
    monkeypatch.setattr(transformers.TransformersEngine, "respond_to", backwards)
    teacher.respond(run)
    assert outputs(run) == wanted


@pytest.fixture
def poisoned(monkeypatch):
    """The engine fails at the first prompt of each request, until the test says that it works."""
    broken, respond_to = [True], transformers.TransformersEngine.respond_to

    def failing(self, requests):
        for number, index, response in respond_to(self, requests):
            if index == 0 and broken:
                empty = response.token_logprobs[:0]
                signal = engines.Signal(*(part[:0] for part in response.signal))
                yield number, index, engines.Response([], "", False, signal, empty, "it dies")
            else:
                yield number, index, response

    monkeypatch.setattr(transformers.TransformersEngine, "respond_to", failing)
    return broken


@pytest.mark.parametrize("top_k", [3, "all"])
def test_what_was_set_aside_keeps_its_row_and_trains_nothing(run, poisoned, top_k, capsys):
    answered = teacher.respond(run.model_copy(update={"top_k": top_k}))
    assert poisoned
    assert answered.loc[~answered["kept"], "problem_id"].tolist() == ["train-0", "train-4"]
    assert answered["tokens"].map(len).eq(0).tolist() == (~answered["kept"]).tolist()
    assert len(store.dataset(store_of(run))) == 4
    notes = artifacts.read(store_of(run))["notes"]
    reasons = {"sample": 0, "reason": "it dies"}
    assert notes["set_aside"] == [{"problem_id": name} | reasons for name in ("train-0", "train-4")]
    assert (notes["counts"]["set_aside"], notes["counts"]["kept"]) == (2, 4)
    assert "train-4: set aside, the engine fails at it: it dies\n" in capsys.readouterr().err


def test_what_was_set_aside_is_asked_again_by_another_run_alone(run, poisoned, asked):
    teacher.respond(run)
    teacher.respond(run)
    assert asked == [4, 2]
    poisoned.clear()
    answered = teacher.respond(run.model_copy(update={"top_k": 2}))
    assert asked[2:] == [1, 1]
    assert answered["kept"].all()
    assert artifacts.read(store_of(run))["notes"]["set_aside"] == []


def test_of_several_samples_none_that_was_set_aside_is_chosen(make_run, poisoned):
    assert poisoned
    run = make_run("generate", strategy="none", **SIZES | {"samples": 2, "temperature": 1.0})
    kept = teacher.respond(run).query("kept")
    assert kept["tokens"].map(len).gt(0).all()
    assert kept["problem_id"].is_unique


# --- killed, or out of disk space ---

KILLED_AT = """
    import json, os, signal, sys
    from pathlib import Path
    from response_priming import artifacts, params, paths, progress
    from response_priming.artifacts import making
    from response_priming.engines import transformers
    from response_priming.generate import store, teacher

    root, values = Path(sys.argv[1]), json.loads(sys.argv[2])
    run = params.GenerateRun.model_validate(values)

    def dying(method, when, before):
        calls = []
        def wrapped(*arguments, **named):
            calls.append(arguments)
            if before and when(len(calls), *arguments):
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*arguments, **named)
            if when(len(calls), *arguments):
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped

    second = store.shard_name(2)
    Engine, Partial = transformers.TransformersEngine, artifacts.Partial
    moments = {
        "first-batch": (progress.Bar, "answered", lambda n, *_: n == 1, False),
        "between-batches": (Engine, "respond", lambda n, *_: n == 2, False),
        "shard-written-not-renamed": (making, "_sync", lambda n, path: path.name == f".{second}", False),
        "shard-renamed-not-listed": (Partial, "record", lambda n, self, _: second in self.outputs, True),
        "manifest-written-not-renamed": (
            Path, "replace",
            lambda n, path, target: target.name == artifacts.FILE and (target.parent / second).exists(), True,
        ),
        "shard-listed": (Partial, "record", lambda n, self, _: second in self.outputs, False),
        "selection": (Partial, "put", lambda n, self, name, _: name == store.KEPT, True),
        "before-the-last-rename": (Partial, "record", lambda n, self, more: "recipe" in more, False),
        "none": (Partial, "record", lambda *_: False, False),
    }
    for name, (owner, method, when, before) in moments.items():
        if os.fork() == 0:
            paths.BUILD = root / name
            setattr(owner, method, dying(getattr(owner, method), when, before))
            teacher.respond(run)
            os._exit(0)
        assert os.wait()[1] == (0 if name == "none" else signal.SIGKILL), name
"""


def test_a_killed_run_loses_at_most_the_batch_in_flight(make_run, tmp_path, monkeypatch):
    run = make_run("generate", strategy="teacher", **SIZES | {"generate_batch": 2})
    script = [sys.executable, "-c", textwrap.dedent(KILLED_AT), tmp_path, json.dumps(run.model_dump())]
    subprocess.run(script, check=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
    stored = {path.name: sorted(path.glob("*/responses/.kept/teacher/*/shard-*")) for path in tmp_path.iterdir()}
    assert {len(shards) for shards in stored.values()} == {0, 1, 2, 3}
    redone = {}
    for moment in sorted(stored):
        with monkeypatch.context() as patch:
            patch.setattr(paths, "BUILD", tmp_path / moment)
            calls, respond = [], transformers.TransformersEngine.respond
            patch.setattr(
                transformers.TransformersEngine,
                "respond",
                lambda self, prompts, calls=calls, respond=respond, **settings: (
                    calls.append(len(prompts)) or respond(self, prompts, **settings)
                ),
            )
            teacher.respond(run)
            redone[moment] = sum(calls)
            listed = {name: made for name, made in outputs(run).items() if name.startswith("shard-")}
            stored[moment] = listed
            assert not list(store_of(run).parent.glob(".*"))
    assert all(listed == stored["none"] for listed in stored.values())
    assert redone == {
        "none": 0,
        "first-batch": 6,
        "between-batches": 4,
        "shard-written-not-renamed": 4,
        "shard-renamed-not-listed": 4,
        "manifest-written-not-renamed": 4,
        "shard-listed": 2,
        "selection": 0,
        "before-the-last-rename": 0,
    }


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 24 KiB; skips where no disk can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_cleanly_and_the_next_run_continues(make_run, small_disk, asked, monkeypatch):
    run = make_run("generate", strategy="teacher", **SIZES | {"generate_batch": 1})
    monkeypatch.setattr(paths, "BUILD", small_disk)
    with pytest.raises(InputError, match=r"responses/teacher: no space left on the disk; free some and run again: "):
        teacher.respond(run)
    (partial,) = (small_disk / "laptop" / "responses" / ".kept" / "teacher").iterdir()
    finished = artifacts.read(partial)["outputs"]
    assert 0 < len(finished) < 6
    assert not artifacts.damaged(partial)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    asked.clear()
    assert len(teacher.respond(run)) == 6
    assert sum(asked) == 6 - len(finished)


def test_a_full_disk_is_one_line_wherever_it_is_met(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(teacher, "write_shard", full)
        with pytest.raises(InputError, match="no space left on the disk"):
            teacher.respond(run)
    assert len(teacher.respond(run)) == 6


# --- samples and filters ---


def test_samples_are_kept_whole_and_one_a_problem_trains(make_run):
    run = make_run("generate", strategy="none", **SIZES | {"samples": 3, "temperature": 1.0})
    answered = teacher.respond(run)
    assert answered["problem_id"].tolist() == [f"train-{number // 3}" for number in range(18)]
    assert answered["sample"].tolist() == [0, 1, 2] * 6
    assert answered["key"].is_unique
    assert answered.groupby("problem_id")["kept"].sum().eq(1).all()
    assert len(store.dataset(store_of(run))) == 6
    assert artifacts.read(store_of(run))["notes"]["counts"]["dropped"] == 12


def test_a_filter_chooses_what_trains_and_generates_nothing_again(run, asked):
    teacher.respond(run)
    answered = teacher.respond(run.model_copy(update={"keep_finished": True}))
    assert asked == [4, 2]
    assert answered["kept"].tolist() == answered["finished"].tolist()
    counts = artifacts.read(store_of(run))["notes"]["counts"]
    right = {problem.id: problem.answer for problem in problems.load(run, "train", run.n_train, seed=run.seed)}
    is_right = teacher.select(answered, right, run)["right"].sum()
    finished = answered["finished"].sum()
    expected = {"problems": 6, "responses": 6, "finished": finished, "right": is_right, "kept": finished}
    assert counts == expected | {"dropped": 6 - finished, "set_aside": 0}


def test_an_arm_with_nothing_left_is_one_line(run):
    teacher.respond(run.model_copy(update={"keep_right": True}))
    with pytest.raises(InputError, match="all 6 responses are dropped by the filters; nothing trains"):
        store.dataset(store_of(run))


def test_all_keeps_dense_rows(make_run):
    run = make_run("generate", strategy="none", **SIZES | {"top_k": "all"})
    answered = teacher.respond(run)
    data = store.dataset(store_of(run))
    assert "top_ids" not in data.column_names
    signal = data[0]["top_logprobs"].reshape(len(answered["tokens"][0]), len(tiny.VOCABULARY)).astype(np.float32)
    assert np.allclose(np.exp(signal).sum(-1), 1, atol=2e-3)
    assert signal.argmax(-1).tolist() == list(answered["tokens"][0])


# --- tokens that the student cannot read ---


@pytest.fixture
def other_student(tmp_path):
    """A student whose tokenizer swaps two tokens of the teacher's."""
    folder = tiny.save_model(tmp_path / "student")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(json.dumps(content))
    return str(folder)


def test_leaked_problems_are_refused_before_a_model_is_loaded(make_run, tmp_path, no_engine):
    rows = [json.dumps({"question": f"How many are {n} and 1?", "answer": f"#### {n + 1}"}) for n in range(9)]
    for stem in ("train", "test"):
        (tmp_path / f"{stem}.jsonl").write_text("\n".join(rows))
    no_engine()
    with pytest.raises(InputError, match=r"train-0 is in test, too, as are 8 others of train: take them out, or"):
        teacher.respond(make_run("generate", dataset="local", data_dir=str(tmp_path), **SIZES))


def test_other_tokens_are_refused_before_a_model_is_loaded(make_run, other_student, no_engine):
    run = make_run("generate", student=other_student, **SIZES)
    no_engine()
    with pytest.raises(
        InputError, match=r"^generate.teacher = .*: token \d+ is '[AB]' against '[AB]'; allowed: .*text'$"
    ):
        teacher.respond(run)


def test_text_alone_needs_no_common_tokens(make_run, other_student):
    assert len(teacher.respond(make_run("generate", student=other_student, signal="text", **SIZES))) == 6


# --- which responses train ---


def answered(*texts, unfinished=(), samples=1):
    """Responses to problems whose right answer is 7; those at the positions `unfinished` were cut off."""
    rows = [(f"train-{n // samples}", n % samples, n not in unfinished, text) for n, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["problem_id", "sample", "finished", "text"])


def kept(table, **values):
    right = dict.fromkeys(table["problem_id"], "7")
    return teacher.select(table, right, sections.Generate(**values))["kept"].tolist()


def test_without_filters_all_are_kept():
    assert kept(answered("7", "8", "no number", unfinished=[1])) == [True, True, True]


def test_unfinished_ones_are_dropped():
    assert kept(answered("7", "8", "9", unfinished=[1]), keep_finished=True) == [True, False, True]


def test_wrong_ones_are_dropped_and_right_is_by_number():
    assert kept(answered("7", "8", "7.0", "none"), keep_right=True) == [True, False, True, False]


def test_filters_add_up():
    table = answered("7", "7", "8", unfinished=[1])
    assert kept(table, keep_right=True, keep_finished=True) == [True, False, False]


@pytest.mark.parametrize(("rule", "expected"), [("hash", [True, False]), ("last-number", [False, True])])
def test_right_is_by_the_rule_chosen(rule, expected):
    assert kept(answered("#### 7 and 8", "#### 8 and 7"), keep_right=True, answer_rule=rule) == expected


def test_of_several_samples_the_first_with_the_majoritys_answer_is_kept():
    table = answered("8", "9", "9.0", "5", "5", "6", samples=3)
    assert kept(table, samples=3, temperature=1) == [False, True, False, True, False, False]


def test_filters_go_before_the_vote():
    table = answered("8", "8", "7", "8", "9", "6", samples=3)
    assert kept(table, samples=3, temperature=1, keep_right=True) == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("answers", "position"),
    [
        *[(["1"], 0), (["1", "2"], 0), (["1", "2", "2"], 1), (["1", "2", "2.0", "1"], 0), ([None, "3"], 1)],
        *[([None] * 2, 0), ([float("nan"), "0"], 1), (["$29.00.", "1,029", "29"], 0), (["1/2", "x = 5", "x = 5"], 1)],
        (["...", "-3", "\u22123", "4"], 1),
    ],
)
def test_the_majority_is_the_most_frequent_and_ties_go_to_the_first(answers, position):
    assert teacher.majority(answers) == position


@given(
    st.lists(st.text("0123456789$.,-/=ex{} "), min_size=1, max_size=9),
    st.sampled_from([name for name in RULES if name != "math-verify"]),
)
@settings(deadline=None)
def test_whatever_a_rule_extracts_can_vote(texts, rule):
    extracted = [found for found, _ in RULES[rule].verdicts(texts, ["7"] * len(texts))]
    assert 0 <= teacher.majority(extracted) < len(texts)


@given(st.lists(st.one_of(st.none(), st.integers(0, 3).map(str)), min_size=1, max_size=9))
def test_no_answer_is_more_frequent_than_the_majority(answers):
    winner = answers[teacher.majority(answers)]
    votes = [answer for answer in answers if answer is not None]
    assert not votes or all(votes.count(winner) >= votes.count(other) for other in votes)


def test_the_notebook_shows_a_store_that_an_earlier_one_has_all_of(make_run, capsys):
    sizes = {"worked_examples": 1, "response_tokens": 4, "top_k": 3}
    teacher.respond(make_run("generate", strategy="none", n_train=4, **sizes))
    fewer = make_run("generate", strategy="none", n_train=2, **sizes)
    teacher.respond(fewer)
    cells = json.loads((paths.NOTEBOOKS / "generate.ipynb").read_text())["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if cell["id"] == "kept"]
    exec(source, {"artifacts": artifacts, "run": fewer, "pd": pd})
    assert "nobody was asked" in capsys.readouterr().out
