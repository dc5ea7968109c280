"""Stage claims: what the paper claims, what the audit of its logs supports, and what this profile's run measured.

Each claim has one verdict: supported, not supported, not settled by this profile, or not testable here. Which of them
a gain of one arm over another has (prompting, distillation) is said by `evaluate.verdicts`, whose rules were written
down before the first evaluation. The paper's claim that priming helps is about Ground Truth. The others:

- Prompted distillation beats fine-tuning: by the largest gain of a primed arm, corrected for all of them.
- The relative gain: as priming, and the interval of that over the unprimed student reaches the claimed value.
- The order of the arms, and attention that follows accuracy: supported if Spearman's rank correlation over arms has the
  published sign and an exact permutation p below 0.05 (for attention, of entropy and diagonal over the prompt); not
  settled where that would be said of fewer than three students an arm; not testable with fewer than five arms, where
  no p can be as small, or where all are equal.
- The teacher's confidence: supported if its mean over the problems is lower under the prompt than without, and the p of
  the paired t-test is below 0.05.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import scipy.stats

from response_priming import arms, artifacts, compare, generate, stats, style
from response_priming.evaluate.verdicts import PRIMARY, SUPPORTED, UNSETTLED, UNSUPPORTED, UNTESTABLE, on, on_primary

if TYPE_CHECKING:
    from response_priming import params

FEWEST_ARMS = 5  # of four, the smallest two-sided permutation p is 2 / 24
METRICS = ("entropy", "diagonal")
Found = tuple[str, str]  # what was measured, in words, and the verdict
ABSENT: Found = ("not run", UNTESTABLE)


def claims(run: "params.ClaimsRun") -> pd.DataFrame:
    """The verdicts on all claims, a row a claim; computed unless they are there already.

    Columns: `claim`; `audit`, what the released logs say of it; `here`, what was measured; `verdict`.

    Raises:
        InputError: the audit was not made yet. What else is missing makes a claim not testable.
    """
    folder = run.folders[0]

    def write(aside: Path) -> None:
        _table(run, {path.name for path in folder.reads}).to_csv(aside / "claims.csv", index=False)

    made = artifacts.made(folder.path, artifacts.recipe(run, folder), write)
    return pd.read_csv(made / "claims.csv", keep_default_na=False)


def _table(run: "params.ClaimsRun", there: set[str]) -> pd.DataFrame:
    facts = arms.published()
    values = json.loads((run.build / "audit" / "variables.json").read_text(encoding="utf-8"))
    found = dict.fromkeys(facts["claims"], ABSENT)
    if "comparison" in there:
        compared = compare.compare(run.compared)
        found |= gain_claims(compared.gains, facts["relative_gain"])
        measured, students = (compared.accuracy.set_index("arm")[key] for key in ("accuracy", "seeds"))
        printed = {arm: values["readme_accuracy"] for arm, values in facts["arms"].items()}
        found["order"] = follows({"README's accuracy": pd.Series(printed)}, measured, sign=1)
        if "attention" in there:
            heads = pd.read_parquet(run.build / "attention" / "metrics.parquet")
            there_too = (heads["arm"] != arms.UNDISTILLED) & (heads["region"] == "prompt")
            means = heads[there_too].groupby("arm")[list(METRICS)].mean()
            found["attention"] = follows({name: means[name] for name in METRICS}, measured, sign=-1)
        if students.drop(list(arms.UNTRAINED), errors="ignore").min() < stats.FEWEST["seeds"][0]:
            ranked = {name: found[name] for name in ("order", "attention") if found[name][1] != UNTESTABLE}
            found |= {name: (words, UNSETTLED) for name, (words, _) in ranked.items()}
    if {arms.UNPRIMED, "confidence"} <= there:
        found["teacher-confidence"] = confidence(
            *(generate.read(run.build / "responses" / strategy) for strategy in (arms.UNPRIMED, "confidence"))
        )
    return pd.DataFrame(
        {key: style.filled(text, values) for key, text in entry.items()}
        | {"here": found[name][0], "verdict": found[name][1]}
        for name, entry in facts["claims"].items()
    )


# --- the rules ---


def gain_claims(gains: pd.DataFrame, claimed: float) -> dict[str, Found]:
    """The claims that rows of `tables.gains` decide."""
    rows: dict[tuple[str, str], Any] = {(row["arm"], row["baseline"]): row for row in gains.to_dict("records")}
    main, verdict = [rows[pair] for pair in PRIMARY if pair in rows], on_primary(rows)
    priming = relative = ABSENT
    if verdict != UNTESTABLE:
        words = "; ".join(_words(row, alone=True) for row in main)
        ends = style.interval(100 * main[0]["relative_low"], 100 * main[0]["relative_high"])
        reached = verdict != SUPPORTED or main[0]["relative_high"] >= claimed
        priming = words, verdict
        share = 100 * main[0]["relative"]
        relative = f"{words}; relative: {share:+.1f} % ({ends} %)", verdict if reached else UNSUPPORTED
    over_tuned = gains[(gains["baseline"] == arms.FINE_TUNED) & gains["arm"].map(arms.is_primed)]
    return {
        "priming": priming,
        "relative-gain": relative,
        "over-fine-tuning": gain(over_tuned),
        "distillation": gain(gains[(gains["baseline"] == arms.UNDISTILLED) & (gains["arm"] == arms.UNPRIMED)]),
    }


def gain(rows: pd.DataFrame) -> Found:
    """The largest of several gains over one baseline."""
    if rows.empty:
        return ABSENT
    row: Any = rows.iloc[int(rows["points"].argmax())]
    return _words(row), on(row)


def _words(row: Any, *, alone: bool = False) -> str:
    low, high, p = (row[f"alone_{key}" if alone else key] for key in ("low", "high", "p"))
    found = f"{row['detectable']:.1f} points would have been found four times in five"
    return (
        f"{row['title']} over {row['baseline_title']}: {row['points']:+.1f} points ({style.interval(low, high)}), "
        f"{'p' if alone else 'corrected p'} {style.p_value(p)}, {style.seeds(row)}; {stats.shortfall(row) or found}"
    )


def follows(quantities: Mapping[str, "pd.Series[float]"], measured: "pd.Series[float]", *, sign: int) -> Found:
    """Whether quantities (name -> arm -> value) rise (sign 1) or fall (sign -1) with the measured accuracy."""
    parts, verdict = [], SUPPORTED
    for name, values in quantities.items():
        pairs = pd.concat([values, measured], axis=1, join="inner").to_numpy(float)
        if len(pairs) < FEWEST_ARMS or (pairs == pairs[0]).all(axis=0).any():
            return f"{len(pairs)} arms", UNTESTABLE
        rho, p = stats.rank_correlation(*pairs.T)
        parts.append(f"rank correlation with {name} {rho:+.2f}, p {style.p_value(p)}")
        if sign * rho <= 0 or p >= stats.SIGNIFICANT:
            verdict = UNSUPPORTED
    return f"{len(pairs)} arms: {'; '.join(parts)}", verdict


def confidence(unprompted: pd.DataFrame, prompted: pd.DataFrame) -> Found:
    """The teacher's confidence (see `store.summarise`) with the prompt that asks for a double check, against
    without; the first response to each problem counts."""
    before, after = (one.query("sample == 0").set_index("problem_id")["confidence"] for one in (unprompted, prompted))
    change = (after - before).dropna()
    test = scipy.stats.ttest_1samp(change, 0.0)
    low, high = test.confidence_interval(0.95)
    text = (
        f"mean probability of the teacher's most likely token: {after.mean():.3f} with the prompt, "
        f"{before.mean():.3f} without; difference {change.mean():+.3f} ({low:+.3f} to {high:+.3f}), "
        f"{len(change)} problems, p {style.p_value(test.pvalue)}"
    )
    return text, SUPPORTED if change.mean() < 0 and test.pvalue < stats.SIGNIFICANT else UNSUPPORTED
