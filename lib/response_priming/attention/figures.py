"""The figures and printed tables of attention-visualize."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm, PowerNorm
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from response_priming import arms, stats, style
from response_priming.attention.results import EVERY, PAPER, Analysis, Example
from response_priming.errors import InputError

Head = tuple[int, int]  # layer, head
REGION_TITLES = {"prompt": "Prompt", "solution": "Solution"}
REGION_MARKERS = {"prompt": ("o", "0.25"), "solution": ("s", "#d55e00")}


def shown_means(table: pd.DataFrame) -> Styler:
    """`differences.means` as the paper prints it."""
    columns: style.Columns = {name: (name.lower(), None) for name in ("Region", "Student")}
    columns |= {str(name): (str(name), "{:.4f}") for name in table if name not in columns}
    return style.printed(table.replace({"Region": REGION_TITLES}), "attention", columns)


def shown_tests(tests: pd.DataFrame) -> Styler:
    """`differences.primed` as the paper prints it; without the test over students where there are too few for one."""
    ends = zip(tests["low"], tests["high"], strict=True)
    words: dict[str, Any] = {
        "region": tests["region"].map(REGION_TITLES),
        "metric": tests["metric"].map(EVERY),
        "interval": ["" if np.isnan(low) else f"{low:+.4f} to {high:+.4f}" for low, high in ends],
    }
    shown = tests.assign(**words).drop(columns=[] if tests["p_students"].notna().any() else "p_students")
    return style.printed(shown, "attention-test")


def layers_figure(metrics: pd.DataFrame, arms: list[str], names: Iterable[str] = PAPER) -> Figure:
    """Numbers across layers: a row a number, a column a region, a line an arm named at its right end.

    Lines are means over heads, seeds and then prompts; bands are 95 % t-intervals over prompts. `arms` is the
    profile's list, for their order; arms that `metrics` lacks are left out.
    """
    names = list(names)
    regions = list(dict.fromkeys(metrics["region"]))
    lines = metrics.groupby(["region", "arm", "prompt", "layer"])[names].mean()
    rows, columns = len(names), len(regions)
    size = 3.6 * columns + 0.4, 1.8 * rows + 0.5
    figure, grid = style.panels(*size, rows, columns, squeeze=False, sharex=True, sharey="row")
    for (row, column), axes in np.ndenumerate(grid):
        name, region = names[row], regions[column]
        ends = {}
        for place, arm in enumerate(arms):
            known = lines[name].dropna()
            if (region, arm) in known.index:
                values = known.loc[(region, arm)].unstack("prompt")
                look: dict[str, Any] = {"color": style.color(arm)}
                bands = np.array([stats.t_interval(row) for row in values.to_numpy()])
                line: dict[str, Any] = {"marker": style.marker(arm), "markersize": 3, "linewidth": 1.1}
                line["markevery"] = (0.2 * place / len(arms), 0.2)  # beside those of other arms, not upon them
                axes.plot(values.index, values.mean(axis=1), **line, **look)
                axes.fill_between(values.index, *bands.T, alpha=0.15, linewidth=0, **look)
                ends[arm] = (float(values.index[-1]), float(values.mean(axis=1).iloc[-1]))
        axes.set_title(REGION_TITLES[region] if row == 0 else "", fontsize=10)
        label = EVERY[name].replace(" the ", "\nthe ")
        axes.set_ylabel(label if column == 0 else "", fontsize=9)
        axes.tick_params(labelsize=8, labelleft=True)
        if column == columns - 1:
            style.name_points(axes, ends, gap=0.13)
    for axes in grid[-1]:
        axes.set_xlabel(f"Layer (n = {metrics['prompt'].nunique()} prompts)", fontsize=9)
    return figure


def shown_heads(chosen: list[list[int]], count: int, analysis: Analysis) -> list[Head]:
    """The chosen heads, as [layer, head]; where there are none, the `count` most divergent ones.

    Raises:
        InputError: a chosen layer or head is not among those measured.
    """
    heads = analysis.divergent[["layer", "head"]]
    for pair in chosen:
        for name, value in zip(("layer", "head"), pair, strict=True):
            if value > heads[name].max():
                raise InputError(
                    f"attention.chosen_heads = {pair}: {name} {value} is not there; allowed: 0 to {heads[name].max()}"
                )
    found = chosen or heads.head(count).to_numpy().tolist()
    return [(int(layer), int(head)) for layer, head in found]


def shown_pair(names: list[str]) -> tuple[str, str]:
    """The two students held against each other: the unprimed one, else the first arm, and the last arm."""
    return (arms.UNPRIMED if arms.UNPRIMED in names[:-1] else names[0]), names[-1]


def heatmaps_figure(example: Example, heads: list[Head], pair: tuple[str, str], tokens: int) -> Figure:
    """One text's maps of two students and their difference: a row a head, tokens named at the sides.

    `tokens` of the text are shown, the first one and the last ones. Maps share a square-root colour scale; each
    difference has its own, symmetric around zero.
    """
    kept = [0, *range(max(1, len(example.tokens) - tokens + 1), len(example.tokens))]
    # Line breaks and spaces are made visible.
    labels = [repr(example.tokens[place])[1:-1].replace(" ", "\u00b7") for place in kept]
    solution = sum(place < example.solution for place in kept)
    figure, grid = style.panels(8, 3.1 * len(heads) + 0.5, len(heads), 3, squeeze=False, sharex=True, sharey=True)
    future = np.triu(np.ones((len(kept), len(kept)), dtype=bool), k=1)
    for row, (layer, head) in zip(grid, heads, strict=True):
        old, new = (example.weights(arm, layer, head)[np.ix_(kept, kept)] for arm in pair)
        scale = PowerNorm(0.5, vmin=0, vmax=max(1e-6, float(max(old.max(), new.max()))))
        panels = (old, scale, "viridis"), (new, scale, "viridis"), (new - old, CenteredNorm(), "RdBu_r")
        images = [
            axes.imshow(np.where(future, np.nan, weights), norm=norm, cmap=colors, interpolation="nearest")
            for axes, (weights, norm, colors) in zip(row, panels, strict=True)
        ]
        row[0].set_ylabel(f"Layer {layer}, head {head}", fontsize=9)
        for axes in row:
            axes.axhline(solution - 0.5, color="grey", linewidth=0.5, linestyle=":")
            if kept[1:2] != [1]:
                axes.axvline(0.5, color="white", linewidth=2)  # what is left out of the text
                axes.axhline(0.5, color="white", linewidth=2)
            axes.set_yticks(range(len(labels)), labels, fontsize=6, parse_math=False)
            axes.set_xticks(range(len(labels)), labels, fontsize=6, rotation=90, parse_math=False)
            axes.grid(visible=False)
        for image, where, name in ((images[1], row[:2], "weight"), (images[2], row[2:], "difference")):
            bar = figure.colorbar(image, ax=list(where), shrink=0.6, aspect=30, location="top", pad=0.02)
            bar.set_label(name, size=7, labelpad=2)
            bar.ax.tick_params(labelsize=6)
    names = [arms.title(arm) for arm in pair]
    for axes, title in zip(grid[-1], (*names, f"{names[1]} minus {names[0]}"), strict=True):
        axes.set_xlabel(title, fontsize=8)
    return figure


def ranking_figure(divergent: pd.DataFrame, heads: int = 15) -> Figure:
    """The most divergent heads, most first: variance across arms over each region, and where known across seeds."""
    top = divergent.head(heads)
    figure, axes = style.panels(7, 0.9 + 0.24 * len(top))
    places = np.arange(len(top))
    axes.barh(places, top["variance"], color="0.85", label="Whole text")
    for name, (marker, color) in REGION_MARKERS.items():
        if top[name].notna().any():
            axes.plot(top[name], places, marker, markersize=5, color=color, label=REGION_TITLES[name])
    if top["seeds"].notna().any():
        axes.plot(top["seeds"], places, "|", markersize=11, markeredgewidth=2, color="#0072b2", label="Between seeds")
    names = [f"layer {layer}, head {head}" for layer, head in zip(top["layer"], top["head"], strict=True)]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("Variance of a weight across arms, mean over positions", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    figure.legend(fontsize=8, loc="outside upper right", ncols=4, frameon=False)
    return figure


def accuracy_figure(changes: pd.DataFrame, names: Iterable[str] = PAPER) -> Figure:
    """How far each student's most divergent heads are from the first arm's, against its accuracy.

    `changes`: `differences.with_accuracy`. A panel a number; x is the mean over heads of the change's absolute
    value; a point a student, named where it is an arm's first.
    """
    names = list(names)
    moved = changes.assign(**{name: changes[name].abs() for name in names})
    moved = moved.groupby(["arm", "seed", "accuracy"], sort=False)[names].mean().reset_index()
    figure, grid = style.panels(7, 2.6 * ((len(names) + 1) // 2), (len(names) + 1) // 2, 2, squeeze=False, sharey=True)
    for place, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        first = {}
        for arm, points in moved.groupby("arm", sort=False):
            x, y = points[name].to_numpy(), 100 * points["accuracy"].to_numpy()
            axes.plot(x, y, style.marker(str(arm)), color=style.color(str(arm)), markersize=6)
            first[str(arm)] = (float(x[0]), float(y[0]))
        axes.margins(x=0.1, y=0.15)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(f"Change of: {EVERY[name][0].lower()}{EVERY[name][1:]}", fontsize=8)
        axes.set_ylabel("" if place % 2 else "Accuracy (%)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.autoscale_view()
        if place % 2 or name == names[-1]:  # accuracy, the height of a point, is the same in every panel
            style.name_points(axes, first, gap=0.11)
    return figure
