"""Tokens of a profile's texts on average, from their characters, without any tokenizer."""

from dataclasses import dataclass
from statistics import fmean
from typing import Self

from response_priming import arms, params, problems

# Characters a token, of questions and of solutions (measured on GSM8K with the embedded model's tokenizer); tokens that
# a chat template adds to each turn, and to a prompt.
PER_TOKEN, TURN, HEAD = (3.9, 2.3), 5, 40
GSM8K = (235, 288)  # mean characters of its questions and solutions


@dataclass(frozen=True)
class Texts:
    """Mean tokens of a question, with what makes a turn of it, of a solution, and of the system prompt."""

    question: float
    solution: float
    system: float

    @classmethod
    def of(cls, profile: params.Profile) -> Self:
        """A profile's; of GSM8K, where it is not at hand, as measured."""
        source = profile.problems
        if source.dataset == "gsm8k" and source.data_dir is None:
            characters: tuple[float, float] = GSM8K
        else:
            some = problems.some(source, "train", min(100, source.n_train), seed=profile.seed)
            characters = (fmean(len(one.question) for one in some), fmean(len(one.worked) for one in some))
        question, solution = (count / each for count, each in zip(characters, PER_TOKEN, strict=True))
        return cls(TURN + question, solution, HEAD + len(profile.model.system_prompt) / PER_TOKEN[0])

    def beginning(self, strategy: str | None = None, examples: int = 0) -> float:
        """Tokens that all prompts begin with: the system prompt, worked examples, and each turn's prefix."""
        prefix = len(arms.strategies()[strategy]["prefix"]) / PER_TOKEN[0] if strategy else 0.0
        return self.system + prefix + examples * (prefix + self.question + TURN + self.solution)
