"""Learning to augment (L2A): a policy chooses augmented data by what they do for the student.

Feng et al. 2021 (arXiv 2101.08106, AAAI 2021) distil where there are few labelled problems of the target domain: these
are augmented with resampled and cross-domain ones, of which a selector, trained by reinforcement on the student's
performance, keeps the useful ones. Here some train problems are the target, the others the source, and candidates are
made and answered as `candidates` says. A candidate with the features f is kept with the probability

    pi = sigmoid(w . f),   w = 0 at first,

f being the teacher's mean log-probability of its response, the student's loss and its KL divergence from the teacher
there, the response's length and whether it is of a source problem, each less its mean, in standard deviations. In an
episode the undistilled student is trained for some steps on what is kept, always in the same order, so that episodes
differ by their choice alone. The reward R is the drop of its cross-entropy on the solutions of held-out train problems:

    w += rate * (R - b) * sum of (kept - pi) f over the candidates that the steps came to

(REINFORCE), b the mean of the earlier rewards, which does not have R in it. At last what has pi > 0.5 is kept; where
nothing has, the half with the highest pi. The student learns from that and the targets.

This is a reconstruction from the abstract. The paper's data, generator, features, reward, policy and tables were not to
be had, so none of its numbers is claimed. Here both domains are of one data set, so little is cross-domain about it.
"""

import copy
import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from response_priming import artifacts, generate, models, params, problems, prompts, provenance, stats
from response_priming.errors import InputError
from response_priming.methods import base, examples
from response_priming.methods.candidates import Writer, sound
from response_priming.methods.leaks import require_none
from response_priming.methods.selection import Learnt, Trials, chosen, reinforced

SHARD = generate.shard_name(0)
FEATURES = ["teacher", "loss", "kl", "length", "source"]
CHOSEN, EPISODES = "chosen.parquet", "episodes.parquet"


class L2A(base.Method):
    """Learning to augment; what its controls share is made once."""

    title: ClassVar[str] = "L2A-style learning to augment"
    source: ClassVar[str] = "2101.08106"
    fidelity: ClassVar[Literal["exact", "reconstructed", "rule-only"]] = "reconstructed"
    writes: ClassVar[bool] = True
    live: ClassVar[bool] = True
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "keep-all": {"select": "all"},
        "random-at-its-rate": {"select": "random"},
        "targets-alone": {"select": "none"},
        "shuffled-rewards": {"select": "shuffled"},
    }
    select: Literal["learnt", "all", "random", "none", "shuffled"] = Field(
        "learnt", description="candidates by the policy; all; as many drawn; none; by one with other episodes' rewards"
    )
    targets: float = Field(0.25, gt=0, description="target problems: a share of the train problems, from 1 on a number")
    per_target: int = Field(4, ge=2, description="candidates that are tried for each target problem")
    episodes: int = Field(10, ge=2, description="trainings that the policy learns from")
    steps: int = Field(5, ge=1, description="optimiser steps of each")
    rate: float = Field(0.1, gt=0, description="learning rate of the policy")

    def prepare(self) -> list[Path]:
        """See `Method.prepare`: the candidates and the selection, which rows share, and then the store."""
        self._check()
        shared = self.run.output.parent / cast("dict[str, Any]", self.run.method)["name"]
        data = self.run.placed(self.run.output, shared / "candidates")
        made = [cast("Path", data.store)]
        self._made(made[0], [], self._write)
        if self.select in ("learnt", "random", "shuffled"):
            made.append(shared / "selection" / made[0].name)
            self._made(made[1], made[:1], lambda to: self._learn(data, to))
        self._made(cast("Path", self.run.store), made, lambda to: self._keep(made, to), select=self.select)
        return made

    def _check(self) -> None:
        run, held = self.run, round(self.run.held_out * self.run.n_train)
        for key, wanted in (("alignment", "response"), ("hard_labels", "response")):
            if (value := getattr(run, key)) != wanted:
                raise InputError(f"distill.{key} = {value!r}: candidates have no solutions; allowed: {wanted!r}")
        if not held:
            raise InputError(
                f"distill.held_out = {run.held_out}: none of {run.n_train} train problems to measure rewards on; "
                f"allowed: {1 / run.n_train:.2g} or more"
            )
        if self.count > run.n_train - held:
            raise InputError(
                f"method l2a: targets = {self.targets:g}: there are {run.n_train} train problems, of which {held} are "
                f"held out; allowed: up to {run.n_train - held}"
            )
        generate.check_tokens(cast("params.GenerateRun", run.live))

    @property
    def count(self) -> int:
        """The number of target problems, the first ones of train."""
        return max(1, round(self.targets * (self.run.n_train if self.targets < 1 else 1)))

    def _made(self, folder: Path, reads: list[Path], write: Callable[[Path], object], **more: Any) -> None:
        """A folder by all parameters that rows share, and `more`."""
        live, run = cast("params.GenerateRun", self.run.live), self.run
        own = {"version": self.version} | self.model_dump(exclude={"select"}) | more
        training = run.model_dump(mode="json", exclude=set(run.idle)) | provenance.content(run) | {"n_test": run.n_test}
        decides = {"method": own, "training": training}
        made = params.Folder(folder, ["methods.l2a", f"engines.{live.inside(live.engine)}"], reads, decides)
        artifacts.made(folder, artifacts.recipe(live, made), write)

    def _problems(self, split: problems.Split) -> list[problems.Problem]:
        run = self.run
        problems.require_unleaked(run)
        return problems.load(run, split, run.n_test if split == "test" else run.n_train, seed=run.seed)

    def _write(self, to: Path) -> None:
        """The responses to targets and candidates, as a store."""
        run, live, train = self.run, cast("params.GenerateRun", self.run.live), self._problems("train")
        targets, sources = train[: self.count], train[self.count : len(train) - round(run.held_out * len(train))]
        writer = Writer(live, targets, self._problems("test"))
        rows = writer.answered([*targets, *writer.candidates(sources, self.per_target * len(targets))])
        reader = models.tokenizer(run.student, run.student_revision)
        for row in rows[len(targets) :]:
            read = prompts.encode(
                reader, self.prompt(problems.Problem("", row.question or "", "", "")), run.prompt_date
            )
            if len(read) + len(row.response.tokens) >= run.train_tokens:
                writer.left_out["unusable"] += 1
                rows = [other for other in rows if other is not row]
        if len(rows) == len(targets):
            raise InputError(
                f"method l2a: per_target = {self.per_target}: no candidate of {self.per_target * len(targets)} can be "
                f"used, {writer.left_out['leaks']} are asked in the test; allowed: more of them, or another teacher"
            )
        generate.write_shard(to / SHARD, rows, vocabulary=writer.engine.vocabulary, dense=live.top_k == "all")
        _mark(to, [True] * len(rows))
        right = [sound(row.question or "", row.response.text) for row in rows[len(targets) :]]
        found = {"candidates": len(right), "unusable": writer.left_out["unusable"]}
        numbers = found | {"right of all": float(np.mean(right))}
        base.note(to, writer.spent, leaks=writer.left_out["leaks"], numbers=numbers)

    def _learn(self, data: params.DistillRun, to: Path) -> None:
        """The policy, and how well another one finds out planted errors, half of the candidates with each the response
        of another one."""
        trials = Trials(self, data)
        places = list(range(self.count, len(trials.examples)))
        # A mean that the engine could not say is NaN, and the feature then 0 for all.
        said = generate.read(cast("Path", data.store), [generate.GIVEN])[generate.GIVEN].map(np.mean).to_numpy()
        source = [trials.examples.order[place].startswith("source") for place in places]
        wrong = np.random.default_rng([self.run.seed, 1]).permutation(places)[: len(places) // 2].tolist()
        learnt = list[tuple[NDArray[np.float64], Learnt]]()
        for order in ({}, dict(zip(wrong, wrong[1:] + wrong[:1], strict=True))):
            some = copy.copy(trials.examples)
            some.answer_of = some.signal_of = [order.get(place, place) for place in range(len(some))]
            features = np.column_stack([said[some.answer_of][places], trials.read(some, places), source])
            deviation = features.std(0)
            features = np.nan_to_num((features - features.mean(0)) / np.where(deviation > 0, deviation, 1))
            gain = functools.partial(trials.gain, some, places, steps=self.steps)
            learnt.append((features, self._policy(features, gain)))
        (features, policy), (_, other) = learnt
        table = pd.DataFrame(features, columns=FEATURES).assign(chance=policy.chances)
        table.to_parquet(to / CHOSEN, index=False)
        pd.DataFrame({"reward": policy.rewards, "planted": other.rewards}).to_parquet(to / EPISODES, index=False)
        numbers = {"reward": float(np.mean(policy.rewards)), "reward's deviation": float(np.std(policy.rewards))}
        if len(wrong) > 1:
            planted = np.isin(places, wrong)
            numbers["AUROC of planted errors"] = float(stats.auroc(other.chances[~planted], other.chances[planted]))
        base.note(to, {}, leaks=0, numbers=numbers)

    def _policy(self, features: NDArray[np.float64], reward: Callable[[NDArray[np.bool_]], float]) -> Learnt:
        room = self.steps * self.run.train_batch
        return reinforced(features, reward, episodes=self.episodes, rate=self.rate, room=room, seed=self.run.seed)

    def _keep(self, made: list[Path], to: Path) -> None:
        """The store: the candidates', of which those train that are chosen."""
        shutil.copy(made[0] / SHARD, to / SHARD)
        answered, targets = generate.read(made[0], ["problem_id", "question", "text"]), self.count
        count = len(answered) - targets
        kept = np.full(count, self.select == "all")
        if self.select not in ("all", "none"):
            table, rewards = pd.read_parquet(made[1] / CHOSEN), pd.read_parquet(made[1] / EPISODES)["reward"]
            kept = chosen(table["chance"].to_numpy())
            if self.select == "shuffled":
                dealt = iter([rewards[place] for place in examples.deal(len(rewards), self.run.seed)])
                kept = chosen(self._policy(table[FEATURES].to_numpy(), lambda _: next(dealt)).chances)
            if self.select == "random":
                kept = np.random.default_rng([self.run.seed, 2]).permutation(kept)
        _mark(to, [*[True] * targets, *kept.tolist()])
        columns = (answered[name][targets:][kept] for name in ("problem_id", "question", "text"))
        written = [problems.Problem(name, question, text, "") for name, question, text in zip(*columns, strict=True)]
        require_none(written, self._problems("test"), artifacts.part_of(cast("Path", self.run.store)))
        right = [sound(problem.question, problem.solution) for problem in written]
        numbers = {"kept": len(written) / count} | ({"right of kept": float(np.mean(right))} if right else {})
        base.note(to, {}, leaks=0, numbers=numbers)


def _mark(folder: Path, kept: list[bool]) -> None:
    """Say in a store which of its responses train."""
    table = pd.read_parquet(folder / SHARD, columns=["problem_id", "sample", "finished"])
    table.assign(kept=kept).to_parquet(folder / generate.KEPT, index=False)
