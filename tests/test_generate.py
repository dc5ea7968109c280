import numpy as np
import pandas as pd
import pytest
import tiny

from response_priming import engines, generate, models, params, priming, problems, transformers_engine

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

    def respond(_, prompts, *, max_tokens, top_k=0):  # noqa: ARG001
        given.extend(tiny.tokenizer().decode(prompt) for prompt in prompts)
        signal = np.zeros((1, top_k))
        yield from (
            (index, engines.Response([1], "a", False, signal, signal, signal[:, 0])) for index in range(len(prompts))
        )

    monkeypatch.setattr(transformers_engine.TransformersEngine, "respond", respond)
    generate.answer(run)
    return given


def test_every_train_problem_is_answered_once(run):
    answered = generate.answer(run)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    assert sorted(answered["problem_id"]) == sorted(problem.id for problem in asked)
    assert answered["tokens"].map(len).between(1, 5).all()
    assert {signal.shape[1] for signal in answered["top_ids"]} == {3}


def test_each_answer_is_the_models_to_its_own_prompt(run):
    answered = generate.answer(run).set_index("problem_id")
    model, tokenizer = models.load(run.teacher, dtype="float32", device="cpu")
    examples = problems.load(run, "validation", 2, seed=run.seed)
    prefix = priming.prefix_of("teacher")
    for problem in problems.load(run, "train", run.n_train, seed=run.seed):
        chat = priming.messages(problem.question, system_prompt=run.system_prompt, prefix=prefix, examples=examples)
        prompt = priming.encode(tokenizer, chat)
        ((_, response),) = transformers_engine.TransformersEngine(model, tokenizer, batch=1).respond(
            [prompt], max_tokens=5
        )
        assert list(answered.loc[problem.id, "tokens"]) == response.tokens
        assert answered.loc[problem.id, "text"] == response.text
        assert answered.loc[problem.id, "prompt_tokens"] == len(prompt)


def test_plain_pandas_reads_the_shards(run):
    generate.answer(run)
    shards = sorted((run.output / "responses" / "teacher").glob("*.parquet"))
    assert [len(pd.read_parquet(shard)) for shard in shards] == [4, 2]
    rows = pd.concat(map(pd.read_parquet, shards))
    assert (rows["top_logprobs"].map(len) == 3 * rows["tokens"].map(len)).all()


def test_prompts_carry_the_prefix_and_the_worked_examples(run, prompts):
    prefix, examples = priming.prefix_of("teacher"), problems.load(run, "validation", 2, seed=run.seed)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    for prompt, problem in zip(prompts, asked, strict=True):
        assert prompt.startswith(f"system: {run.system_prompt}\nuser: {prefix}{examples[0].question}\n")
        assert all(f"assistant: {example.worked}\n" in prompt for example in examples)
        assert prompt.endswith(f"user: {prefix}{problem.question}\nassistant: ")
        assert prompt.count(prefix) == 3


def test_a_second_call_generates_nothing(run, no_engine):
    first = generate.answer(run)
    no_engine()
    assert (
        generate.answer(run)
        .drop(columns=["tokens", "top_ids", "top_logprobs"])
        .equals(first.drop(columns=["tokens", "top_ids", "top_logprobs"]))
    )


def test_the_batch_and_the_test_set_change_no_response(run, no_engine):
    generate.answer(run)
    no_engine()
    generate.answer(run.model_copy(update={"generate_batch": 1, "n_test": 3}))


@pytest.mark.parametrize("change", [{"response_tokens": 4}, {"seed": 1}, {"worked_examples": 1}, {"top_k": 2}])
def test_other_parameters_generate_again(run, no_engine, change):
    generate.answer(run)
    no_engine()
    with pytest.raises(pytest.fail.Exception, match="generated again"):
        generate.answer(run.model_copy(update=change))


def test_a_changed_prefix_generates_again(run, monkeypatch):
    before = generate.answer(run)["prompt_tokens"]
    changed = params.strategies() | {"teacher": params.strategies()["teacher"] | {"prefix": "Think. "}}
    monkeypatch.setattr(params, "strategies", lambda: changed)
    assert (generate.answer(run)["prompt_tokens"] < before).all()


def test_without_worked_examples_the_question_stands_alone(make_run):
    run = make_run("generate", strategy="none", **SIZES | {"worked_examples": 0})
    answered = generate.answer(run).set_index("problem_id")
    problem = problems.load(run, "train", 1, seed=run.seed)[0]
    prompt = priming.encode(tiny.tokenizer(), priming.bare(problem.question, run.system_prompt))
    assert answered.loc[problem.id, "prompt_tokens"] == len(prompt)
