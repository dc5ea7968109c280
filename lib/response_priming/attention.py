"""Stage attention-visualize: how the students' attention differs, in numbers for every head.

The released analysis of Goyal et al. 2024 (arXiv 2412.17846) reads one prompt, skips the last layer and puts the
adapters into a model that they were not trained on. Here all students read the same texts, each a prompt and the data
set's solution, and the two regions are reported apart. The solution is nobody's
own response: with a text for each arm, texts would differ as well as students. The fine-tuned arm learnt from
solutions of this form, so it is the most at home in them. Layers and heads count from 0.

The teacher has no line of its own: it reads another text (prefix and worked examples), whose rows are longer, and every
one of the numbers depends on the length of rows.

`attention/explorer.npz` (see `read_maps`) holds, for the first problems N = 0, 1, ... and T tokens of their texts:

    ARM/N        uint8 [layers, heads, T, T]: maps of the arm's first seed, rows are queries; 255 * sqrt(weight), rounded
    tokens/N     str [T]: the tokens as text
    positions/N  int [T]: where they stand in the text, from 0; of a long text, the first token and the last ones
    response/N   int []: how many of the T tokens are of the prompt, so the index of the first token of the response
    problem/N    str []: the problem's id
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from response_priming import attention_tables, capture, manifest, models, params, priming, problems
from response_priming.attention_numbers import (
    EVERY,
    by_head,
    divergent_heads,
    exact,
    head_metrics,
    largest_first,
    paper_numbers,
    sink_numbers,
    spread,
)
from response_priming.errors import InputError

__all__ = ["Analysis", "Example", "analyse", "divergent_heads", "head_metrics", "read", "read_maps"]

REGIONS = ("prompt", "response")
SPREADS = ("variance", *REGIONS, "seeds")
TABLES = ("metrics", "divergent", "tests")
SCALE = 255  # of a weight's square root, as `explorer.npz` keeps it
SHOWING = {"heatmaps", "heatmap_tokens", "chosen_heads", "rule"}  # shape figures, not what is measured
NOT_IN_RECIPE = {"profile", "n_train", "n_test", "data_dir", *SHOWING}


@dataclass(frozen=True)
class Example:
    """Maps of one text for every arm, as `explorer.npz` keeps them. `weights` undoes the quantisation."""

    problem: str
    tokens: list[str]
    positions: NDArray[np.int64]
    response: int
    maps: dict[str, NDArray[np.uint8]] = field(repr=False)

    def weights(self, arm: str, layer: int, head: int) -> NDArray[np.float32]:
        """One head's map [tokens, tokens]; off by at most 0.004."""
        return np.asarray((self.maps[arm][layer, head] / SCALE) ** 2, dtype=np.float32)


@dataclass(frozen=True)
class Analysis:
    """What the stage wrote.

    `metrics`: arm, seed, prompt (its number), region, layer, head, and a column for each number of `attention_numbers.EVERY`.
    `divergent`: layer, head, `variance` (see `divergent_heads`; arms are means over seeds), the same over the `prompt` and
    the `response` alone, and `seeds`, the variance between seeds of an arm (mean over arms; NaN with one seed); means
    over texts, largest variance first. `tests`: see `attention_tables.primed`. `examples`: see `read_maps`.
    """

    metrics: pd.DataFrame
    divergent: pd.DataFrame
    tests: pd.DataFrame
    examples: list[Example]


@dataclass(frozen=True)
class Text:
    """What all students read: token ids, of which the first `prompt` are the prompt."""

    problem: str
    tokens: list[int]
    prompt: int

    def regions(self, maps: Tensor) -> dict[str, Tensor]:
        """The rows of each region of maps [..., tokens, tokens], with the columns that they can attend to."""
        regions = {"prompt": maps[..., : self.prompt, : self.prompt], "response": maps[..., self.prompt :, :]}
        return {name: region for name, region in regions.items() if region.shape[-2]}


# --- the stage ---


def analyse(run: params.AttentionRun) -> Analysis:
    """Measure every student on the first test problems, asked as they are evaluated: the bare question.

    Raises:
        InputError: an adapter is missing or of another student, or a text is longer than allowed.
    """
    folder = run.output / "attention"
    recipe = manifest.recipe(
        run.stage,
        run.model_dump(exclude=NOT_IN_RECIPE)
        | {"data": problems.fingerprint(run), "weights": models.fingerprint(run.student, run.student_revision)},
        list(capture.adapters(run).values()),
        code="attention",
    )
    if not manifest.is_current(folder, recipe):
        with manifest.writing(folder, recipe) as aside:
            _write(aside, run)
    return read(folder)


def _write(folder: Path, run: params.AttentionRun) -> None:
    model, tokenizer = capture.load(run)
    texts = _texts(run, tokenizer, model.config)
    readings = []
    for text in tqdm(texts, desc="attention", unit="text"):
        kept = _kept(text, run.explorer_tokens) if len(readings) < run.explorer_prompts else None
        reading = Reading(capture.students(run), text, kept)
        capture.visit_layers(model, reading.who, text.tokens, reading.take, skip=run.skip_layers)
        readings.append(reading)
    metrics = pd.concat([reading.metrics().assign(prompt=n) for n, reading in enumerate(readings)], ignore_index=True)
    divergent = pd.concat([reading.divergent() for reading in readings]).groupby(["layer", "head"]).mean()
    divergent = largest_first(divergent.reset_index())
    tests = attention_tables.primed(metrics, run.arms, seed=run.seed)
    for name, table in zip(TABLES, (metrics, divergent, tests), strict=True):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    arrays = [_arrays(number, reading, tokenizer) for number, reading in enumerate(readings[: run.explorer_prompts])]
    np.savez_compressed(folder / "explorer.npz", **{key: array for one in arrays for key, array in one.items()})
    texts_of = attention_tables.variables(run, metrics, divergent, tests)
    (folder / "variables.json").write_text(json.dumps(texts_of, indent=1), encoding="utf-8")


def _texts(run: params.AttentionRun, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[Text]:
    limit = min(run.attention_tokens, getattr(config, "max_position_embeddings", run.attention_tokens))
    texts = []
    for problem in problems.load(run, "test", run.attention_prompts, seed=run.seed):
        prompt = priming.encode(tokenizer, priming.bare(problem.question, run.system_prompt))
        response = priming.encode_response(tokenizer, problem.worked) if run.with_solution else []
        text = Text(problem.id, prompt + response, len(prompt))
        if len(text.tokens) > limit:
            raise InputError(
                f"attention.attention_tokens: problem {problem.id} has {len(text.tokens)} tokens; allowed: {limit}"
            )
        texts.append(text)
    return texts


def _kept(text: Text, most: int) -> list[int]:
    """Positions of the first token, which is the attention sink, and of the last ones."""
    return [0, *range(max(1, len(text.tokens) - most + 1), len(text.tokens))]


class Reading:
    """What is kept of one text's maps while its layers pass."""

    def __init__(self, who: list[capture.Student], text: Text, kept: list[int] | None = None) -> None:
        self.who, self.text, self.kept = who, text, kept
        self.arms = list(dict.fromkeys(arm for arm, _ in who))
        self.below: Tensor | None = None
        self.numbers: list[Tensor] = []  # a layer: [students, regions, numbers, heads]
        self.spreads: list[Tensor] = []  # a layer: [SPREADS, heads]
        self.maps: list[Tensor] = []  # a layer: [arms, heads, kept, kept]

    def take(self, maps: Tensor) -> None:
        """Measure one layer's maps [students, heads, tokens, tokens]."""
        self.numbers.append(torch.stack([self._numbers(maps, student) for student in range(len(self.who))]).cpu())
        self.spreads.append(self._spreads(maps).cpu())
        if self.kept is not None:
            first = [[one for one, _ in self.who].index(arm) for arm in self.arms]
            shown = maps[first][:, :, self.kept][..., self.kept]
            self.maps.append((shown.float().sqrt() * SCALE).round().to(torch.uint8).cpu())
        self.below = maps

    def _numbers(self, maps: Tensor, student: int) -> Tensor:
        here = self.text.regions(exact(maps[student]))
        below = self.text.regions(exact(self.below[student])) if self.below is not None else {}
        values = [paper_numbers(rows, below.get(name)) | sink_numbers(rows) for name, rows in here.items()]
        return torch.stack([torch.stack([value[name] for name in EVERY]) for value in values])

    def _spreads(self, maps: Tensor) -> Tensor:
        of_arm = [maps[[index for index, (one, _) in enumerate(self.who) if one == arm]] for arm in self.arms]
        between = spread(exact(seeds).mean(dim=0) for seeds in of_arm)
        regions = self.text.regions(between)
        within = [spread(map(exact, seeds)).mean(dim=(-2, -1)) for seeds in of_arm if len(seeds) > 1]
        values = {name: rows.mean(dim=(-2, -1)) for name, rows in {"variance": between, **regions}.items()}
        if within:
            values["seeds"] = torch.stack(within).mean(dim=0)
        unknown = torch.full_like(values["variance"], torch.nan)
        return torch.stack([values.get(name, unknown) for name in SPREADS])

    def metrics(self) -> pd.DataFrame:
        """`Analysis.metrics` of this text, without the column `prompt`."""
        values = torch.stack(self.numbers).permute(1, 2, 0, 4, 3)  # students, regions, layers, heads, numbers
        sizes = values.shape
        axes = [range(sizes[0]), REGIONS[: sizes[1]], range(sizes[2]), range(sizes[3])]
        rows = pd.MultiIndex.from_product(axes, names=["student", "region", "layer", "head"])
        table = pd.DataFrame(values.flatten(end_dim=-2).numpy(), index=rows, columns=list(EVERY)).reset_index()
        arms, seeds = (table["student"].map(dict(enumerate(part))) for part in zip(*self.who, strict=True))
        return table.drop(columns="student").assign(arm=arms, seed=seeds)

    def divergent(self) -> pd.DataFrame:
        """`Analysis.divergent` of this text, in the order of layers."""
        values = torch.stack(self.spreads, dim=1)
        return by_head(dict(zip(SPREADS, values, strict=True)))


# --- the maps that are kept ---


def _arrays(number: int, reading: Reading, tokenizer: PreTrainedTokenizerBase) -> dict[str, NDArray[Any]]:
    """The entries of `explorer.npz` for one text."""
    text, positions = reading.text, np.array(reading.kept)
    maps = torch.stack(reading.maps, dim=1).numpy()
    about = {
        "tokens": np.array([tokenizer.decode([text.tokens[position]]) for position in positions]),
        "positions": positions,
        "response": np.array((positions < text.prompt).sum()),
        "problem": np.array(text.problem),
    }
    return {f"{name}/{number}": array for name, array in (about | dict(zip(reading.arms, maps, strict=True))).items()}


def read_maps(folder: Path) -> list[Example]:
    """The texts of `explorer.npz` in order, with every arm's maps, from the stage's folder `attention/`.

    Raises:
        InputError: the folder is not complete.
    """
    manifest.read(folder)
    with np.load(folder / "explorer.npz") as arrays:
        every = dict(arrays)
    examples = []
    while f"problem/{len(examples)}" in every:
        number = len(examples)
        about = {name: every.pop(f"{name}/{number}") for name in ("problem", "tokens", "positions", "response")}
        maps = {key.rpartition("/")[0]: array for key, array in every.items() if key.endswith(f"/{number}")}
        problem, tokens = str(about["problem"]), about["tokens"].tolist()
        examples.append(Example(problem, tokens, about["positions"], int(about["response"]), maps))
    return examples


def read(folder: Path) -> Analysis:
    """What `analyse` wrote; `InputError` where the folder is not complete."""
    examples = read_maps(folder)
    metrics, divergent, tests = (pd.read_parquet(folder / f"{name}.parquet") for name in TABLES)
    return Analysis(metrics, divergent, tests, examples)
