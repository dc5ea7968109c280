"""Where the published study contradicts itself, its code or its logs: the numbers, and the table that states them.

The sentences are in params/published-results.yaml and name the numbers in braces; what can be computed is, from the
counts of the logs (`recount`) and the printed figures, and the rest was read in the released code.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from response_priming import params, stats, style
from response_priming.audit.recount import RULE, Counts, boxing, shares

BEST = "ground-truth"


def table(facts: Mapping[str, Any], texts: Mapping[str, str]) -> pd.DataFrame:
    """One row a discrepancy, with the values of `texts` in its sentences."""
    entries = facts["discrepancies"]
    return pd.DataFrame(
        {"no.": number} | {key: text.format_map(texts) for key, text in entry.items()}
        for number, entry in enumerate(entries, start=1)
    )


def values(counts: Counts, facts: Mapping[str, Any], tests: pd.DataFrame) -> dict[str, str]:
    """The numbers of the sentences, as text: printed ones, recounted ones, and those of the released code."""
    return (
        _printed(counts, facts)
        | _arms(counts, facts)
        | _evaluation(counts)
        | _gain(counts, facts, tests)
        | _training(facts)
        | _claims(counts, facts, tests)
    )


def _printed(counts: Counts, facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        "n": f"{counts['n']:,}",
        "model_card": style.percent(facts["model_card_accuracy"]),
        "teacher_confidence_none": str(facts["teacher_confidence"]["none"]),
        "teacher_confidence_confidence": str(facts["teacher_confidence"]["confidence"]),
    }


def _arms(counts: Counts, facts: Mapping[str, Any]) -> dict[str, str]:
    """For each arm the README's per cent and count, its share, the counts that fit the per cent, and the recount."""
    texts: dict[str, str] = {}
    n = facts["n"]
    for arm, found in counts["arms"].items():
        printed, key = facts["arms"][arm], arm.replace("-", "_")
        correct = found["correct"][RULE]
        texts |= {
            f"{key}_readme": f"{100 * printed['readme_accuracy']:.2f} %",
            f"{key}_readme_count": str(printed["readme_count"]),
            f"{key}_readme_share": f"{100 * printed['readme_count'] / n:.2f} %",
            f"{key}_fitting": " or ".join(map(str, fitting(printed["readme_accuracy"], n))) or "no count",
            f"{key}_recount": str(correct),
            f"{key}_accuracy": style.percent(correct / counts["n"]),
            f"{key}_boxed": str(found["boxed"]),
        }
    return texts


def fitting(accuracy: float, n: int) -> list[int]:
    """The counts out of `n` whose percentage has the printed two decimals, cut off behind them as the README does."""
    return [count for count in range(n + 1) if 10_000 * count // n == round(10_000 * accuracy)]


def _evaluation(counts: Counts) -> dict[str, str]:
    n, arms = counts["n"], counts["arms"]
    trained = {arm: found for arm, found in arms.items() if arm != params.UNDISTILLED}
    graded = [found for found in trained.values() if found["graded"] is not None]
    taught = [shares(counts, arm) for arm in trained if arm != params.FINE_TUNED]
    finished = [found["correct"][RULE] - found["capped_correct"] for found in trained.values()]
    return {
        "control_cap": str(arms[params.UNDISTILLED]["cap"]),
        "control_capped": f"{arms[params.UNDISTILLED]['capped']:,}",
        "cap": _span(found["cap"] for found in trained.values()),
        "capped": _span((100 * found["capped"] / n for found in trained.values()), ".1f"),
        "finished": str(sum(n - found["capped"] for found in trained.values())),
        "finished_correct": str(sum(finished)),
        "boxed_share": _span((100 * share["boxed_share"] for share in taught), ".0f"),
        "boxed_right": _span((100 * share["boxed_right"] for share in taught), ".0f"),
        "unboxed_right": _span((100 * share["unboxed_right"] for share in taught), ".0f"),
        "slipped": _span(found["slipped"] for found in trained.values()),
        "by_hand": _span(n - found["answered"]["published"] for found in graded),
        "control_by_hand": str(n - arms[params.UNDISTILLED]["answered"]["published"]),
        "graded_otherwise": _span(found["graded_otherwise"] for found in graded),
    }


def _gain(counts: Counts, facts: Mapping[str, Any], tests: pd.DataFrame) -> dict[str, str]:
    """The headline, Ground Truth against no prompt: claimed, by the README's figures, and recounted."""
    printed = [facts["arms"][arm]["readme_accuracy"] for arm in (BEST, params.UNPRIMED)]
    row: Any = tests.set_index(["arm", "baseline"]).loc[(BEST, params.UNPRIMED)]
    best, unprimed = shares(counts, BEST), shares(counts, params.UNPRIMED)
    gain = 100 * (best["accuracy"] - unprimed["accuracy"])
    primed = tests[~tests["arm"].isin([*params.CONTROLS, params.UNPRIMED]) & (tests["baseline"] == params.UNPRIMED)]
    return {
        "gain_claimed": f"{100 * facts['relative_gain']:.0f} %",
        "gain_printed": f"{100 * (printed[0] / printed[1] - 1):.1f} %",
        "gain": f"{100 * row['relative']:.1f} %",
        "gain_interval": f"{style.interval(100 * row['relative_low'], 100 * row['relative_high'])} %",
        "gain_points": f"{gain:.1f} points",
        "gain_boxing": f"{boxing(best, unprimed):.1f} points",
        "primed_points": _span(primed["points"], "+.1f"),
        "primed_p": style.p_value(primed["p_holm"].max()),
    }


def _training(facts: Mapping[str, Any]) -> dict[str, str]:
    code = facts["code"]
    names = [f"Question {number}" for number in range(1, code["train_problems"] + 1)]
    matching = sum(one == other for one, other in zip(names, sorted(names), strict=True))
    return {
        "train_problems": f"{code['train_problems']:,}",
        "matching": str(matching),
        "prefix_tokens": "{} to {}".format(*code["prefix_tokens"]),
        "dropout_none": str(code["dropout"]["none"]),
        "dropout_primed": str(code["dropout"]["primed"]),
        "scheduled_steps": f"{code['scheduled_steps']:,}",
        "steps": f"{code['steps_taken']:,}",
        "trials": str(code["search_trials"]),
        "search_losses": ", ".join(f"{style.title(arm)} {loss:.2f}" for arm, loss in code["search_loss"].items()),
        "search_loss_worst": f"{code['search_loss'][BEST]:.2f}",
        "search_loss_best": f"{code['search_loss'][params.FINE_TUNED]:.2f}",
    }


def _claims(counts: Counts, facts: Mapping[str, Any], tests: pd.DataFrame) -> dict[str, str]:
    """What the other claims need: leads over the controls, the order by two rules, and attention against accuracy."""
    primed = tests[~tests["arm"].isin([*params.CONTROLS, params.UNPRIMED]) & (tests["baseline"] == params.FINE_TUNED)]
    control: Any = tests.set_index(["arm", "baseline"]).loc[(params.UNPRIMED, params.UNDISTILLED)]
    texts = {
        "over_fine_tuning_points": _span(primed["points"], "+.1f"),
        "over_fine_tuning_p": style.p_value(primed["p_holm"].max()),
        "distillation_points": f"{control['points']:+.1f}",
        "order": _order(counts, RULE),
        "order_last_number": _order(counts, "last-number"),
    }
    for metric, means in facts["attention"].items():
        values = list(means.values())
        rho, p = stats.rank_correlation(values, [counts["arms"][arm]["correct"][RULE] for arm in means])
        texts |= {f"{metric}_rho": f"{rho:+.2f}", f"{metric}_p": style.p_value(p)}
        texts[f"{metric}_range"] = f"{max(values) - min(values):.{3 if metric == 'entropy' else 4}f}"
    return texts


def _order(counts: Counts, rule: str) -> str:
    """The arms from the most accurate one down, with their accuracy."""
    ranked = sorted(counts["arms"], key=lambda arm: -counts["arms"][arm]["correct"][rule])
    shares_of = {arm: counts["arms"][arm]["correct"][rule] / counts["n"] for arm in ranked}
    return ", ".join(f"{style.title(arm)} {style.percent(share)}" for arm, share in shares_of.items())


def _span(numbers: Iterable[float], form: str = "d") -> str:
    """`97.8 to 98.7`, or one number where both ends read the same."""
    found = list(numbers)
    low, high = format(min(found), form), format(max(found), form)
    return low if low == high else f"{low} to {high}"
