"""Knowledge store: word problems that a teacher writes and solves itself, of training problems alone.

It writes each behind a few training problems and soft prompts (Lester et al. 2021, arXiv 2104.08691), which are tuned
first to make training problems likely, then by REINFORCE, while it writes, to the reward

    1[its steps are right] - diversity * largest TF-IDF cosine to a text that is kept

What is kept has right steps, repeats nothing that is kept, and is no problem of the test.
"""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PromptTuningConfig, get_peft_model
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from response_priming import artifacts, problems, prompts, provenance
from response_priming.engines.transformers import TransformersEngine
from response_priming.errors import InputError
from response_priming.extraction import right_answer
from response_priming.methods import steps
from response_priming.methods.base import Method, note
from response_priming.methods.leaks import leaks, require_none
from response_priming.methods.live_teacher import opened
from response_priming.methods.losses import IGNORED
from response_priming.problems import Problem

if TYPE_CHECKING:
    from response_priming import params
    from response_priming.engines import Response

FILE = "knowledge.jsonl"  # problems in GSM8K's form
ASK = "Write a word problem and solve it."
ROUND = 32  # texts that are written behind the same examples
TOGETHER = 8  # texts in one backward pass
NUMBER = r"\d+(?:\.\d+)?"
LENGTH = 3  # of a text, in responses' budgets: a question takes about twice the tokens of its solution


class Informed(Method):
    """A method with a knowledge store."""

    live: ClassVar[bool] = True
    written: float = Field(1.0, gt=0, description="texts that the teacher writes, for each train problem")
    shown: int = Field(4, ge=1, description="train problems that it is shown before each text")
    soft_tokens: int = Field(20, ge=1, description="virtual tokens of the soft prompt")
    temperature: float = Field(0.5, gt=0, description="of its writing")
    soft_rate: float = Field(0.02, gt=0, description="learning rate of the soft prompt")
    tune_steps: int = Field(10, ge=0, description="steps in which train problems are made likely")
    reinforce_steps: int = Field(
        2, ge=0, description="rounds of writing, the first ones, after which it follows rewards"
    )
    diversity: float = Field(0.5, ge=0, description="what a text loses that equals one that is kept")

    @property
    def knowledge(self) -> Path:
        """The folder of the store, which the method shares with its controls."""
        assert self.run.method is not None
        return self.run.output.parent / str(self.run.method["name"]) / "knowledge"

    @cached_property
    def entries(self) -> list[Problem]:
        """What the store holds; `InputError` where that is not made, or a problem of the test."""
        artifacts.read(self.knowledge)
        rows = enumerate(problems.read_jsonl(self.knowledge / FILE))
        found = [Problem(f"knowledge-{number}", row["question"], row["answer"], "") for number, row in rows]
        test = problems.load(self.run, "test", self.run.n_test, seed=self.run.seed)
        require_none(found, test, artifacts.part_of(self.knowledge))
        return found

    def prepare(self) -> list[Path]:
        """See `Method.prepare`."""
        live = self._teacher
        parameters = {key: value for key, value in live.shaping.items() if key != "strategy"} | provenance.content(live)
        parameters |= self.model_dump(include=set(Informed.model_fields)) | {"n_test": self.run.n_test}
        parameters |= {"train_batch": self.run.train_batch}
        recipe = artifacts.decided_by("related", parameters, [], code=["methods.knowledge"])
        return [artifacts.made(self.knowledge, recipe | {"version": [self.version]}, self._write)]

    @property
    def _teacher(self) -> "params.GenerateRun":
        assert self.run.live is not None
        return self.run.live

    def _write(self, aside: Path) -> None:
        live, batch = self._teacher, self.run.train_batch
        asked = problems.load(live, "train", live.n_train, seed=live.seed)
        test = problems.load(self.run, "test", self.run.n_test, seed=self.run.seed)
        teacher = SoftPrompted(live, self.soft_tokens, self.soft_rate, self.temperature)

        def drawn(what: str, step: int) -> tuple[list[int], list[list[int]]]:
            """The prompt of a step, and other train problems as the teacher would write them."""
            some = random.Random(f"{live.seed}-{what}-{step}").sample(asked, min(self.shown + batch, len(asked)))
            return teacher.prompt(some[: self.shown]), [teacher.text(one) for one in some[-batch:]]

        for step in range(self.tune_steps):
            prompt, texts = drawn("tune", step)
            teacher.step(prompt, texts, [1.0] * len(texts))
        wanted, kept, counts = math.ceil(self.written * len(asked)), dict[str, Problem](), Counter[str]()
        for step, first in enumerate(range(0, wanted, ROUND)):
            prompt, _ = drawn("write", step)
            given = teacher.write(prompt, min(ROUND, wanted - first), step)
            found = [parsed(f"knowledge-{first + place}", one.text) for place, one in enumerate(given)]
            if step < self.reinforce_steps:
                near = likeness([one.text for one in given], [written(one) for one in kept.values()])
                rewards = np.array([one is not None for one in found]) - self.diversity * near
                better = (rewards - rewards.mean()).tolist()
                teacher.step(prompt, [one.tokens for one in given], better, temperature=self.temperature)
            right = [one for one in found if one is not None]
            leaking = set(leaks(right, test))
            counts.update(right=len(right), leaks=len(leaking))
            for one in right:
                if one.id not in leaking:
                    kept.setdefault(problems.plain(one.question), one)
        if not kept:
            raise InputError(
                f"{artifacts.part_of(self.knowledge)}: of {wanted} texts of {live.teacher} {counts['right']} have "
                f"right steps, {counts['leaks']} of which the test asks; allowed: a teacher that writes problems"
            )
        rows = [json.dumps({"question": one.question, "answer": one.solution}) for one in kept.values()]
        (aside / FILE).write_text("\n".join(rows) + "\n", encoding="utf-8")
        shares = {"kept of written": len(kept) / wanted, "right steps": counts["right"] / wanted}
        note(aside, teacher.spent, leaks=counts["leaks"], numbers=shares)


class SoftPrompted:
    """A teacher behind virtual tokens, which alone are trained.

    To write behind them they are put into its embedding, as tokens after the last one, so that its engine reads them as
    any others. They begin as the words of `ASK`.
    """

    def __init__(self, live: "params.GenerateRun", count: int, rate: float, temperature: float) -> None:
        self.live, self.temperature, self.engine = live, temperature, opened(live)
        self.base = cast("Any", self.engine.model.requires_grad_(False))
        self.tokenizer = self.engine.tokenizer
        begin = self.base.get_input_embeddings().num_embeddings
        self.virtual = list(range(begin, begin + count))
        self.base.resize_token_embeddings(begin + count, mean_resizing=False)
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count)
        self.model: Any = get_peft_model(self.base, config).eval()
        words = prompts.encode_plain(self.tokenizer, ASK)
        (soft,) = (weight for weight in self.model.parameters() if weight.requires_grad)
        with torch.no_grad():
            soft.copy_(self.base.get_input_embeddings().weight[[words[n % len(words)] for n in range(count)]])
        self.optimizer = torch.optim.AdamW([soft], lr=rate, weight_decay=0)
        self.spent = Counter[str]()

    def prompt(self, shown: Sequence[Problem]) -> list[int]:
        """What asks it for a text, in tokens: problems as it would write them, and the request."""
        turns = [{"role": "system", "content": self.live.system_prompt}]
        for one in shown:
            turns += [{"role": "user", "content": ASK}, {"role": "assistant", "content": written(one)}]
        return prompts.encode(self.tokenizer, [*turns, {"role": "user", "content": ASK}], self.live.prompt_date)

    def text(self, problem: Problem) -> list[int]:
        """A problem as it would write it, in tokens."""
        return prompts.encode_response(self.tokenizer, written(problem))

    def logprobs(self, prompt: list[int], texts: Sequence[list[int]], *, temperature: float) -> Tensor:
        """Log-probability of each token of texts behind a prompt, which is read once, [texts, n]; 0 where padded."""
        device = self.model.device
        read = self.model(input_ids=torch.tensor([prompt[:-1]], device=device), use_cache=True, logits_to_keep=1)
        read.past_key_values.batch_repeat_interleave(len(texts))
        labels = pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=IGNORED).to(
            device
        )
        first = labels.new_full((len(texts), 1), prompt[-1])
        ids = torch.cat([first, labels[:, :-1].clamp(min=0)], dim=1)
        logits = self.base(input_ids=ids, past_key_values=read.past_key_values).logits[..., : self.engine.vocabulary]
        self.spent["teacher_read"] += len(self.virtual) + len(prompt) + int((labels != IGNORED).sum())
        said = logits.float().mT / temperature
        return -F.cross_entropy(said, labels, ignore_index=IGNORED, reduction="none")

    def step(
        self, prompt: list[int], texts: Sequence[list[int]], weights: Sequence[float], *, temperature: float = 1
    ) -> None:
        """Move the virtual tokens to where each text is likelier, as far as its weight says: the mean over tokens.

        Gradients of a few texts at once are added up, for their logits take the memory.
        """
        self.optimizer.zero_grad()
        for start in range(0, len(texts), TOGETHER):
            some = slice(start, start + TOGETHER)
            said = self.logprobs(prompt, texts[some], temperature=temperature).sum(-1)
            loss = -(said.new_tensor(weights[some]) * said).sum() / sum(map(len, texts))
            cast("Any", loss).backward()
        self.optimizer.step()

    def write(self, prompt: list[int], count: int, step: int) -> "list[Response]":
        """So many texts behind a prompt; they depend on the seed of the problems and the step."""
        with torch.no_grad():
            self.base.get_input_embeddings().weight[self.virtual] = self.model.get_prompt(batch_size=1)[0].to(
                self.base.dtype
            )
        # A new one: what the last one read before was behind other virtual tokens.
        engine = TransformersEngine(self.base, self.tokenizer, batch=self.live.generate_batch)
        asked, seed = [self.virtual + prompt] * count, random.Random(f"{self.live.seed}-{step}").getrandbits(31)
        budget = LENGTH * self.live.response_tokens
        given = dict(engine.respond(asked, max_tokens=budget, temperature=self.temperature, seed=seed))
        self.spent["teacher_read"] += len(asked[0])
        self.spent["teacher_generated"] += sum(len(one.tokens) for one in given.values())
        return [given[place] for place in range(count)]


def written(problem: Problem) -> str:
    """A problem as the teacher is to write it: the question in one line, then the solution."""
    return f"{' '.join(problem.question.split())}\n{problem.worked}"


def parsed(name: str, text: str) -> Problem | None:
    """The problem that the teacher wrote, or None.

    Its solution has steps, all right, which compute with numbers of the question or earlier results, and the answer is
    the last result.
    """
    question, _, solution = text.strip().partition("\n")
    worked, _, answer = solution.rpartition("####")
    results = re.findall(rf"=\s*[$€£]?({NUMBER})", worked.replace(",", ""))
    known = {str(Fraction(number)) for number in [*re.findall(NUMBER, question.replace(",", "")), *results]}
    verdicts, (operands, _) = steps.check(worked), steps.operations(worked)
    if not (verdicts and all(verdicts) and results and known.issuperset(operands)):
        return None
    last = right_answer(results[-1])
    return Problem(name, question, solution, last) if last and right_answer(f"#### {answer}") == last else None


def likeness(texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
    """The largest cosine of each text to one of the others, [texts]; 0 where there are none.

    Of TF-IDF over words (see `problems.plain`): counts times 1 + ln((1 + all) / (1 + with the word)).
    """
    if not others:
        return np.zeros(len(texts))
    counts = [Counter(problems.plain(text).split()) for text in (*texts, *others)]
    words = sorted(set().union(*counts))
    table = np.array([[count[word] for word in words] for count in counts], float)
    table *= 1 + np.log((1 + len(table)) / (1 + (table > 0).sum(0)))
    table /= np.linalg.norm(table, axis=1, keepdims=True).clip(min=1e-12)
    return np.asarray((table[: len(texts)] @ table[len(texts) :].T).max(1))
