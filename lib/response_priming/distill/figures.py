"""Figures of a training: losses, divergence along a response, and what it cost."""

import pandas as pd
from matplotlib.figure import Figure

from response_priming import style

TRAINED = {"hard": "hard: cross-entropy", "soft": "soft: divergence to the teacher"}
HELD_OUT = {
    "gold_hard": "cross-entropy, solutions",
    "response_hard": "cross-entropy, responses",
    "response_soft": "divergence to the teacher",
}
COSTS = {"grad_norm": "Gradient norm", "tokens_per_second": "Tokens per second", "peak_mib": "Peak memory (MiB)"}


def divergence_figure(positions: pd.DataFrame) -> Figure:
    """Divergence along a response, before and after, means over seeds; `positions` as `distill.by_position`."""
    drawn, axes = style.panels(3)
    means = positions.groupby("position")[["before", "after"]].mean()
    for name, marker in zip(means, "os", strict=True):
        axes.plot(means.index, means[name], label=name, marker=marker, markersize=4)
    axes.set(xlabel="Position in the response (tokens)", ylabel="Divergence (nats)", ylim=(0, None))
    axes.legend()
    if means.empty:
        axes.set_title("No held-out response: nothing to compare")
    return drawn


def losses_figure(curve: pd.DataFrame, validated: pd.DataFrame) -> Figure:
    """Losses in training and on held-out problems, means over seeds; `distill.train` and `distill.validation`."""
    drawn, panels = style.panels(5.6, 2, sharex=True, sharey=True)
    for axes, table, names in zip(panels, (curve, validated), (TRAINED, HELD_OUT), strict=True):
        means = table.groupby("step")[list(names)].mean().dropna(axis="columns", how="all")
        for name, marker in zip(means, "os^", strict=False):
            axes.plot(means.index, means[name], label=names[str(name)], marker=marker, markersize=4, markevery=0.1)
        axes.set_ylabel("Nats per position")
        if axes.lines:
            axes.legend(loc="upper right")
    panels[0].set(title="Training", ylim=(0, None))
    panels[1].set(xlabel="Optimiser step", title="Held-out problems" if len(validated) else "No held-out problems")
    return drawn


def cost_figure(curve: pd.DataFrame) -> Figure:
    """Gradient norm before clipping, speed and memory of every step, means over seeds."""
    drawn, panels = style.panels(5.4, 3, sharex=True)
    means = curve.groupby("step")[list(COSTS)].mean()
    for axes, (name, title) in zip(panels, COSTS.items(), strict=True):
        axes.plot(means.index, means[name])
        axes.set(title=title, ylim=(0, None))
    panels[-1].set(xlabel="Optimiser step")
    return drawn
