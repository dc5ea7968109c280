"""The page of two finished runs side by side: the words around the tables and the figure of `compare_runs`."""

import io
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
import pandas as pd

from response_priming import paths, stats, style
from response_priming.report import preview
from response_priming.studies import finished_run, two_runs
from response_priming.studies.finished_run import FinishedRun
from response_priming.studies.two_runs import ABSENT

SIDES = {"a": ("A", None), "b": ("B", None)}


def write(first: str, second: str) -> Path:
    """The page of two runs (see `finished_run.read`), made anew: build/compare-runs/A-B/index.html.

    Raises:
        InputError: one of them is not a finished run, or carries no verdicts by the other's rule.
    """
    a, b = finished_run.read(first), finished_run.read(second)
    page = paths.BUILD / "compare-runs" / f"{_slug(a)}-{_slug(b)}" / "index.html"
    text = "\n\n".join([*_intro(a, b, page), *_parameters(a, b), *_accuracy(a, b), *_claims(a, b)])
    page.parent.mkdir(parents=True, exist_ok=True)
    preview.pandoc(text, "markdown", paths.REPORT, page, f"--metadata=title:{a.name} and {b.name}, side by side")
    return page


def _slug(run: FinishedRun) -> str:
    below = run.folder.relative_to(paths.BUILD) if run.folder.is_relative_to(paths.BUILD) else run.folder.name
    return re.sub(r"[^\w.]+", "-", str(below))


def _intro(a: FinishedRun, b: FinishedRun, page: Path) -> list[str]:
    links = [
        f"[{side}, profile {run.profile}]({quote(os.path.relpath(run.page, page.parent))})"
        for side, run in (("A", a), ("B", b))
        if run.page
    ]
    caption = (
        "Where the two runs come from, by the manifests of all that their answers were made from; made: the last of it."
    )
    return [
        "# The runs",
        f"A is `{a.name}` and B is `{b.name}`. " + (f"Their own pages: {', '.join(links)}." if links else ""),
        _table("origins", two_runs.origins(a, b), {"what": ("", None)} | SIDES, caption),
    ]


def _parameters(a: FinishedRun, b: FinishedRun) -> list[str]:
    found, code = two_runs.differing(a, b), two_runs.differing_code(a, b)
    caption = (
        "The parameters that differ, as the manifests recorded them, with the stages they are of, and the arms or "
        f"strategies, where not all differ. {ABSENT}: not a parameter of that run."
    )
    columns = {"parameter": ("parameter", None), "where": ("stage", None)} | SIDES
    table = _table("parameters", found, columns, caption) if len(found) else "None: the manifests record the same."
    parts = ["# Parameters that differ", table]
    if code:
        modules = ", ".join(f"`{name}`" for name in code)
        parts.append(f"The code that made the answers differs as well, and may be what makes a difference: {modules}.")
    lost = [f"{side}'s `{part}`" for side, run in (("A", a), ("B", b)) for part in run.lost]
    if lost:
        parts.append(f"Without a manifest, and so not looked at: {', '.join(lost)}.")
    return parts


def _accuracy(a: FinishedRun, b: FinishedRun) -> list[str]:
    found = two_runs.accuracy(a, b)
    rule = f"Right is what rule `{a.rule}` says"
    if a.rule != b.rule:
        rule += f", also for B; to see both by B's own rule, `{b.rule}`, exchange A and B"
    return [
        "# Accuracy",
        f"{rule}. {_pairing(found, a, b)} {_outcome(found)}",
        _figure(found, a, b),
        _table("accuracy", _printed(found), _columns(found), _accuracy_caption(found, a, b)),
    ]


def _pairing(found: pd.DataFrame, a: FinishedRun, b: FinishedRun) -> str:
    if two_runs.same_problems(a, b):
        unless = " unless the numbers of its students do not match" if found["paired"].eq(False).any() else ""
        return f"Both asked the same problems, so an arm is compared in pairs, problem by problem{unless}."
    shared = len(a.problems.merge(b.problems))
    text = "They asked different problems, so the two accuracies of an arm are those of independent samples"
    return f"{text}{f'; {shared} are in both, which makes the intervals rather too wide' if shared else ''}."


def _outcome(found: pd.DataFrame) -> str:
    tested = found[found["p"].notna()]
    if tested.empty:
        return "No arm is in both."
    clear = tested[(tested["p_holm"] < stats.SIGNIFICANT) & (tested["low"] * tested["high"] > 0)]
    named = "; ".join(f"{row['title']} {row['points']:+.1f} points" for _, row in clear.iterrows())
    counted = _of("arm", len(tested), len(clear))
    return f"{counted} by interval and corrected p{f': {named}' if named else ''}."


def _of(what: str, both: int, differ: int) -> str:
    """`Both have 6 arms, of which 1 differs`."""
    several, verb = "s" if both != 1 else "", "differ" if differ > 1 else "differs"
    return f"Both have {both} {what}{several}, of which {differ or 'none'} {verb}"


def _about(a: FinishedRun, b: FinishedRun) -> str:
    """`A: 200 test problems, 1 training seed; B: ...; rule last-number`."""
    samples = [
        f"{side}: n = {len(run.problems):,} test problems, {run.seeds} training seed{'s' if run.seeds > 1 else ''}"
        for side, run in (("A", a), ("B", b))
    ]
    return f"{'; '.join(samples)}; rule {a.rule}"


def _accuracy_caption(found: pd.DataFrame, a: FinishedRun, b: FinishedRun) -> str:
    several = max(a.seeds, b.seeds) > 1
    over = f"over problems (Wilson){' or, with several seeds, over both (clustered)' if several else ''}"
    tests = {
        True: f"paired bootstrap over problems{' and seeds' if several else ''} (percentile, 9,999 resamples) and "
        "McNemar's exact test; only A, only B: answers that only one of the two got right",
        False: "Newcombe's interval and the score test for two independent proportions",
    }
    used = "; ".join(text for kind, text in tests.items() if found["paired"].eq(kind).any())
    largest = " (with several seeds, the largest p of them)" if several else ""
    return (
        f"Accuracy of every arm in both runs. {_about(a, b)}. Below each accuracy its 95 % interval, {over}. B minus "
        f"A, with its 95 % interval: {used}{largest}. p (Holm): corrected for all arms of the table. "
        f"{ABSENT}: an arm that this run does not have."
    )


def _columns(found: pd.DataFrame) -> dict[str, tuple[str, Any]]:
    columns: dict[str, tuple[str, Any]] = (
        {"title": ("student", None)} | SIDES | {"points": ("B minus A (points)", None)}
    )
    if found["paired"].eq(True).any():
        columns |= {"only_a": ("only A", "{:.0f}"), "only_b": ("only B", "{:.0f}")}
    return columns | {"p_holm": ("p (Holm)", style.p_value)}


def _printed(found: pd.DataFrame) -> pd.DataFrame:
    """The table with each value and its interval in one cell, below each other, so that a phone can show it."""
    cells = {
        side: [
            ABSENT if np.isnan(x) else f"{x:.1%}\n{_interval(100 * low, 100 * high)}"
            for x, low, high in found[[side, f"{side}_low", f"{side}_high"]].astype(float).to_numpy()
        ]
        for side in "ab"
    }
    ends = found[["points", "low", "high"]].astype(float).to_numpy()
    cells["points"] = ["" if np.isnan(x) else f"{x:+.1f}\n{_interval(low, high)}" for x, low, high in ends]
    return found.assign(**cells)


def _interval(low: float, high: float) -> str:
    """In one line, however narrow the column is."""
    return style.interval(low, high).replace(" ", "\N{NO-BREAK SPACE}")


def _figure(found: pd.DataFrame, a: FinishedRun, b: FinishedRun) -> str:
    with mpl.rc_context(), io.StringIO() as drawn:
        style.apply_style()
        two_runs.figure(found).savefig(drawn, format="svg")
        svg = drawn.getvalue()
    alt = "Dot plot with a row for each arm: its accuracy in A as a filled marker, and in B as a hollow one."
    picture = preview.image({"data": {"image/svg+xml": svg}}, f"{alt} {_ends(found)}")
    caption = f"Accuracy of every arm in A (filled) and in B (hollow) with 95 % intervals. {_about(a, b)}."
    return preview.figure("fig-accuracy", str(picture), caption)


def _ends(found: pd.DataFrame) -> str:
    """Where B gains and loses most, in words."""
    tested = found[found["p"].notna()]
    if tested.empty:
        return "No arm is in both."
    points = tested.set_index("title")["points"].astype(float)
    return (
        f"B minus A lies between {points.min():+.1f} points ({points.idxmin()}) and {points.max():+.1f} points "
        f"({points.idxmax()})."
    )


def _claims(a: FinishedRun, b: FinishedRun) -> list[str]:
    found = two_runs.claims(a, b)
    if found.empty:
        return ["# Claims of the paper", "Neither run has verdicts on them; `make paper` makes them."]
    both = found.dropna()
    changed = int((both["a"] != both["b"]).sum())
    caption = (
        "The verdict on each claim of the paper, as each run's own notebook gives it, by its own rule. "
        f"{ABSENT}: no verdict on the comparison that is shown here."
    )
    columns: style.Columns = {"claim": ("claim of the paper", None)} | SIDES
    return [
        "# Claims of the paper",
        f"{_of('verdict', len(both), changed)}." if len(both) else "Only one of them has verdicts.",
        _table("claims", found.fillna(ABSENT), columns, caption),
    ]


def _table(name: str, found: pd.DataFrame, columns: style.Columns, caption: str) -> str:
    shown = preview.table(style.printed(found, name, columns).to_html())
    return preview.figure(f"tbl-{name}", str(shown), caption)
