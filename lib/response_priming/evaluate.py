"""Stage evaluate: one arm's student answers the test problems, and every extraction rule scores the answers.

All arms get the same bare question, zero-shot and decoded greedily, and the same budget of tokens: neither the prefix
nor the worked examples that the teacher saw. So arms differ in how the student was made and in nothing else.
"""

from pathlib import Path

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from response_priming import engines, manifest, models, params, priming, problems
from response_priming.extraction import RULES, same_number


def answer(run: params.EvaluateRun) -> pd.DataFrame:
    """The answers of the arm's students, one row a test problem and seed; computed unless they are there already.

    Rows are in the order of seeds, then problems. Columns: `seed` (of training), `problem_id`, `question`, `answer`
    (the right one), `response`, `tokens` (its length, end-of-sequence token included), `finished` (ended within the
    budget), and for each rule RULE what it extracted, `RULE`, and whether that is right, `RULE-correct`.

    Raises:
        InputError: the arm's student is not trained yet; said before any model is loaded.
    """
    seeds = run.seeds_of(run.arm)
    return pd.concat([answer_one(run, seed).assign(seed=seed) for seed in seeds], ignore_index=True)


def answer_one(run: params.EvaluateRun, seed: int) -> pd.DataFrame:
    """The answers of the student with this seed (see `answer`)."""
    folder = run.output / "scores" / run.arm / f"seed-{seed}"
    adapter = None if run.arm == params.UNDISTILLED else run.adapter_of(run.arm, seed)
    # The headline's rule is left out because every rule's verdict is stored; the path, because `data` has the content.
    recipe = manifest.recipe(
        "evaluate",
        run.model_dump(exclude={"profile", "seeds", "rule", "n_train", "data_dir"})
        | {"data": problems.fingerprint(run), "weights": models.fingerprint(run.student, run.student_revision)},
        [adapter] if adapter else [],
        code="evaluate",
    )
    if not manifest.is_current(folder, recipe):
        with manifest.writing(folder, recipe) as aside:
            _answer(run, adapter).to_parquet(aside / "answers.parquet", index=False)
    return pd.read_parquet(folder / "answers.parquet")


def _answer(run: params.EvaluateRun, adapter: Path | None) -> pd.DataFrame:
    return answers_to(problems.load(run, "test", run.n_test, seed=run.seed), run, adapter)


def answers_to(asked: list[problems.Problem], run: params.EvaluateRun, adapter: Path | None) -> pd.DataFrame:
    """A student's graded answers to some problems (see `answer`); without an adapter, the undistilled student's."""
    engine = _engine(run, adapter)
    prompts = [priming.encode(engine.tokenizer, priming.bare(problem.question, run.system_prompt)) for problem in asked]
    return grade(_table(asked, dict(engine.respond(prompts, max_tokens=run.answer_tokens))))


def _engine(run: params.EvaluateRun, adapter: Path | None) -> engines.Engine:
    return engines.open_engine(
        run.evaluate_engine,
        engines.Setup(
            run.student,
            revision=run.student_revision,
            dtype=run.dtype,
            device=run.device,
            adapter=adapter,
            batch=run.evaluate_batch,
        ),
    )


def _table(asked: list[problems.Problem], given: dict[int, engines.Response]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "problem_id": problem.id,
            "question": problem.question,
            "answer": problem.answer,
            "response": given[index].text,
            "tokens": len(given[index].tokens),
            "finished": given[index].finished,
        }
        for index, problem in enumerate(asked)
    )


def grade(answers: pd.DataFrame) -> pd.DataFrame:
    """The table with two columns more for each rule: what it extracts from `response`, and whether that is `answer`."""
    graded = answers.copy()
    for rule, extract in RULES.items():
        extracted = [extract(response) for response in answers["response"]]
        graded[rule] = pd.Series(extracted, index=answers.index, dtype="str")
        graded[f"{rule}-correct"] = [
            same_number(number, right) for number, right in zip(extracted, answers["answer"], strict=True)
        ]
    return graded


def grade_teacher(answered: pd.DataFrame, asked: list[problems.Problem]) -> pd.DataFrame:
    """A teacher's responses (see `responses.read`) as a graded table; `asked` are the problems they answer."""
    right = {problem.id: problem.answer for problem in asked}
    answers = answered.rename(columns={"text": "response"})
    return grade(answers.assign(answer=answers["problem_id"].map(right), tokens=answers["tokens"].map(len)))


def summary(answers: pd.DataFrame, rule: str) -> dict[str, float]:
    """One arm by one rule, from a graded table.

    `n`; `correct`; `accuracy` with `low` and `high`, its 95 % Wilson interval; the shares `answered` (the rule found a
    number) and `finished`; `mean_tokens`; `accuracy_answered`, the accuracy where a number was found (NaN without any).
    """
    n, correct = len(answers), int(answers[f"{rule}-correct"].sum())
    answered = answers[rule].notna()
    low, high = proportion_confint(correct, n, alpha=0.05, method="wilson")
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        # Where all are wrong or all right, rounding can leave the accuracy just outside its interval.
        "low": min(float(low), correct / n),
        "high": max(float(high), correct / n),
        "answered": float(answered.mean()),
        "finished": float(answers["finished"].mean()),
        "mean_tokens": float(answers["tokens"].mean()),
        "accuracy_answered": float(answers.loc[answered, f"{rule}-correct"].mean()),
    }
