"""What stage attention-visualize wrote, read from its folder.

`attention/explorer.npz` (see `read_maps`) holds, for the first problems N = 0, 1, ... and T tokens of their texts:

    ARM/N        uint8 [layers, heads, T, T]: maps of the arm's first seed, rows are queries; rounded 255 * sqrt(weight)
    tokens/N     str [T]: the tokens as text
    positions/N  int [T]: where they stand in the text, from 0; of a long text, the first token and the last ones
    response/N   int []: how many of the T tokens are of the prompt, so the index of the first token of the response
    problem/N    str []: the problem's id
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from response_priming import artifacts

TABLES = ("metrics", "divergent", "tests")
SCALE = 255  # of the maps' square roots, which are kept as bytes


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

    `metrics`: arm, seed, prompt (its number), region, layer, head, and a column for each of `metrics.EVERY`.
    `divergent`: layer, head, `variance` (see `attention_numbers`; arms are means over seeds), the same over the
    `prompt` and the `response` alone, and `seeds`, the variance between seeds of an arm (mean over arms; NaN with one
    seed); means over texts, largest variance first. `tests`: see `differences.primed`. `examples`: see
    `read_maps`.
    """

    metrics: pd.DataFrame
    divergent: pd.DataFrame
    tests: pd.DataFrame
    examples: list[Example]


def read_maps(folder: Path) -> list[Example]:
    """The texts of `explorer.npz` in order, with every arm's maps, from the stage's folder `attention/`.

    Raises:
        InputError: the folder is not complete.
    """
    artifacts.read(folder)
    with np.load(folder / "explorer.npz") as arrays:
        every = dict(arrays)
    examples: list[Example] = []
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
