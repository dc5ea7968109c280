"""One text read by all students: what is measured and kept of its maps while the layers pass."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from response_priming.attention.maps import Student
from response_priming.attention.metrics import EVERY, by_head, exact, paper_numbers, sink_numbers, spread
from response_priming.attention.results import SCALE

REGIONS = ("prompt", "response")
SPREADS = ("variance", *REGIONS, "seeds")


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
        """`attention_results.Analysis.metrics` of this text, without the column `prompt`."""
        values = torch.stack(self.numbers).permute(1, 2, 0, 4, 3)  # students, regions, layers, heads, numbers
        sizes = values.shape
        axes = [range(sizes[0]), REGIONS[: sizes[1]], range(sizes[2]), range(sizes[3])]
        rows = pd.MultiIndex.from_product(axes, names=["student", "region", "layer", "head"])
        table = pd.DataFrame(values.flatten(end_dim=-2).numpy(), index=rows, columns=list(EVERY)).reset_index()
        arms, seeds = (table["student"].map(dict(enumerate(part))) for part in zip(*self.who, strict=True))
        return table.drop(columns="student").assign(arm=arms, seed=seeds)

    def divergent(self) -> pd.DataFrame:
        """`attention_results.Analysis.divergent` of this text, in the order of layers."""
        values = torch.stack(self.spreads, dim=1)
        return by_head(dict(zip(SPREADS, values, strict=True)))
