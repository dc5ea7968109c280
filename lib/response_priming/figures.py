"""One style for every figure, one colour and marker for every arm."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib_inline.backend_inline import set_matplotlib_formats
from pandas.io.formats.style import Styler

from response_priming import params

# Seaborn's colour-blind palette with a dark grey for its yellow and pink, which are hardly visible on white, and
# distinct markers, so that no figure relies on colour alone. Nine and ten: 90 arms differ in at least one of the two.
_PALETTE = [*(sns.color_palette("colorblind")[place] for place in (0, 1, 2, 3, 4, 5, 9, 7)), (0.25, 0.25, 0.25)]
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "h")

TITLES = {
    params.UNDISTILLED: "Undistilled",
    params.FINE_TUNED: "Fine-tuned",
    params.SHUFFLED: "KD, shuffled responses",
}


def apply_style() -> None:
    """Set fonts, sizes and colours, and make notebooks keep both SVG and PNG of each figure."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "response-priming",
        }
    )
    set_matplotlib_formats("svg", "png")


def title(arm: str) -> str:
    """The name of an arm or strategy as tables and figures print it."""
    if arm.startswith(params.RELEASED):
        return f"{title(arm.removeprefix(params.RELEASED))}, as released"
    return TITLES.get(arm) or params.strategies()[arm]["title"]


def color(arm: str) -> tuple[float, float, float]:
    """The arm's or strategy's colour, the same in every figure of every profile."""
    return tuple(_PALETTE[_place(arm) % len(_PALETTE)])


def marker(arm: str) -> str:
    """The arm's or strategy's marker, the same in every figure of every profile."""
    return _MARKERS[_place(arm) % len(_MARKERS)]


def _place(arm: str) -> int:
    known = params.known_arms()
    # An earlier run may have a strategy that has gone since.
    return known.index(arm) if arm in known else len(known)


def printed(table: pd.DataFrame, name: str, columns: Mapping[str, tuple[str, Any]]) -> Styler:
    """A table for the page: its `columns` (column -> heading and format), in that order, without an index."""
    style = table[list(columns)].style.hide(axis="index")
    style = style.format({key: form for key, (_, form) in columns.items() if form}, na_rep="", escape="html")
    style = style.format_index(lambda key: columns[str(key)][0], axis=1)
    look: Any = [{"selector": cell, "props": "text-align: left; vertical-align: top"} for cell in ("th", "td")]
    # A fixed id instead of a random one, so that a second run writes the same page.
    return style.set_table_styles(look).set_uuid(name)
