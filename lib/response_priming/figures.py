"""One style for every figure, one colour and marker for every arm."""

import matplotlib as mpl
import seaborn as sns
from matplotlib_inline.backend_inline import set_matplotlib_formats

from response_priming import params

# Seaborn's colour-blind palette and distinct markers, so that no figure relies on colour alone.
_PALETTE = sns.color_palette("colorblind")
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


def color(arm: str, arms: list[str]) -> tuple[float, float, float]:
    """The arm's colour; `arms` is the profile's list, whose order decides."""
    return tuple(_PALETTE[arms.index(arm) % len(_PALETTE)])


def marker(arm: str, arms: list[str]) -> str:
    """The arm's marker; `arms` is the profile's list, whose order decides."""
    return _MARKERS[arms.index(arm) % len(_MARKERS)]
