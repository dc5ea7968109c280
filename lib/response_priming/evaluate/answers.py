"""Stage evaluate: one arm's student answers the test problems, and every extraction rule scores the answers.

All arms get the same bare question, zero-shot and decoded greedily, and the same budget of tokens: neither the prefix
nor the worked examples that the teacher saw. So arms differ in how the student was made and in nothing else, but for
one, which shows what the examples do without any training: the undistilled student that sees them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from response_priming import arms, artifacts, engines, problems, progress, prompts
from response_priming.evaluate.verdicts import fix
from response_priming.methods import steps
from response_priming.methods.base import method_of
from response_priming.scoring import grade

if TYPE_CHECKING:
    from response_priming import params

# Problems asked together. What stands beside a prompt moves its numbers in the last digit, so it must not depend on how
# many workers there are; a block is some times a batch, since places that are free at its end stay empty.
BLOCK = 256


def answer(run: "params.EvaluateRun") -> pd.DataFrame:
    """The answers of the arm's students, one row a test problem and seed; computed unless they are there already.

    Rows are in the order of seeds, then problems. Columns: `seed` (of training), `problem_id`, `question`, `answer`
    (the right one), `template` (see `problems.Problem`; no column where there is none), `calculations` (how many the
    data set's solution has), `response`, `tokens` (its length, end-of-sequence token included), `finished` (ended
    within the budget), `mean_logprob` (of its tokens), and for each rule RULE what it extracted, `RULE`, and whether
    that is right, `RULE-correct`. Where the engine failed at a problem whatever was tried, its answer is empty, and
    a column `set_aside` says why.

    Raises:
        InputError: the arm's student is not trained yet; said before any model is loaded.
    """
    if run.output == run.build:
        fix(run)
    seeds = run.seeds_of(run.arm)
    return pd.concat([answer_one(run, seed).assign(seed=seed) for seed in seeds], ignore_index=True)


def answer_one(run: "params.EvaluateRun", seed: int) -> pd.DataFrame:
    """The answers of the student with this seed (see `answer`)."""
    answers, scores = (folder for folder in run.folders if folder.path.name == f"seed-{seed}")

    def respond(aside: Path) -> None:
        asked = problems.load(run, "test", run.n_test, seed=run.seed)
        with progress.part("seed", seed, run.seeds_of(run.arm)):
            student = None if run.arm in arms.UNTRAINED else run.student_of(run.arm, seed)
            given = answers_to(asked, run, student)
        given.to_parquet(aside / "answers.parquet", index=False)

    def score(aside: Path) -> None:
        grade(pd.read_parquet(given / "answers.parquet")).to_parquet(aside / "answers.parquet", index=False)

    given = artifacts.made(answers.path, artifacts.recipe(run, answers), respond)
    return pd.read_parquet(artifacts.made(scores.path, artifacts.recipe(run, scores), score) / "answers.parquet")


def answers_to(asked: list[problems.Problem], run: "params.EvaluateRun", student: Path | None) -> pd.DataFrame:
    """What the student in a folder answers (see `answer`), not graded; without a folder, the undistilled student."""
    setup = engines.Setup(
        *(run.student, run.student_revision, run.dtype, run.device),
        student=student,
        batch=run.evaluate_batch,
        replica_engine=run.replica_engine,
        replicas=run.replicas,
    )
    return answers_by(engines.open_engine(run.evaluate_engine, setup), asked, run)


def answers_by(engine: engines.Engine, asked: list[problems.Problem], run: "params.EvaluateRun") -> pd.DataFrame:
    """What an engine's model answers (see `answer`), not graded."""
    sees = run.worked_examples if run.arm == arms.SHOWN else 0
    shown = problems.load(run, "validation", sees, seed=run.seed) if sees else []
    if sees:
        chats = [prompts.messages(one.question, system_prompt=run.system_prompt, examples=shown) for one in asked]
    else:
        method = method_of(run)
        chats = [method.prompt(one) for one in asked]
    asked_as = [prompts.encode(engine.tokenizer, chat, run.prompt_date) for chat in chats]
    blocks = (asked_as[first : first + BLOCK] for first in range(0, len(asked_as), BLOCK))
    requests = (engines.Request(block, max_tokens=run.answer_tokens, top_k=1) for block in blocks)
    with progress.Bar(len(asked_as), "answer") as bar:
        answered = engines.counted(engine.respond_to(requests), bar)
        given = {number * BLOCK + index: response for number, index, response in answered}
    rows = []
    for index, problem in enumerate(asked):
        response = given[index]
        assert response.signal is not None, "asked for with top_k=1"
        if response.failed:
            progress.say(f"{problem.id}: set aside, the engine fails at it: {response.failed}")
        # Greedy decoding takes the most likely token each time.
        logprobs = response.signal.top_logprobs[:, 0].astype(np.float32)
        rows.append(
            {
                "problem_id": problem.id,
                "question": problem.question,
                "answer": problem.answer,
                "template": problem.template,
                "calculations": len(steps.check(problem.solution)),
                "response": response.text,
                "tokens": len(response.tokens),
                "finished": response.finished,
                "mean_logprob": float(logprobs.mean()) if len(logprobs) else np.nan,
                "set_aside": response.failed,
            }
        )
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in ("template", "set_aside") if table[name].isna().all()])
