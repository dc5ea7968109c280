"""Selection of training data by reinforcement: a policy that is taught by what its choice does for a student."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from response_priming.methods import base, examples

if TYPE_CHECKING:
    from response_priming import params
    from response_priming.methods.examples import Example, Examples


class Learnt(NamedTuple):
    """A policy: `weights` [features], `chances` [candidates] of being kept, and the `rewards` of its episodes."""

    weights: NDArray[np.float64]
    chances: NDArray[np.float64]
    rewards: list[float]


def reinforced(
    features: NDArray[np.float64],
    reward: Callable[[NDArray[np.bool_]], float],
    *,
    episodes: int,
    rate: float,
    room: int,
    seed: int,
) -> Learnt:
    """The policy that a reward teaches, by REINFORCE (see `l2a`).

    Args:
        features: [candidates, features], in standard deviations from their means.
        reward: of the candidates that are kept, [candidates].
        room: how many an episode trains on: candidates after so many have no part in it.
    """
    weights, baseline, rewards = np.zeros(features.shape[1]), 0.0, list[float]()
    for episode in range(episodes):
        chances = scipy.special.expit(features @ weights)
        drawn = np.random.default_rng([seed, episode]).random(len(chances)) < chances
        reached = np.cumsum(drawn) - drawn < room
        kept = drawn & reached
        rewards.append(reward(kept))
        # The first reward has none before it: it is its own baseline, and changes nothing.
        baseline = baseline if episode else rewards[0]
        scores = (kept - chances)[reached] @ features[reached]
        weights = weights + rate * (rewards[-1] - baseline) * scores
        baseline += (rewards[-1] - baseline) / (episode + 1)
    return Learnt(weights, scipy.special.expit(features @ weights), rewards)


class Trials:
    """Short trainings of the undistilled student on candidates, each from the same weights on, without dropout."""

    def __init__(self, method: base.Method, data: "params.DistillRun") -> None:
        self.method, self.run = method, method.run
        with torch.random.fork_rng():
            torch.manual_seed(self.run.seed)
            self.model, tokenizer = method.student()
        self.model.eval()
        prepared = examples.prepare(data, tokenizer)
        self.examples, self.gold = prepared.items.examples, prepared.validation["gold"]
        self.pad = int(cast("int", tokenizer.pad_token_id))
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.start = [weight.detach().clone() for weight in self.trained]
        self.before = self.loss()

    def batch(self, rows: "Sequence[Example]") -> dict[str, Any]:
        """Examples as the student reads them."""
        made = examples.collate(rows, self.pad)
        return {key: part if key == "problem_ids" else part.to(self.model.device) for key, part in made.items()}

    @torch.no_grad()
    def read(self, some: "Examples", places: Sequence[int]) -> NDArray[np.float64]:
        """The student's loss, its KL divergence from the teacher, both in nats a token, and the length, [places, 3]."""
        plain, rows = base.Method(self.run.model_copy(update={"divergence": "forward-kl", "kd_temperature": 1.0})), []
        for part in parts(places, self.run.micro_batch):
            batch = self.batch([some[place] for place in part])
            loss, tokens = plain.loss(self.model, batch), examples.targets(batch)[0].sum(-1)
            means = loss.hard.sum(-1) / tokens, loss.soft.sum(-1) / tokens, tokens
            rows.append(torch.stack([one.double() for one in means], -1).cpu().numpy())
        return np.concatenate(rows)

    @torch.no_grad()
    def loss(self) -> float:
        """Cross-entropy on the solutions of held-out train problems, in nats a token."""
        total = tokens = 0.0
        for part in parts(range(len(self.gold)), self.run.micro_batch):
            batch = self.batch([self.gold[place] for place in part])
            total += float(self.method.loss(self.model, batch).hard.sum())
            tokens += int(examples.targets(batch)[0].sum())
        return total / tokens

    def gain(self, some: "Examples", places: Sequence[int], kept: NDArray[np.bool_], *, steps: int) -> float:
        """How much lower that is after the steps on the kept ones of some places, which take turns in their order."""
        run, chosen_places = self.run, list(itertools.compress(places, kept))
        optimizer = torch.optim.AdamW(self.trained, lr=run.learning_rate, weight_decay=run.weight_decay)
        turn = itertools.cycle(chosen_places)
        for _ in range(steps if chosen_places else 0):
            rows = [some[place] for place in itertools.islice(turn, run.train_batch)]
            hard, soft = (max(int(wanted.sum()), 1) for wanted in examples.targets(self.batch(rows)))
            for part in parts(rows, run.micro_batch):
                loss = self.method.loss(self.model, self.batch(part), hard_tokens=hard, soft_tokens=soft)
                torch.autograd.backward(loss.total)
            optimizer.step()
            optimizer.zero_grad()
        after = self.loss()
        for weight, was in zip(self.trained, self.start, strict=True):
            weight.data.copy_(was)
        return self.before - after


def chosen(chances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """What is kept: chances above a half; where none is, the half of the candidates with the highest ones."""
    if (chances > 0.5).any():
        return chances > 0.5
    kept = np.zeros(len(chances), bool)
    kept[np.argsort(-chances, kind="stable")[: math.ceil(len(chances) / 2)]] = True
    return kept


def parts(some: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Some things in order, `size` at a time."""
    return (some[start : start + size] for start in range(0, len(some), size))
