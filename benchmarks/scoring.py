"""How fast rules read responses, and what evaluation costs beside the generation it scores.

    python benchmarks/scoring.py        writes benchmarks/results/scoring.json

Rules: responses a second on one core, extraction and verdict, median of 7 rounds; responses are of 1,000 characters,
like those of the released logs (1,027 on average), with a box in half of them. Overhead: seconds of an evaluation (its
prompts, confidences, table and all rules' verdicts) against those of the bare generation it needs, same model and
prompts, 16 problems and 48 tokens at most, in turns; the median of the ratios of 3 rounds. All times are the process's
own on the processor.
"""

import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from response_priming import models, params, problems, provenance
from response_priming import prompts as priming
from response_priming.engines import transformers
from response_priming.evaluate import answers as evaluate
from response_priming.extraction import RULES

SLOW = "math-verify"  # parses by a grammar; a regular expression it is not
TARGETS = {"responses_per_second": 20_000, "overhead": 0.05}


def responses(count: int, length: int = 1000) -> tuple[list[str], list[str]]:
    """Responses that go on after their answer until they are cut off, and the right answers."""
    choose = random.Random(0)
    texts, answers = [], []
    for number in range(count):
        first, second = choose.randint(2, 5000), choose.randint(2, 5000)
        text = f"## Step 1: Add\nShe has {first:,} + {second:,} = <<{first}+{second}={first + second}>> eggs, "
        text += rf"so the final answer is: $\boxed{{{first + second}}}$. " if number % 2 else "and so on. "
        while len(text) < length:
            text += f"She sells {choose.randint(2, 5000):,} of them for ${choose.randint(2, 99)}.50 each day. "
        texts.append(text[:length])
        answers.append(str(first + second))
    return texts, answers


def rates(rounds: int = 7, count: int = 4000) -> dict[str, int]:
    """Responses a second of each rule."""
    texts, answers = responses(count)
    found = {}
    for name, rule in RULES.items():
        part = slice(200) if name == SLOW else slice(None)
        rule.verdicts(texts[:10], answers[:10])
        seconds = [_seconds(lambda: rule.verdicts(texts[part], answers[part])) for _ in range(rounds)]  # noqa: B023
        found[name] = round(len(texts[part]) / statistics.median(seconds))
    return found


def overhead(rounds: int = 3) -> dict[str, float]:
    """Evaluation against bare generation, with the model and problems of the laptop profile."""
    run = (
        params.load("laptop").run("evaluate", arm="undistilled").model_copy(update={"n_test": 16, "answer_tokens": 48})
    )
    assert isinstance(run, params.EvaluateRun)
    asked = problems.load(run, "test", run.n_test, seed=run.seed)
    model, tokenizer = models.load(run.student, dtype=run.dtype, device=run.device)
    engine = transformers.TransformersEngine(model, tokenizer, batch=run.evaluate_batch)

    def prompts() -> list[list[int]]:
        return [priming.encode(tokenizer, priming.bare(problem.question, run.system_prompt)) for problem in asked]

    def bare() -> None:
        list(engine.respond(prompts(), max_tokens=run.answer_tokens))

    def whole() -> None:
        evaluate.answers_by(engine, asked, run)

    whole()
    pairs = [(_seconds(bare), _seconds(whole)) for _ in tqdm(range(rounds), "evaluations")]
    seconds = [statistics.median(times) for times in zip(*pairs, strict=True)]
    ratio = statistics.median(with_scores / without for without, with_scores in pairs)
    return {"generation_s": round(seconds[0], 2), "evaluation_s": round(seconds[1], 2), "overhead": round(ratio - 1, 4)}


def _seconds(work: Callable[[], object]) -> float:
    # Of this process, so that others on the machine count less.
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"responses_per_second": rates(), "evaluation": overhead(), "targets": TARGETS, **provenance.here()}
    (Path(__file__).parent / "results" / "scoring.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(found, indent=1))
