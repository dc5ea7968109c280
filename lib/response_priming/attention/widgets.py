"""The attention explorer in JupyterLab: choose a head and see its map."""

from io import BytesIO
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import CenteredNorm, PowerNorm
from matplotlib.figure import Figure

from response_priming import style
from response_priming.attention.results import Analysis
from response_priming.errors import InputError

MOST_LABELS = 64  # tokens; more would not be legible beside a map


def explore(analysis: Analysis) -> ipywidgets.Widget:
    """Controls for arm, second arm, layer, head and problem, and the maps that they choose (see `maps_figure`).

    Raises:
        InputError: the analysis kept no maps.
    """
    if not analysis.examples:
        raise InputError("attention: no maps are kept; attention.explorer_prompts must be 1 or more")
    maps = analysis.examples[0].maps
    arms = [(style.title(arm), arm) for arm in maps]
    layers, heads = next(iter(maps.values())).shape[:2]
    first = analysis.divergent.iloc[0]
    controls = {
        "arm": ipywidgets.Dropdown(options=arms, value=arms[-1][1], description="Arm"),
        "against": ipywidgets.Dropdown(options=arms, value=arms[0][1], description="Against"),
        "layer": ipywidgets.IntSlider(value=int(first["layer"]), max=layers - 1, description="Layer"),
        "head": ipywidgets.IntSlider(value=int(first["head"]), max=heads - 1, description="Head"),
        "problem": ipywidgets.Dropdown(options=[one.problem for one in analysis.examples], description="Problem"),
    }

    # A picture, not an output area: executed without a browser, a notebook would wait for that area for ever.
    picture = ipywidgets.Image(format="png")

    def show(_: Any = None) -> None:
        drawn = BytesIO()
        maps_figure(analysis, **{name: control.value for name, control in controls.items()}).savefig(drawn)
        picture.value = drawn.getvalue()

    for control in controls.values():
        control.observe(show, names="value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([*controls.values()], layout={"flex_flow": "row wrap"}), picture])


def maps_figure(analysis: Analysis, *, arm: str, against: str, layer: int, head: int, problem: str) -> Figure:
    """One head's map of one arm, and how far it differs from a second arm's; layers and heads count from 0.

    Raises:
        InputError: there is no such problem, arm, layer or head.
    """
    examples = {example.problem: example for example in analysis.examples}
    _require("problem", problem, list(examples))
    example = examples[problem]
    for name, value in (("arm", arm), ("against", against)):
        _require(name, value, list(example.maps))
    for name, number, count in zip(("layer", "head"), (layer, head), example.maps[arm].shape, strict=False):
        if not 0 <= number < count:
            raise InputError(f"{name} = {number}: must be 0 to {count - 1}")
    weights = example.weights(arm, layer, head)
    difference = weights - example.weights(against, layer, head)
    future = np.triu(np.ones_like(weights, dtype=bool), k=1)
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    drawn = [
        (f"{style.title(arm)}: weight (square-root scale)", weights, "viridis", PowerNorm(0.5, 0, 1)),
        (f"minus {style.title(against)}", difference, "RdBu_r", CenteredNorm(halfrange=abs(difference).max() or 1)),
    ]
    for axis, (title, values, colors, norm) in zip(axes, drawn, strict=True):
        image = axis.imshow(np.where(future, np.nan, values), norm=norm, cmap=colors, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, shrink=0.8)
    labels = [repr(token)[1:-1] for token in example.tokens] if len(example.tokens) <= MOST_LABELS else []
    for axis in axes:
        axis.set_xticks(range(len(labels)), labels, fontsize=5, rotation=90, parse_math=False)
    axes[0].set_yticks(range(len(labels)), labels, fontsize=5, parse_math=False)
    figure.suptitle(f"Layer {layer}, head {head}, {problem}", fontsize=10)
    plt.close(figure)  # it is displayed once, by whoever asked for it
    return figure


def _require(name: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name} = {value!r}: allowed: {', '.join(allowed)}")
