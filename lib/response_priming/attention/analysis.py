"""Stage attention-visualize: how the students' attention differs, in numbers for every head.

The released analysis of Goyal et al. 2024 (arXiv 2412.17846) reads one prompt, skips the last layer and puts the
adapters into a model that they were not trained on. Here all students read the same texts, each a prompt and the data
set's solution, and the two regions are reported apart. The solution is nobody's own response: with a text for each arm,
texts would differ as well as students. The fine-tuned arm learnt from solutions of this form, so it is the most at home
in them. Layers and heads count from 0.

The teacher has no line of its own: it reads another text (prefix and worked examples), whose rows are longer, and every
one of the numbers depends on the length of rows.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from response_priming import artifacts, problems, progress, prompts
from response_priming.attention.differences import primed
from response_priming.attention.maps import Student, folders_of, load, visit_groups
from response_priming.attention.metrics import by_head, exact, largest_first, paper_numbers, sink_numbers, spread
from response_priming.attention.results import EVERY, SCALE, TABLES, Analysis, read
from response_priming.errors import InputError

if TYPE_CHECKING:
    from response_priming import params

REGIONS = ("prompt", "solution")
SPREADS = ("variance", *REGIONS, "seeds")


def analyse(run: "params.AttentionRun") -> Analysis:
    """Measure every student on the first test problems, asked as they are evaluated: the bare question.

    Raises:
        InputError: a student is missing or of another model, or a text is longer than allowed.
    """
    folders_of(run)
    folder = run.folders[0]
    return read(artifacts.made(folder.path, artifacts.recipe(run, folder), functools.partial(_write, run)))


def _write(run: "params.AttentionRun", folder: Path) -> None:
    groups, tokenizer = load(run)
    texts = texts_of(run, tokenizer, groups[0].model.config)
    readings: list[Reading] = []
    for text in progress.over(texts, "text"):
        # The first token is the attention sink.
        kept = [0, *range(max(1, len(text.tokens) - run.explorer_tokens + 1), len(text.tokens))]
        reading = Reading(run.students, text, kept if len(readings) < run.explorer_prompts else None)
        visit_groups(groups, reading.who, text.tokens, reading.take, skip=run.skip_layers)
        readings.append(reading)
    metrics = pd.concat([reading.metrics().assign(prompt=n) for n, reading in enumerate(readings)], ignore_index=True)
    divergent = pd.concat([reading.divergent() for reading in readings]).groupby(["layer", "head"]).mean()
    divergent = largest_first(divergent.reset_index())
    tests = primed(metrics, run.arms, seed=run.seed)
    for name, table in zip(TABLES, (metrics, divergent, tests), strict=True):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    arrays: dict[str, Any] = {}
    for number, reading in enumerate(readings[: run.explorer_prompts]):
        text, positions = reading.text, np.array(reading.kept)
        kept_maps = dict(zip(reading.arms, torch.stack(reading.maps, dim=1).numpy(), strict=True))
        about = {
            "tokens": np.array([tokenizer.decode([text.tokens[position]]) for position in positions]),
            "positions": positions,
            "solution": np.array((positions < text.prompt).sum()),
            "problem": np.array(text.problem),
        }
        arrays |= {f"{name}/{number}": array for name, array in (about | kept_maps).items()}
    np.savez_compressed(folder / "explorer.npz", **arrays)


@dataclass(frozen=True)
class Text:
    """What all students read: token ids, of which the first `prompt` are the prompt."""

    problem: str
    tokens: list[int]
    prompt: int

    def regions(self, maps: Tensor) -> dict[str, Tensor]:
        """The rows of each region of maps [..., tokens, tokens], with the columns that they can attend to."""
        regions = {"prompt": maps[..., : self.prompt, : self.prompt], "solution": maps[..., self.prompt :, :]}
        return {name: region for name, region in regions.items() if region.shape[-2]}


def texts_of(run: "params.AttentionRun", tokenizer: PreTrainedTokenizerBase, config: Any) -> list[Text]:
    """The texts of the run's first test problems; `InputError` where one is longer than the run or the model takes."""
    limit = min(run.attention_tokens, getattr(config, "max_position_embeddings", run.attention_tokens))
    texts = []
    for problem in problems.load(run, "test", run.attention_prompts, seed=run.seed):
        prompt = prompts.encode(tokenizer, prompts.bare(problem.question, run.system_prompt), run.prompt_date)
        solution = prompts.encode_response(tokenizer, problem.worked) if run.with_solution else []
        text = Text(problem.id, prompt + solution, len(prompt))
        if len(text.tokens) > limit:
            raise InputError(
                f"attention.attention_tokens: problem {problem.id} has {len(text.tokens)} tokens; allowed: {limit}"
            )
        texts.append(text)
    return texts


class Reading:
    """What is kept of one text's maps while its layers pass."""

    def __init__(self, who: list[Student], text: Text, kept: list[int] | None = None) -> None:
        self.who, self.text, self.kept = who, text, kept
        self.arms = list(dict.fromkeys(arm for arm, _ in who))
        self.below: Tensor | None = None
        self.numbers: list[Tensor] = []  # a layer: [students, regions, numbers, heads]
        self.spreads: list[Tensor] = []  # a layer: [SPREADS, heads]
        self.maps: list[Tensor] = []  # a layer: [arms, heads, kept, kept]

    def take(self, maps: Tensor) -> None:
        """Measure one layer's maps [students, heads, tokens, tokens]."""
        self.numbers.append(torch.stack([self._numbers(maps, student) for student in range(len(self.who))]).cpu())
        places = [[place for place, (one, _) in enumerate(self.who) if one == arm] for arm in self.arms]
        between = spread(exact(maps[seeds]).mean(dim=0) for seeds in places)
        means = {name: rows.mean(dim=(-2, -1)) for name, rows in self.text.regions(between).items()}
        means["variance"] = between.mean(dim=(-2, -1))
        within = [spread(map(exact, maps[seeds])).mean(dim=(-2, -1)) for seeds in places if len(seeds) > 1]
        if within:
            means["seeds"] = torch.stack(within).mean(dim=0)
        unknown = torch.full_like(means["variance"], torch.nan)
        self.spreads.append(torch.stack([means.get(name, unknown) for name in SPREADS]).cpu())
        if self.kept is not None:
            shown = maps[[seeds[0] for seeds in places]][:, :, self.kept][..., self.kept]
            self.maps.append((shown.float().sqrt() * SCALE).round().to(torch.uint8).cpu())
        self.below = maps

    def _numbers(self, maps: Tensor, student: int) -> Tensor:
        """Of one student [regions, numbers, heads]; its maps in float64 are dropped before the next one's are made."""
        here = self.text.regions(exact(maps[student]))
        below = self.text.regions(exact(self.below[student])) if self.below is not None else {}
        values = [paper_numbers(rows, below.get(name)) | sink_numbers(rows) for name, rows in here.items()]
        return torch.stack([torch.stack([value[name] for name in EVERY]) for value in values])

    def metrics(self) -> pd.DataFrame:
        """`results.Analysis.metrics` of this text, without the column `prompt`."""
        values = torch.stack(self.numbers).permute(1, 2, 3, 0, 4)  # students, regions, numbers, layers, heads
        tables = [
            by_head(dict(zip(EVERY, numbers, strict=True))).assign(region=region, arm=arm, seed=seed)
            for (arm, seed), read in zip(self.who, values, strict=True)
            for region, numbers in zip(REGIONS, read, strict=False)
        ]
        return pd.concat(tables, ignore_index=True)[["region", "layer", "head", *EVERY, "arm", "seed"]]

    def divergent(self) -> pd.DataFrame:
        """`results.Analysis.divergent` of this text, in the order of layers."""
        return by_head(dict(zip(SPREADS, torch.stack(self.spreads, dim=1), strict=True)))
