import json
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from response_priming import artifacts, engines, params, paths, problems
from response_priming.errors import InputError
from response_priming.evaluate import answers as evaluate
from response_priming.evaluate import calibration
from response_priming.extraction import RULES
from response_priming.scoring import grade

PROBLEMS = params.load("laptop").problems


class CharacterTokenizer:
    eos_token_id = 0

    def apply_chat_template(self, chat, **_):
        return json.dumps(chat)

    def __call__(self, text, **_):
        return {"input_ids": list(text.encode())}


class Engine:
    """Answers every prompt with 7 and remembers what it was asked last, in an order of its own."""

    asked: list[list[int]] = []
    tokenizer = CharacterTokenizer()

    respond_to = engines.Engine.respond_to

    def respond(self, prompts, *, top_k, **_):
        Engine.asked = prompts
        for index in reversed(range(len(prompts))):
            tokens = [1] * (index + 1)
            logprobs = np.array([[-1.0, -9.0][:top_k]] * index + [[-4.0, -9.0][:top_k]], np.float16)
            yield (
                index,
                engines.Response(tokens, f"{index}. so\n#### 7", index % 2 == 0, engines.Signal(None, logprobs, None)),
            )


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Fakes in place of model and engine; the adapters that were loaded."""
    adapters = []

    def open_engine(_, setup):
        adapters.append(setup.student)
        return Engine()

    monkeypatch.setattr(paths, "BUILD", tmp_path)
    monkeypatch.setattr(engines, "open_engine", open_engine)
    return adapters


def run(arm="undistilled", **values):
    return params.collect("evaluate", {**params.load("laptop").run("evaluate", arm=arm).model_dump(), **values})


def make_student(root, arm, weights="some"):
    folder = root / "laptop" / "students" / arm / "seed-0"
    with artifacts.writing(folder, {}) as aside:
        (aside / "adapter_model.safetensors").write_text(weights)
    return folder


def test_rows_follow_the_problems_whatever_order_answers_come_in(loaded):
    answers = evaluate.answer(run())
    assert list(answers["problem_id"]) == [f"test-{number}" for number in range(200)]
    assert list(answers["tokens"]) == [number + 1 for number in range(200)]
    assert list(answers["response"].str.split(".").str[0]) == [f"{number}" for number in range(200)]
    assert loaded == [None]


@pytest.mark.usefixtures("loaded")
def test_mean_logprob_is_over_the_tokens_of_each_answer():
    answers = evaluate.answer(run())
    assert answers["mean_logprob"].head(3).tolist() == pytest.approx([-4, -5 / 2, -6 / 3])


@pytest.mark.usefixtures("loaded")
def test_prompts_are_the_bare_questions():
    answers = evaluate.answer(run())
    chats = [json.loads(bytes(prompt)) for prompt in Engine.asked]
    assert [[turn["role"] for turn in chat] for chat in chats] == [["system", "user"]] * 200
    assert [chat[1]["content"] for chat in chats] == list(answers["question"])


@pytest.mark.usefixtures("loaded")
def test_more_problems_than_a_block_keep_their_order(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    answers = evaluate.answer(run())
    assert answers["tokens"].tolist() == [number % 7 + 1 for number in range(200)]


def test_trained_arm_is_answered_by_its_own_adapter(loaded, tmp_path):
    folder = make_student(tmp_path, "teacher")
    evaluate.answer(run("teacher"))
    assert loaded == [folder]


def test_missing_student_stops_before_a_model_is_loaded(loaded):
    with pytest.raises(InputError, match="students/teacher/seed-0"):
        evaluate.answer(run("teacher"))
    assert not loaded


def test_second_call_loads_no_model_and_returns_the_same(loaded):
    first = evaluate.answer(run())
    pd.testing.assert_frame_equal(evaluate.answer(run()), first)
    assert len(loaded) == 1


def test_retrained_student_is_evaluated_again(loaded, tmp_path):
    make_student(tmp_path, "none")
    evaluate.answer(run("none"))
    make_student(tmp_path, "none", "new")
    evaluate.answer(run("none"))
    assert len(loaded) == 2


@pytest.mark.usefixtures("loaded")
def test_another_budget_is_written_aside(tmp_path):
    evaluate.answer(run(answer_tokens=9))
    assert not (tmp_path / "laptop" / "scores").exists()
    assert len(list((tmp_path / "laptop" / "explored").glob("*/scores/undistilled/seed-0/answers.parquet"))) == 1


@pytest.mark.usefixtures("loaded")
def test_notebook_runs_to_its_end():
    notebook = nbformat.read(paths.NOTEBOOKS / "evaluate.ipynb", as_version=4)
    shell = InteractiveShell.instance()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source.replace('arm = "none"', 'arm = "undistilled"')).raise_error()
    assert len(shell.user_ns["answers"]) == shell.user_ns["n_test"]


def test_a_problem_that_the_engine_fails_at_counts_as_wrong(loaded, monkeypatch):
    def failing(self, requests):
        for number, index, response in engines.Engine.respond_to(self, requests):
            none = engines.Signal(None, np.zeros((0, 1), np.float16), None)
            failed = replace(response, tokens=[], text="", signal=none, failed="it dies")
            yield number, index, failed if index else response

    monkeypatch.setattr(Engine, "respond_to", failing)
    answers = evaluate.answer(run(n_test=3))
    assert loaded
    assert answers["set_aside"].fillna("").tolist() == ["", "it dies", "it dies"]
    assert answers["mean_logprob"].isna().tolist() == [False, True, True]
    assert not answers.loc[1:, "last-number-correct"].any()
    assert 0 <= calibration.calibration_error(answers, "last-number") <= 1
    assert np.isnan(calibration.separation(answers, "last-number")["auroc"])


# --- a real engine ---


def test_batching_changes_no_answer(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    sizes = {"student": str(tiny_model), "n_test": 6, "answer_tokens": 5, "dtype": "float32", "device": "cpu"}
    one, many = (evaluate.answer(run(**sizes, evaluate_batch=batch)) for batch in (1, 4))
    pd.testing.assert_frame_equal(one, many, atol=0.01)
    assert one["tokens"].between(1, 5).all()
    assert (one["finished"] | (one["tokens"] == 5)).all()


# --- grade ---


def graded(responses, answers=None, **columns):
    answers = answers or ["7"] * len(responses)
    defaults = {"finished": True, "tokens": 4}
    return grade(pd.DataFrame({"response": responses, "answer": answers} | defaults | columns))


def test_every_rule_has_its_verdict():
    table = graded([r"\boxed{7} #### 8 or 9"])
    assert {rule for rule in RULES if table[rule][0] == "8"} == {"hash", "lm-eval-strict"}
    assert {rule for rule in RULES if table[rule][0] == "9"} == {"last-number", "lm-eval-flexible"}
    assert all(table[f"{rule}-correct"][0] == (table[rule][0] == "7") for rule in RULES)


def test_no_number_is_missing_and_wrong():
    table = graded(["seven"])
    assert table["last-number"].isna().all()
    assert not table["last-number-correct"].any()


def test_grading_leaves_its_input_alone():
    table = pd.DataFrame({"response": ["7"], "answer": ["7"]})
    grade(table)
    assert list(table) == ["response", "answer"]


@pytest.mark.usefixtures("loaded")
def test_one_arm_is_shown_the_teachers_examples_and_no_other():
    asked = problems.load(PROBLEMS, "test", 1, seed=0)[0]
    shown = [problem.question for problem in problems.load(PROBLEMS, "validation", 3, seed=0)]
    for arm, before in (("undistilled-examples", shown), ("undistilled", [])):
        evaluate.answer(run(arm, worked_examples=3))
        chat = json.loads(bytes(Engine.asked[0]))
        assert [turn["content"] for turn in chat if turn["role"] == "user"] == [*before, asked.question]


@pytest.mark.usefixtures("loaded")
def test_answers_say_the_template_and_the_number_of_calculations():
    answers = evaluate.answer(run())
    asked = problems.load(PROBLEMS, "test", 200, seed=0)
    assert list(answers["template"]) == [problem.template for problem in asked]
    assert list(answers["calculations"]) == [problem.solution.count("<<") for problem in asked]


@pytest.mark.usefixtures("loaded")
def test_without_templates_there_is_no_column_of_them(monkeypatch):
    asked = [replace(one, template=None) for one in problems.load(PROBLEMS, "test", 200, seed=0)]
    monkeypatch.setattr(problems, "load", lambda *_, **__: asked)
    assert "template" not in evaluate.answer(run())
