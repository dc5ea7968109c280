import json

import nbformat
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from statsmodels.stats.proportion import proportion_confint

from response_priming import engines, evaluate, params, paths
from response_priming.errors import InputError
from response_priming.extraction import RULES


class CharacterTokenizer:
    eos_token_id = 0

    def apply_chat_template(self, chat, **_):
        return json.dumps(chat)

    def __call__(self, text, **_):
        return {"input_ids": list(text.encode())}


class Engine:
    """Answers every prompt with 7 and remembers what it was asked, in an order of its own."""

    asked: list[list[int]] = []
    tokenizer = CharacterTokenizer()

    def respond(self, prompts, *, max_tokens):  # noqa: ARG002
        Engine.asked = prompts
        for index in reversed(range(len(prompts))):
            yield index, engines.Response([1] * (index + 1), f"{index}. so\n#### 7", index % 2 == 0)


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Fakes in place of model and engine; the adapters that were loaded."""
    adapters = []

    def open_engine(_, setup):
        adapters.append(setup.adapter)
        return Engine()

    monkeypatch.setattr(paths, "BUILD", tmp_path)
    monkeypatch.setattr(engines, "open_engine", open_engine)
    return adapters


def run(arm="undistilled", **values):
    return params.EvaluateRun.model_validate({**params.load("laptop").run("evaluate", arm=arm).model_dump(), **values})


def make_student(root, arm):
    folder = root / "laptop" / "students" / arm / "seed-0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"recipe": {}, "outputs": {"adapter_model.safetensors": arm}}))
    return folder


def test_rows_follow_the_problems_whatever_order_answers_come_in(loaded):
    answers = evaluate.answer(run())
    assert list(answers["problem_id"]) == [f"test-{number}" for number in range(200)]
    assert list(answers["tokens"]) == [number + 1 for number in range(200)]
    assert list(answers["response"].str.split(".").str[0]) == [f"{number}" for number in range(200)]
    assert loaded == [None]


@pytest.mark.usefixtures("loaded")
def test_prompts_are_the_bare_questions():
    answers = evaluate.answer(run())
    chats = [json.loads(bytes(prompt)) for prompt in Engine.asked]
    assert [[turn["role"] for turn in chat] for chat in chats] == [["system", "user"]] * 200
    assert [chat[1]["content"] for chat in chats] == list(answers["question"])


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
    folder = make_student(tmp_path, "none")
    evaluate.answer(run("none"))
    (folder / "manifest.json").write_text(json.dumps({"recipe": {}, "outputs": {"adapter_model.safetensors": "new"}}))
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


# --- a real engine ---


def test_batching_changes_no_answer(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    sizes = {"student": str(tiny_model), "n_test": 6, "answer_tokens": 5, "dtype": "float32", "device": "cpu"}
    one, many = (evaluate.answer(run(**sizes, evaluate_batch=batch)) for batch in (1, 4))
    pd.testing.assert_frame_equal(one, many)
    assert one["tokens"].between(1, 5).all()
    assert (one["finished"] | (one["tokens"] == 5)).all()


# --- grade and summary ---


def graded(responses, answers=None, **columns):
    answers = answers or ["7"] * len(responses)
    defaults = {"finished": True, "tokens": 4}
    return evaluate.grade(pd.DataFrame({"response": responses, "answer": answers} | defaults | columns))


def test_every_rule_has_its_verdict():
    table = graded([r"\boxed{7} #### 8 or 9"])
    assert table[list(RULES)].iloc[0].tolist() == ["8", "7", "9"]
    assert table[[f"{rule}-correct" for rule in RULES]].iloc[0].tolist() == [False, True, False]


def test_no_number_is_missing_and_wrong():
    table = graded(["seven"])
    assert table["last-number"].isna().all()
    assert not table["last-number-correct"].any()


def test_grading_leaves_its_input_alone():
    table = pd.DataFrame({"response": ["7"], "answer": ["7"]})
    evaluate.grade(table)
    assert list(table) == ["response", "answer"]


def test_summary_counts_shares_and_interval():
    table = graded(["7", "7", "8", "none"], finished=[True, True, False, True], tokens=[1, 2, 3, 6])
    found = evaluate.summary(table, "last-number")
    low, high = proportion_confint(2, 4, method="wilson")
    expected = {"n": 4, "correct": 2, "accuracy": 0.5, "low": low, "high": high, "answered": 0.75, "finished": 0.75}
    assert found == pytest.approx(expected | {"mean_tokens": 3.0, "accuracy_answered": 2 / 3})


@pytest.mark.parametrize("response", ["7", "8"])
def test_interval_holds_the_accuracy_at_both_ends(response):
    found = evaluate.summary(graded([response] * 20), "last-number")
    assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
    assert found["high"] - found["low"] > 0.1


def test_accuracy_given_an_answer_is_nan_where_nothing_was_answered():
    assert pd.isna(evaluate.summary(graded(["none"]), "last-number")["accuracy_answered"])


def test_every_seed_of_a_trained_arm_is_scored_and_the_undistilled_student_once(tmp_path, loaded):
    for seed in (0, 3):
        folder = tmp_path / "laptop" / "students" / "teacher" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"recipe": {}, "outputs": {}}))
    taught = evaluate.answer(run("teacher", seeds=[0, 3], n_test=5))
    assert taught["seed"].tolist() == 5 * [0] + 5 * [3]
    assert [folder.name for folder in loaded] == ["seed-0", "seed-3"]
    assert set(evaluate.answer(run("undistilled", seeds=[3, 0], n_test=5))["seed"]) == {3}
