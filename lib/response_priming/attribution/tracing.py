"""Knowledge tracing, explained: an LSTM foretells a learner's next answer, and LRP says from which earlier ones.

The task of Lu et al. 2020 (arXiv 2005.06139), on learners whose truth is known because they are made up by Bayesian
knowledge tracing (Corbett & Anderson 1995): skills are independent, so nothing but the earlier steps of the asked skill
bears on the next answer. The model is that of deep knowledge tracing (Piech et al. 2015, arXiv 1506.05908).

The rule is that of LRP for LSTMs (Arras et al. 2017, arXiv 1706.07206, and their code LRP_for_LSTM). A linear layer
z = W x + b hands input i, of N, the relevance

    sum over j of (W_ji x_i + delta (b_j + eps sign z_j) / N) / (z_j + eps sign z_j) R_j

and of gate times signal the signal takes all.
"""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from response_priming import stats

SKILLS, STEPS, WIDTH = 4, 24, 32
KNOWN, LEARN, SLIP, GUESS = 0.3, 0.15, 0.1, 0.2  # probabilities; the first at the start
TAUGHT, ASKED, UPDATES, RATE = 500, 300, 100, 0.02  # learners to train and to test on; of Adam
EPSILON = 1e-3


class Learners(NamedTuple):
    """Made-up learners: `skill` that each step asks for and whether the answer is `right`, [learners, steps + 1], and
    `best`, the probability of that which who knows the generator and the earlier answers gives."""

    skill: NDArray[np.int64]
    right: NDArray[np.bool_]
    best: NDArray[np.float64]

    @property
    def seen(self) -> Tensor:
        """What the model reads of all steps but the last, one-hot, [learners, steps, skills right and then wrong]."""
        number = self.skill + SKILLS * ~self.right
        return F.one_hot(torch.from_numpy(number[:, :-1]), 2 * SKILLS).double()


def make_learners(count: int, rng: np.random.Generator) -> Learners:
    """Learners of Bayesian knowledge tracing."""
    skill, rows = rng.integers(SKILLS, size=(count, STEPS + 1)), np.arange(count)
    known, belief = rng.random((count, SKILLS)) < KNOWN, np.full((count, SKILLS), KNOWN)
    right, best = np.zeros(skill.shape, bool), np.zeros(skill.shape)
    for step, asked in enumerate(skill.T):
        knows, likely = known[rows, asked], belief[rows, asked]
        right[:, step] = rng.random(count) < np.where(knows, 1 - SLIP, GUESS)
        known[rows, asked] = knows | (rng.random(count) < LEARN)
        best[:, step] = likely * (1 - SLIP) + (1 - likely) * GUESS
        if_wrong = likely * SLIP / (1 - best[:, step])
        likely = np.where(right[:, step], likely * (1 - SLIP) / best[:, step], if_wrong)
        belief[rows, asked] = likely + (1 - likely) * LEARN
    return Learners(skill, right, best)


class Tracer(nn.Module):
    """Deep knowledge tracing: an LSTM over a learner's steps, and from its state a logit for each skill."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2 * SKILLS, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, SKILLS)
        self.double()
        generator, bound = torch.Generator().manual_seed(seed), WIDTH**-0.5
        with torch.no_grad():
            for weight in self.parameters():
                weight.uniform_(-bound, bound, generator=generator)

    def forward(self, learners: Learners) -> Tensor:
        """The logit of a right answer at each step but the first, to the skill that it asks for, [learners, steps]."""
        states, _ = self.lstm(learners.seen)
        chosen: Tensor = self.head(states).gather(-1, torch.from_numpy(learners.skill[:, 1:, None]))[..., 0]
        return chosen

    def learn(self, learners: Learners) -> None:
        """Fit the next answers."""
        right, optimizer = torch.from_numpy(learners.right[:, 1:]).double(), torch.optim.Adam(self.parameters(), RATE)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # several wait for each other longer than they sum
        try:
            for _ in range(UPDATES):
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(self(learners), right).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        finally:
            torch.set_num_threads(threads)

    @torch.no_grad()
    def relevance(self, learners: Learners, *, delta: float = 0.0) -> tuple[Tensor, Tensor]:
        """What the probability of a right answer at the last step comes from.

        Positive: speaks for the side that the model takes.

        Args:
            delta: share of biases and stabilisers that is handed down; with 1 all parts add up to the probability.

        Returns:
            the relevance of what is read, [learners, steps, 2 skills], and of the LSTM's first states, [learners].
        """
        (of_input, of_state, *biases), seen = self.lstm.all_weights[0], learners.seen
        bias: Tensor = biases[0] + biases[1]
        hidden = cell = torch.zeros(len(seen), WIDTH).double()
        kept = []
        for given in seen.unbind(1):
            i, f, signal, o = (given @ of_input.T + hidden @ of_state.T + bias).chunk(4, dim=-1)
            new, old = i.sigmoid() * signal.tanh(), f.sigmoid() * cell
            cell = new + old
            kept.append((given, hidden, signal, new, old, cell))
            hidden = o.sigmoid() * cell.tanh()
        logits, asked = self.head(hidden), F.one_hot(torch.from_numpy(learners.skill[:, -1]), SKILLS)
        down = functools.partial(_handed_down, delta=delta)
        to_hidden = down(hidden, self.head.weight, self.head.bias, logits, asked * logits.sigmoid(), WIDTH)
        # Of input, forget, signal and output, the third alone gets relevance.
        signal_of_input, signal_of_state, signal_bias = (one.chunk(4)[2] for one in (of_input, of_state, bias))
        same, units = torch.eye(WIDTH, dtype=torch.float64), WIDTH + 2 * SKILLS
        to_cell, found = torch.zeros_like(to_hidden), []
        for given, hidden, signal, new, old, cell in reversed(kept):
            to_cell = to_cell + to_hidden
            to_new = down(new, same, 0.0, cell, to_cell, 2 * WIDTH)
            to_cell = down(old, same, 0.0, cell, to_cell, 2 * WIDTH)
            found.append(down(given, signal_of_input, signal_bias, signal, to_new, units))
            to_hidden = down(hidden, signal_of_state, signal_bias, signal, to_new, units)
        return torch.stack(found[::-1], dim=1), (to_hidden + to_cell).sum(-1)


def _handed_down(
    inputs: Tensor, weight: Tensor, bias: Tensor | float, out: Tensor, relevance: Tensor, units: int, *, delta: float
) -> Tensor:
    """The relevance of the inputs of a linear layer (see this module), [learners, inputs]."""
    stabiliser = EPSILON * torch.where(out < 0, -1.0, 1.0)
    shares = relevance / (out + stabiliser)
    of_bias = ((bias + stabiliser) * shares).sum(-1, keepdim=True) / units
    return inputs * (shares @ weight) + delta * of_bias


def trace(seed: int) -> pd.DataFrame:
    """How well the next answer is foretold, and how much of what speaks for it is on steps of the asked skill.

    One row for the model as drawn and one as trained: `model`; `auc` of all next answers of new learners, and `best`,
    that of who knows the generator; `n` (learners); `share` of positive relevance on steps of the asked skill, its mean
    over learners, `control`, the same with the skills of each learner's steps permuted, and the difference `points`
    with `low` and `high`, its 95 % t-interval over learners (percentage points).
    """
    rng = np.random.default_rng([seed, SKILLS])
    taught, asked, model, rows = make_learners(TAUGHT, rng), make_learners(ASKED, rng), Tracer(seed), []
    for name in ("untrained", "trained"):
        if name == "trained":
            model.learn(taught)
        share, control = _shares(model, asked, rng)
        low, high = stats.t_interval(100 * (share - control))
        foretold, right = model(asked).numpy(force=True), asked.right[:, 1:]
        auc, best = (float(stats.auroc(said[right], said[~right])) for said in (foretold, asked.best[:, 1:]))
        row = {"model": name, "auc": auc, "best": best, "n": len(share)}
        row |= {"share": share.mean(), "control": control.mean(), "points": 100 * (share - control).mean()}
        rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def _shares(model: Tracer, learners: Learners, rng: np.random.Generator) -> tuple[NDArray[np.float64], ...]:
    """The share of positive relevance on steps of the last one's skill, and with permuted skills, of each learner who
    has any."""
    positive = model.relevance(learners)[0].sum(-1).clamp(min=0).numpy()
    same, totals = learners.skill[:, :-1] == learners.skill[:, -1:], positive.sum(1)
    found = ((positive * one).sum(1) for one in (same, rng.permuted(same, axis=1)))
    return tuple(one[totals > 0] / totals[totals > 0] for one in found)
