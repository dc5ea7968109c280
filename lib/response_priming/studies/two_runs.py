"""Two finished runs, A and B, side by side: what they were made with, and how much the same arm differs between them.

Not stage compare, which sets the arms of one profile side by side. Where both runs asked the same problems, an arm's
difference is paired, problem by problem, as there; else the two accuracies are of independent samples.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from statsmodels.stats.multitest import multipletests

from response_priming import artifacts, params, scoring, stats, style
from response_priming.errors import InputError
from response_priming.extraction import RULES
from response_priming.studies.finished_run import FinishedRun

# In a recipe, but no choice of the run: what the folder is for, and texts of the tables.
NO_PARAMETERS = frozenset({"arm", "strategy", "train_seed", "titles", "published"})
COMPARE = params.CompareRun.stage
ABSENT = "—"


# --- what they were made with ---


def origins(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """Where both come from: columns `what`, `a` and `b`."""
    return pd.DataFrame({"what": list(_origin(a)), "a": list(_origin(a).values()), "b": list(_origin(b).values())})


def _origin(run: FinishedRun) -> dict[str, str]:
    dates = sorted(run.recorded("date"))
    packages = [f"{name} {version}" for made in run.recorded("packages") for name, version in made.items()]
    recorded = {
        "commit": [commit[:10] for commit in run.recorded("git_commit")],
        "made": [f"{date} UTC" for date in dates[-1:]],
        "machine": run.recorded("machine"),
        "versions": [f"Python {version}" for version in run.recorded("python")] + list(dict.fromkeys(packages)),
    }
    named = {"run": run.name, "profile": run.profile}
    return named | {what: ", ".join(values) or "not recorded" for what, values in recorded.items()}


def differing(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """The parameters that differ, by the recipes of what both have: `parameter`, `where` (stages, arms), `a`, `b`."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    both = list(_recipes_of_both(a, b))
    for place, old, new in both:
        old, new = old["parameters"], new["parameters"]
        for name in [name for name in old | new if name not in NO_PARAMETERS]:
            row = (name, *(_shown(values[name]) if name in values else ABSENT for values in (old, new)))
            if row[1] != row[2]:
                found.setdefault(row, []).append(place)
    everywhere = [place for place, *_ in both]
    rows = [(name, _where(places, everywhere), old, new) for (name, old, new), places in found.items()]
    return pd.DataFrame(rows, columns=["parameter", "where", "a", "b"])


def differing_code(a: FinishedRun, b: FinishedRun) -> list[str]:
    """The modules whose code differs where it made answers; what compares them does not matter, it is run anew."""
    changed = set()
    for (stage, _), old, new in _recipes_of_both(a, b):
        if stage != COMPARE:
            changed |= {stem for stem, _ in old["code"].items() ^ new["code"].items()}
    return [f"{name.replace('.', '/')}.py" for name in sorted(changed)]


def _recipes_of_both(a: FinishedRun, b: FinishedRun) -> Iterator[tuple[tuple[str, str], Any, Any]]:
    old, new = a.recipes(), b.recipes()
    return ((place, old[place], new[place]) for place in old if place in new)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    text = str(value)
    if text.startswith("sha256:"):
        return text.removeprefix("sha256:")[:16]
    return text if text and text == text.strip() else repr(text)


def _where(places: list[tuple[str, str]], everywhere: list[tuple[str, str]]) -> str:
    """`distill: KD, Teacher`; a stage alone where it holds for all that both have of it."""
    parts = []
    for stage in dict.fromkeys(stage for stage, _ in places):
        items = [item for name, item in places if name == stage]
        of_stage = [item for name, item in everywhere if name == stage]
        parts.append(stage if items == of_stage else f"{stage}: {'; '.join(map(style.title, items))}")
    return "\n".join(parts)


# --- how much they differ ---


def same_problems(a: FinishedRun, b: FinishedRun) -> bool:
    """Whether both asked the same problems: ids, questions and answers, since ids repeat from data set to data set."""
    return a.problems.equals(b.problems)


def accuracy(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """One row an arm that either has, by A's rule: both accuracies with their intervals, and their difference.

    Columns: `arm`, `title`; `a`, `a_low`, `a_high` and the same of `b` (shares); those of `difference`, missing unless
    both have the arm; `p_holm`, which is p corrected for all arms.

    Raises:
        InputError: answers of one of them carry no verdict of A's rule.
    """
    same, rows = same_problems(a, b), []
    for arm in dict.fromkeys([*a.answers, *b.answers]):
        row: dict[str, Any] = {"arm": arm, "title": style.title(arm)}
        right = {side: _right(run, arm, a.rule) for side, run in (("a", a), ("b", b)) if arm in run.answers}
        for side, one in right.items():
            low, high = stats.accuracy_interval(one)
            row |= {side: float(one.mean()), f"{side}_low": low, f"{side}_high": high}
        rows.append(row | (stats.difference(right["a"], right["b"], same=same) if len(right) == 2 else {}))
    sides = [f"{side}{end}" for side in "ab" for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["arm", "title", *sides, *stats.DIFFERENCE])
    tested = table["p"].notna()
    corrected = multipletests(table.loc[tested, "p"].astype(float), method="holm")[1] if tested.any() else []
    return table.assign(p_holm=pd.Series(corrected, index=table.index[tested], dtype=float))


def _right(run: FinishedRun, arm: str, rule: str) -> Any:
    answers = run.answers[arm]
    if f"{rule}-correct" not in answers:
        have = ", ".join(name for name in RULES if f"{name}-correct" in answers)
        raise InputError(f"{run.name}: scores/{arm} has no verdicts by rule {rule!r}; it has those of {have}")
    return scoring.by_student(answers, rule)


def claims(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """The verdict on each claim in both runs: `claim`, `a`, `b`, missing where a run has none; no rows for neither."""
    verdicts = {side: pd.Series(_verdicts(run), dtype=str) for side, run in (("a", a), ("b", b))}
    return pd.concat(verdicts, axis=1, sort=False).rename_axis("claim").reset_index()


def _verdicts(run: FinishedRun) -> dict[str, str]:
    """Claim -> verdict; none where the verdicts are not on this comparison."""
    folder, compared = run.folder / "claims", run.manifests.get("comparison")
    if compared is None or not (folder / artifacts.FILE).exists():
        return {}
    if artifacts.read(folder)["recipe"]["inputs"].get("comparison") != compared["outputs"]:
        return {}
    table = pd.read_csv(folder / "claims.csv", keep_default_na=False)
    return dict(zip(table["claim"], table["verdict"], strict=True))


# --- figure ---


def figure(found: pd.DataFrame) -> Figure:
    """Both accuracies of every arm (see `accuracy`) with their intervals: A filled, B hollow below it."""
    arms = list(found["arm"])
    drawing = Figure(figsize=(7, 0.8 + 0.7 * len(arms)), layout="constrained")
    axes = drawing.subplots()
    for y, row in enumerate(found.to_dict("records")):
        look: dict[str, Any] = {
            "color": style.color(row["arm"]),
            "marker": style.marker(row["arm"]),
            "markersize": 7,
        }
        for side, place, fill in (("a", y - 0.18, look["color"]), ("b", y + 0.18, "white")):
            x, low, high = (100 * row[key] for key in (side, f"{side}_low", f"{side}_high"))
            if not np.isnan(x):
                axes.errorbar(x, place, xerr=[[x - low], [high - x]], capsize=3, markerfacecolor=fill, **look)
                # Beside the interval, on the side where there is room.
                at, offset, aligned = (low, -6, "right") if high > 85 else (high, 6, "left")
                text: dict[str, Any] = {"ha": aligned, "va": "center", "fontsize": "small"}
                label = f"{side.upper()} {x:.1f}"
                axes.annotate(label, (at, place), (offset, 0), textcoords="offset points", **text)
    axes.set_yticks(range(len(arms)), labels=list(found["title"]))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("Accuracy on test problems (%)")
    return drawing
