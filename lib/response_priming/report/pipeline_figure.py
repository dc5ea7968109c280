"""The drawing of the method: what teacher and student read, what the student learns from, and how it is scored."""

from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

BLUE, ORANGE, GREEN = (sns.color_palette("colorblind")[index] for index in (0, 1, 2))
GREY = (0.45, 0.45, 0.45)
WIDTHS, HEIGHT = {1.1: 2.05, 4.0: 2.05, 6.9: 2.75}, 0.7  # of the boxes of each column

# Place of each box's middle, its text and its colour.
BOXES: dict[str, tuple[float, float, str, tuple[float, ...]]] = {
    "prompt": (1.1, 3.1, "prefix + question", ORANGE),
    "teacher": (4.0, 3.1, "teacher", ORANGE),
    "response": (6.9, 3.1, "response, token by token,\nand the teacher's probabilities", ORANGE),
    "question": (1.1, 1.7, "the bare question", BLUE),
    "student": (4.0, 1.7, "student,\nin training", BLUE),
    "loss": (6.9, 1.7, "hard loss on the tokens,\nsoft loss on the probabilities", BLUE),
    "test": (1.1, 0.3, "bare test question", GREEN),
    "trained": (4.0, 0.3, "trained student", GREEN),
    "score": (6.9, 0.3, "answer, extraction rule,\nright or wrong", GREEN),
}
ROWS = {3.1: "1  Generate", 1.7: "2  Distil", 0.3: "3  Evaluate"}
ARROWS = [
    ("prompt", "teacher"),
    ("teacher", "response"),
    ("question", "student"),
    ("student", "loss"),
    ("response", "loss"),
    ("student", "trained"),
    ("test", "trained"),
    ("trained", "score"),
]


def draw() -> Figure:
    """The method as three rows of boxes: generate, distil, evaluate."""
    figure = Figure(figsize=(8.2, 4.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.1, 8.4), ylim=(-0.25, 4.1))
    axes.set_axis_off()
    for y, name in ROWS.items():
        axes.text(0.0, y + 0.5, name, fontsize=11, fontweight="bold", color=GREY)
    for x, y, text, color in BOXES.values():
        _box(axes, x, y, text, color)
    for start, end in ARROWS:
        _arrow(axes, start, end)
    return figure


def _box(axes: Axes, x: float, y: float, text: str, color: tuple[float, ...]) -> None:
    corner = (x - WIDTHS[x] / 2, y - HEIGHT / 2)
    look: dict[str, Any] = {"facecolor": (*color, 0.12), "edgecolor": color, "linewidth": 1.3}
    axes.add_patch(FancyBboxPatch(corner, WIDTHS[x], HEIGHT, "round,pad=0,rounding_size=0.1", **look))
    axes.text(x, y, text, ha="center", va="center", fontsize=9.5)


def _arrow(axes: Axes, start: str, end: str) -> None:
    """From the lower or right edge of one box to the upper or left edge of another."""
    (x0, y0), (x1, y1) = BOXES[start][:2], BOXES[end][:2]
    if x0 == x1:
        tail, head = (x0, y0 - HEIGHT / 2), (x1, y1 + HEIGHT / 2)
    else:
        tail, head = (x0 + WIDTHS[x0] / 2, y0), (x1 - WIDTHS[x1] / 2, y1)
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": GREY, "shrinkA": 2, "shrinkB": 2})
