"""What stage attention-visualize wrote, read from its folder.

`attention/explorer.npz` holds, for the first problems N = 0, 1, ... and T tokens of their texts:

    ARM/N        uint8 [layers, heads, T, T]: maps of the arm's first seed, rows are queries; rounded 255 * sqrt(weight)
    tokens/N     str [T]: the tokens as text
    positions/N  int [T]: where they stand in the text, from 0; of a long text, the first token and the last ones
    solution/N   int []: how many of the T tokens are of the prompt, so the index of the first token of the solution
    problem/N    str []: the problem's id
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from response_priming import artifacts

# The numbers of a head by name (see `metrics`), as figures call them.
PAPER = {
    "entropy": "Entropy (nats)",
    "diagonal": "Diagonal",
    "density": "Density",
    "similarity": "Similarity to the layer below",
}
SINK = {"sink": "Share of the first token", "entropy_rest": "Entropy without the first token (nats)"}
EVERY = PAPER | SINK
TABLES = ("metrics", "divergent", "tests")
SCALE = 255  # of the maps' square roots, which are kept as bytes


@dataclass(frozen=True)
class Example:
    """Maps of one text for every arm, as `explorer.npz` keeps them. `weights` undoes the quantisation."""

    problem: str
    tokens: list[str]
    positions: NDArray[np.int64]
    solution: int
    maps: dict[str, NDArray[np.uint8]] = field(repr=False)

    def weights(self, arm: str, layer: int, head: int) -> NDArray[np.float32]:
        """One head's map [tokens, tokens]; off by at most 0.004."""
        return np.asarray((self.maps[arm][layer, head] / SCALE) ** 2, dtype=np.float32)


@dataclass(frozen=True)
class Analysis:
    """What the stage wrote.

    `metrics`: arm, seed, prompt (its number), region, layer, head, and a column for each of `EVERY`.
    `divergent`: layer, head, `variance` (see `metrics`; arms are means over seeds), the same over the `prompt` and the
    `solution` alone, and `seeds`, the variance between seeds of an arm (mean over arms; NaN with one seed); means over
    texts, largest variance first. `tests`: see `differences.primed`. `examples`: the texts of `explorer.npz`, in order.
    """

    metrics: pd.DataFrame
    divergent: pd.DataFrame
    tests: pd.DataFrame
    examples: list[Example]


def read(folder: Path) -> Analysis:
    """What `analyse` wrote, from the stage's folder `attention/`; `InputError` where it is not complete."""
    artifacts.read(folder)
    metrics, divergent, tests = (pd.read_parquet(folder / f"{name}.parquet") for name in TABLES)
    with np.load(folder / "explorer.npz") as arrays:
        every = dict(arrays)
    examples = []
    for number in range(sum(key.startswith("problem/") for key in every)):
        maps = {key.rpartition("/")[0]: array for key, array in every.items() if key.endswith(f"/{number}")}
        problem, tokens, positions, solution = map(maps.pop, ("problem", "tokens", "positions", "solution"))
        examples.append(Example(str(problem), tokens.tolist(), positions, int(solution), maps))
    return Analysis(metrics, divergent, tests, examples)
