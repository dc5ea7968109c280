"""The lead figure: every arm and student with its interval, at the top of the page, for a reader to move.

It is a table of HTML whose last column is drawn by positions in per cent, so it is there without its script, fits a
phone, follows the page's colours, and is read aloud as what it is. report/lead.js moves it from the numbers in it.
"""

import json
from typing import Any

import pandas as pd

from response_priming import paths, style

SHOWN = ["accuracy", "low", "high", "problems_low", "problems_high"]


def script() -> str:
    """The figure's script."""
    return (paths.REPORT / "lead.js").read_text(encoding="utf-8").strip()


def html(slices: pd.DataFrame, rule: str) -> str:
    """The figure, of the accuracies of `compare.slices` (read from its CSV), by this rule at first."""
    rows: dict[str, dict[str, Any]] = {}
    per_cent = (100 * slices[SHOWN]).round(1).to_numpy().tolist()
    lengths = slices["calculations"].map(lambda number: "all" if pd.isna(number) else str(int(number)))
    for arm, by, length, seed, shares in zip(
        slices["arm"], slices["rule"], lengths, slices["seed"], per_cent, strict=True
    ):
        of_choice = rows.setdefault(f"{by} {length}", {})
        if pd.isna(seed):
            of_choice[arm] = [*shares, []]
        else:
            of_choice[arm][-1].append(shares[0])
    titles = dict(zip(slices["arm"], slices["title"], strict=True))
    counts = dict(zip(lengths, slices["n"].astype(int), strict=True))
    values = {
        "titles": titles,
        "rules": list(dict.fromkeys(slices["rule"])),
        "lengths": list(counts),
        "rule": rule,
        "n": counts["all"],
        "seeds": int(slices["seeds"].max()),
        "shown": rows[f"{rule} all"],
        # `<` could end the script that the data are in, a brace begin a shortcode of Quarto's.
        "data": json.dumps({"n": counts, "rows": rows}).replace("<", "\\u003c"),
        "script": script(),
    }
    return style.words("lead.html.jinja", values)
