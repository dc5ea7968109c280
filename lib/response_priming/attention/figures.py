"""The figures and printed tables of attention-visualize."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
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
    """Numbers across layers: a row a number, a column a region, a line an arm.

    Lines are means over heads, seeds and then prompts; bands are 95 % t-intervals over prompts. `arms` is the
    profile's list, for their order; arms that `metrics` lacks are left out.
    """
    names, known = list(names), set(metrics["arm"])
    regions = list(dict.fromkeys(metrics["region"]))
    lines = metrics.groupby(["region", "arm", "prompt", "layer"])[names].mean()
    rows, columns = len(names), len(regions)
    figure, grid = style.panels(1.6 * rows + 0.6, rows, columns, squeeze=False, sharex=True, sharey="row")
    for (row, column), axes in np.ndenumerate(grid):
        name, region = names[row], regions[column]
        for place, arm in enumerate(arms):
            there = lines[name].dropna()
            if (region, arm) in there.index:
                values = there.loc[(region, arm)].unstack("prompt")
                look: dict[str, Any] = {"color": style.color(arm)}
                bands = np.array([stats.t_interval(row) for row in values.to_numpy()])
                line: dict[str, Any] = {"marker": style.marker(arm), "markersize": 4, "linewidth": 1.1}
                line["markevery"] = (0.2 * place / len(arms), 0.2)  # beside those of other arms, not upon them
                axes.plot(values.index, values.mean(axis=1), **line, **look)
                axes.fill_between(values.index, *bands.T, alpha=0.15, linewidth=0, **look)
        axes.locator_params(nbins=4)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_title(style.wrapped(EVERY[name], 24) if column == 0 else "")
    for axes, region in zip(grid[-1], regions, strict=True):
        axes.set_xlabel(REGION_TITLES[region])
    figure.supxlabel(f"Layer (n = {metrics['prompt'].nunique()} prompts)")
    style.arms_legend(figure, [arm for arm in arms if arm in known])
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
    """One text's maps of two students, and below them their difference, its tokens named; a block for each head.

    `tokens` of the text are shown, the first one and the last ones. Maps share a square-root colour scale; each
    difference has its own, symmetric around zero.
    """
    kept = [0, *range(max(1, len(example.tokens) - tokens + 1), len(example.tokens))]
    # Line breaks and spaces are made visible.
    labels = [repr(example.tokens[place])[1:-1].replace(" ", "\u00b7") for place in kept]
    solution = sum(place < example.solution for place in kept)
    future = np.triu(np.ones((len(kept), len(kept)), dtype=bool), k=1)
    figure, _ = style.panels((4 + 0.18 * len(kept)) * len(heads), rows=0)
    parts: Any = figure.subfigures(len(heads), squeeze=False)
    for part, (layer, head) in zip(parts[:, 0], heads, strict=True):
        row = part.subplot_mosaic("ab;dd", height_ratios=(1.6, 0.18 * len(kept)))
        old, new = (example.weights(arm, layer, head)[np.ix_(kept, kept)] for arm in pair)
        scale = PowerNorm(0.5, vmin=0, vmax=max(1e-6, float(max(old.max(), new.max()))))
        # From white, which is the ground of every page.
        panels = ("a", old, scale, "Blues"), ("b", new, scale, "Blues"), ("d", new - old, CenteredNorm(), "RdBu_r")
        for name, weights, norm, colors in panels:
            axes = row[name]
            axes.imshow(
                np.where(future, np.nan, weights), norm=norm, cmap=colors, interpolation="nearest", aspect="auto"
            )
            axes.axhline(solution - 0.5, color="grey", linewidth=0.5, linestyle=":")
            if kept[1:2] != [1]:
                axes.axvline(0.5, color="white", linewidth=2)  # what is left out of the text
                axes.axhline(0.5, color="white", linewidth=2)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
        for title, name in zip(map(arms.title, pair), "ab", strict=True):
            row[name].set_xlabel(style.wrapped(title))
        row["d"].set_yticks(range(len(labels)), labels, parse_math=False)
        row["d"].set_xlabel("The second minus the first")
        for name, where, label in (("b", "ab", f"Layer {layer}, head {head}: weight"), ("d", "d", "Difference")):
            bar = part.colorbar(row[name].images[0], ax=[row[one] for one in where], location="top", aspect=30)
            bar.set_label(label)
            bar.ax.locator_params(nbins=4)
    return figure


def ranking_figure(divergent: pd.DataFrame, heads: int = 15) -> Figure:
    """The most divergent heads, most first: variance across arms over each region, and where known across seeds."""
    top = divergent.head(heads)
    figure, axes = style.panels(0.8 + 0.27 * len(top))
    places = np.arange(len(top))
    axes.barh(places, top["variance"], color="0.85", label="Whole text")
    for name, (marker, color) in REGION_MARKERS.items():
        if top[name].notna().any():
            axes.plot(top[name], places, marker, markersize=5, color=color, label=REGION_TITLES[name])
    if top["seeds"].notna().any():
        axes.plot(top["seeds"], places, "|", markersize=11, markeredgewidth=2, color="#0072b2", label="Between seeds")
    style.name_rows(
        axes, [f"layer {layer}, head {head}" for layer, head in zip(top["layer"], top["head"], strict=True)]
    )
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(axis="x", scilimits=(-3, 3), useMathText=False)
    figure.supxlabel("Variance of a weight across arms,\nmean over positions")
    handles, named = axes.get_legend_handles_labels()
    style.legend(figure, dict(zip(named, handles, strict=True)))
    return figure


def accuracy_figure(changes: pd.DataFrame, names: Iterable[str] = PAPER) -> Figure:
    """How far each student's most divergent heads are from the first arm's, against its accuracy.

    `changes`: `differences.with_accuracy`. A panel a number; x is the mean over heads of the change's absolute
    value; a point a student.
    """
    names = list(names)
    moved = changes.assign(**{name: changes[name].abs() for name in names})
    moved = moved.groupby(["arm", "seed", "accuracy"], sort=False)[names].mean().reset_index()
    rows = (len(names) + 1) // 2
    figure, grid = style.panels(2.3 * rows + 0.3, rows, 2, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        for arm, points in moved.groupby("arm", sort=False):
            look = {"color": style.color(str(arm)), "marker": style.marker(str(arm)), "linestyle": "none"}
            axes.plot(points[name], 100 * points["accuracy"], markersize=7, **look)
        axes.margins(x=0.1, y=0.15)
        axes.locator_params(axis="x", nbins=2)
        axes.set_title(style.wrapped(EVERY[name]))
    figure.supxlabel("Mean absolute change from the first arm")
    figure.supylabel("Accuracy (%)")
    style.arms_legend(figure, moved["arm"].unique())
    return figure
