"""Stage claims: what the paper claims, what the audit of its logs supports, and what this profile's run measured.

Each claim has one verdict, by a rule fixed here before any run: supported; not testable here, where what the rule needs
was not run or no outcome could have satisfied it; not supported, which is everything else.

- A gain of one arm over another (prompting, distillation): supported if `stats.significant` holds, that is, its 95 %
  interval lies above 0 and its Holm-corrected McNemar p is below 0.05; not testable if the two differ on fewer than six
  problems. Of several primed arms the most accurate one is taken, and p is corrected for all of them.
- The relative gain: the same, and the interval of the relative gain reaches the claimed value.
- The order of the arms, and attention that follows accuracy: supported if Spearman's rank correlation over arms has the
  published sign and an exact permutation p below 0.05 (for attention, of entropy and diagonal over the prompt); not
  testable with fewer than five arms, where no p can be as small, or where all are equal.
- The teacher's confidence: supported if its mean over the problems is lower under the prompt than without, and the p of
  the paired t-test is below 0.05.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import scipy.stats

from response_priming import arms, artifacts, compare, generate, params, stats, style

SUPPORTED, UNSUPPORTED, UNTESTABLE = ("supported", "not supported", "not testable here")
FEWEST_ARMS = 5  # of four, the smallest two-sided permutation p is 2 / 24
BEST = "ground-truth"
METRICS = ("entropy", "diagonal")
Found = tuple[str, str]  # what was measured, in words, and the verdict
ABSENT: Found = ("not run", UNTESTABLE)


def claims(run: params.ClaimsRun) -> pd.DataFrame:
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


def _table(run: params.ClaimsRun, there: set[str]) -> pd.DataFrame:
    facts = arms.published()
    values = json.loads((run.build / "audit" / "variables.json").read_text(encoding="utf-8"))
    found = dict.fromkeys(facts["claims"], ABSENT)
    if "comparison" in there:
        compared = compare.compare(run.compared)
        found |= gain_claims(compared.gains, facts["relative_gain"])
        found["over-fine-tuning"] = gain(over_fine_tuning(compare.read_scores(run.compared), run.rule, seed=run.seed))
        measured = compared.accuracy.set_index("arm")["accuracy"]
        printed = {arm: values["readme_accuracy"] for arm, values in facts["arms"].items()}
        found["order"] = follows({"README's accuracy": pd.Series(printed)}, measured, sign=1)
        if "attention" in there:
            heads = pd.read_parquet(run.build / "attention" / "metrics.parquet")
            there_too = (heads["arm"] != arms.UNDISTILLED) & (heads["region"] == "prompt")
            means = heads[there_too].groupby("arm")[list(METRICS)].mean()
            found["attention"] = follows({name: means[name] for name in METRICS}, measured, sign=-1)
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
    primed = gains[(gains["baseline"] == arms.UNPRIMED) & gains["arm"].map(arms.is_primed)]
    unprimed = gains[(gains["baseline"] == arms.UNDISTILLED) & (gains["arm"] == arms.UNPRIMED)]
    return {
        "priming": gain(primed),
        "relative-gain": relative_gain(primed[primed["arm"] == BEST], claimed),
        "distillation": gain(unprimed),
    }


def over_fine_tuning(scores: Mapping[str, pd.DataFrame], rule: str, *, seed: int) -> pd.DataFrame:
    """The primed arms against the fine-tuned one, in the columns of `tables.gains`."""
    pairs = [(arm, arms.FINE_TUNED) for arm in scores if arms.is_primed(arm)]
    found: pd.DataFrame = compare.gains_of(pairs, scores, rule, seed=seed)
    return found


def gain(rows: pd.DataFrame) -> Found:
    """The largest of several gains over one baseline."""
    if rows.empty:
        return ABSENT
    row: Any = rows.iloc[int(rows["points"].argmax())]
    text = (
        f"{row['title']} over {row['baseline_title']}: {row['points']:+.1f} points "
        f"({style.interval(row['low'], row['high'])}), {row['wins']} wins, {row['losses']} losses, "
        f"p (Holm) {style.p_value(row['p_holm'])}, {style.seeds(row)}"
    )
    return text, verdict_on(row)


def verdict_on(row: Any) -> str:
    """The verdict on one gain, a row of `tables.gains`."""
    if row["differ"] < stats.FEWEST_DISAGREEMENTS:
        return UNTESTABLE
    return SUPPORTED if stats.significant(row) else UNSUPPORTED


def relative_gain(rows: pd.DataFrame, claimed: float) -> Found:
    """One gain, which must also reach a claimed relative one."""
    text, verdict = gain(rows)
    if rows.empty:
        return ABSENT
    row: Any = rows.iloc[0]
    if verdict == SUPPORTED and row["relative_high"] < claimed:
        verdict = UNSUPPORTED
    ends = style.interval(100 * row["relative_low"], 100 * row["relative_high"])
    return f"{text}; relative: {row['relative']:+.1%} ({ends} %)", verdict


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
