"""Notebook doctor: is each student what its training should have made of it, and why does it lose to fine-tuning?

A check takes what the run wrote and a few forward passes of plain transformers and PEFT, and sets a number beside its
healthy range. Where one is not healthy it names a fault, something that broke, or a limit (`weak-teacher`, `outside`),
which a student cannot get past; report/doctor.yaml has the words. Arms that are faulty on purpose (`shuffled`,
`published-`) are left out.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from response_priming import arms, artifacts, generate, models, problems, progress, prompts
from response_priming.extraction import RULES
from response_priming.studies.first_step import Course, explain, hard, read, replay, scored
from response_priming.studies.ladder import close

if TYPE_CHECKING:
    from response_priming import params

FEW = 8  # responses that the teacher reads behind all its worked examples
SOME, BEGINNING = 16, 24  # answers that a student gives again, and how much of each (tokens)


class Look(NamedTuple):
    """What a check saw: its `value`, healthy from `low` to `high`, and what it is a sign of (`finding`) elsewhere.

    NaN, which could not be looked at, is healthy. The names are those in report/doctor.yaml.
    """

    check: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    finding: str = ""

    @property
    def found(self) -> str:
        """The finding, or "" where the value is healthy."""
        return self.finding if self.value < self.low or self.value > self.high else ""


def examine(run: "params.DoctorRun") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Look at every student of the run, and train what is between KD and fine-tuning, unless that is done already.

    Returns the checks, a `Look` each with `arm` and `seed`, and the rungs (see `ladder.close`), none where the run
    wants none.

    Raises:
        InputError: a student, its answers or its teacher's responses are missing.
    """
    made = run.folders[0]
    folder = artifacts.made(made.path, artifacts.recipe(run, made), functools.partial(_write, run))
    options: dict[str, Any] = {"keep_default_na": False, "na_values": {"value": [""], "points": [""]}}
    checks, rungs = (pd.read_csv(folder / f"{name}.csv", **options) for name in ("checks", "rungs"))
    return checks, rungs


def _write(run: "params.DoctorRun", folder: Path) -> None:
    options: dict[str, Any] = {"dtype": run.dtype, "device": run.device}
    bare, tokenizer = models.load(run.student, revision=run.student_revision, **options)
    teacher: Any = bare
    if (run.teacher, run.teacher_revision, run.teacher_quantization) != (run.student, run.student_revision, "none"):
        about: dict[str, Any] = {"revision": run.teacher_revision, "quantization": run.teacher_quantization}
        teacher = None if run.engine == "server" else models.load(run.teacher, **about, **options)[0]
    looked_at = [arm for arm in run.arms if arm not in (*arms.UNTRAINED, arms.SHUFFLED)]
    looked_at = [arm for arm in looked_at if not arm.startswith(arms.RELEASED)]
    rows = [] if teacher is None else [("", run.seeds[0], _bare_teacher(run, teacher, tokenizer))]
    for arm, seed in product(looked_at, run.seeds):
        with progress.part("student", (arm, seed), list(product(looked_at, run.seeds))):
            course, looks = Course.of(run, arm, seed, tokenizer), list[Look]()
            if course.responses is not None and seed == run.seeds[0]:
                looks += _responses(course, bare)
                if teacher is not None and "vocabulary" not in {look.found for look in looks}:
                    looks += _likelihoods(course, teacher)
            looks += (trained := list(_training(course)))
            looks += _student(course, bare, understood=not any(look.found for look in trained))
            rows += [(arm, seed, look) for look in looks]
    checks = [{"arm": arm, "seed": seed, **look._asdict(), "finding": look.found} for arm, seed, look in rows]
    pd.DataFrame(checks).to_csv(folder / "checks.csv", index=False)
    rungs = close(run) if run.doctor_rungs else pd.DataFrame(columns=["rung"])
    rungs.to_csv(folder / "rungs.csv", index=False)


def _bare_teacher(run: "params.DoctorRun", teacher: Any, tokenizer: Any) -> Look:
    """How often the teacher is right where it is asked as its students are."""
    asked = problems.load(run, "train", min(run.n_train, run.generate_batch), seed=run.seed)
    chats = [prompts.bare(problem.question, run.system_prompt) for problem in asked]
    encoded = [prompts.encode(tokenizer, chat, run.prompt_date) for chat in chats]
    texts = [text for text, _ in answers(teacher, tokenizer, encoded, run.response_tokens)]
    verdicts = RULES[run.rule].verdicts(texts, [problem.answer for problem in asked])
    return Look("teacher-bare", float(np.mean([right for _, right in verdicts])))


def _responses(course: Course, bare: Any) -> Iterator[Look]:
    """Checks of the responses that train, without any forward pass."""
    columns = ["problem_id", "tokens", "text", "finished"]
    run, table = course.profile, course.responses.select_columns(columns).to_pandas()
    if course.run.signal == "tokens":
        decoded = [course.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in table["tokens"]]
        # Engines differ in how they write the end of a response that was cut within a character.
        yield Look("tokens", float((table["text"] == decoded).mean()), 0.95, 1, "vocabulary")
    # From the closing token a student learns to stop; with one response in ten cut, it runs on noticeably.
    yield Look("truncated", float(1 - table["finished"].mean()), 0, 0.1, "truncated")
    ends = [ids[-1] for ids in table.loc[table["finished"], "tokens"]]
    yield Look("stops", float(pd.Series(np.isin(ends, stops(bare))).mean()), 1, 1, "stops")
    answered = [course.asked[name].answer for name in table["problem_id"]]
    verdicts, best = RULES[run.rule].verdicts(list(table["text"]), answered), 0.0
    if arms.FINE_TUNED in run.arms:
        scores = [pd.read_parquet(run.scores_of(arms.FINE_TUNED, seed) / "answers.parquet") for seed in run.seeds]
        best = float(pd.concat(scores)[f"{run.rule}-correct"].mean())
    yield Look("teacher-right", float(np.mean([right for _, right in verdicts])), best, 1, "weak-teacher")


@torch.inference_mode()
def _likelihoods(course: Course, teacher: Any) -> Iterator[Look]:
    """What the teacher thinks, behind its own prompt, of some of its responses and of the solutions."""
    assert course.run.store is not None
    stored = generate.read(course.run.store, [generate.GIVEN])
    stored = stored.loc[stored["kept"], generate.GIVEN].reset_index(drop=True)
    found = []
    for place in course.training[:FEW]:
        both = course.pairs(place)[0], course.solved(course.order[place])
        prompt = course.prompt(both[0].question, primed=True, examples=course.profile.worked_examples)
        taught, solved = (pair._replace(prompt=prompt) for pair in both)
        logprobs, outside = read(teacher, taught), 0.0
        own = -hard(logprobs, taught).mean().item()
        solution = -hard(read(teacher, solved), solved).mean().item()
        if "top_ids" in taught.signal:
            at = logprobs[len(taught.prompt) - 1 : -1]
            softened = (at / course.run.kd_temperature).softmax(-1)
            outside = 1 - softened.gather(-1, taught.signal["top_ids"].to(at.device)).sum(-1).mean().item()
        found.append((own, solution, own - np.mean(stored[place]), outside))
    own, solution, moved, outside = np.mean(found, axis=0)
    yield Look("own-likelihood", own)
    yield Look("solution-likelihood", solution)
    # Rounding and other kernels move a mean by hundredths of a nat, another prompt by tenths.
    yield Look("stored-likelihood", moved, -0.1, 0.1, "pairs")
    # Top k and one bucket for the rest are another objective than the dense one where much is in the bucket.
    yield Look("outside", outside, 0, 0.05, "outside")


def _training(course: Course) -> Iterator[Look]:
    """The logged first step against the replayed one, and which part of the loss its gradient comes from."""
    replayed = replay(course)
    logged = pd.read_parquet(course.folder / "losses.parquet").iloc[0]
    # Products in half precision, and those with 4-bit weights, differ with the order of their sums.
    wide = 0.003 if course.run.precision == "float32" and course.run.adapter != "qlora" else 0.05
    understood = True
    for part, loss in replayed.losses.items():
        # A student that reads what its teacher reads has nothing to learn from it.
        ratio = float(logged[part]) / loss if loss > 1e-4 else math.nan
        look = Look(f"{part}-loss", ratio, 1 - wide, 1 + wide, "loss" if understood else "")
        if look.found:
            understood = False
            look = look._replace(finding=explain(course, replayed, part, float(logged[part])))
        yield look
    known = understood and not course.run.lora_dropout
    ratio = float(logged["grad_norm"]) / replayed.norm if known else math.nan
    yield Look("gradient", ratio, 1 - 4 * wide, 1 + 4 * wide, "accumulation")
    yield Look("hard-share", replayed.norms["hard"] / sum(replayed.norms.values()))


def _student(course: Course, bare: Any, *, understood: bool) -> Iterator[Look]:
    """The saved student, loaded anew by plain PEFT: its loss and its answers against those that were written.

    Args:
        understood: what was logged in training is the loss that it should be.
    """
    run = course.profile
    options: dict[str, Any] = {"dtype": run.dtype, "device": run.device}
    student, _ = models.load_adapted(run.student, course.folder, revision=run.student_revision, **options)
    curve = pd.read_parquet(course.folder / "validation.parquet")
    if understood and len(curve) and course.held_out:
        (parts,) = scored(student, [course.solved(name) for name in course.held_out], [hard])
        logged = float(curve["gold_hard"].iloc[-1])
        low, high = 0.9 * logged - 0.02, 1.1 * logged + 0.02
        yield Look("reloaded", float(torch.cat(parts).mean()), low, high, "reloaded")
    given = pd.read_parquet(run.scores_of(course.run.arm, course.seed) / "answers.parquet")
    yield Look("cut", float(1 - given["finished"].mean()))
    given = given.head(SOME)

    def alike(model: Any, encoded: Sequence[list[int]]) -> float:
        again = answers(model, course.tokenizer, encoded, min(BEGINNING, run.answer_tokens))
        # The last character of a beginning may be half of one.
        pairs = zip(given["response"], again, strict=True)
        return float(
            np.mean([old == new if all_ else old.startswith(new.rstrip("\ufffd")) for old, (new, all_) in pairs])
        )

    asked = [course.prompt(question) for question in given["question"]]
    same, finding = alike(student, asked), "answers"
    if same < 0.75:
        others = zip(*map(course.others, given["question"]), strict=True)
        tried = {"adapter": alike(bare, asked), "template": max(alike(student, list(some)) for some in others)}
        finding = max(tried, key=lambda name: tried[name]) if max(tried.values()) > max(same, 0.5) else finding
    # Kernels that add in another order turn a close call now and then, another student or prompt nearly every answer.
    yield Look("answers", same, 0.75, 1, finding)


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, encoded: Sequence[list[int]], tokens: int) -> list[tuple[str, bool]]:
    """The beginning of a model's greedy answer to each prompt, and whether that is all of it."""
    batch = tokenizer.pad({"input_ids": list(encoded)}, padding_side="left", return_tensors="pt").to(model.device)
    output = model.generate(**batch, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    new = output[:, batch["input_ids"].shape[1] :]
    ended = torch.isin(new, torch.tensor(stops(model), device=new.device)).any(-1)
    return list(zip(tokenizer.batch_decode(new, skip_special_tokens=True), ended.tolist(), strict=True))


def stops(model: Any) -> list[int]:
    """The tokens that end a model's answer."""
    found = model.generation_config.eos_token_id
    return found if isinstance(found, list) else [found]
