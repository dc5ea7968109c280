"""Variables of the manuscript: what `{{< var KEY >}}` may name in index.qmd.

The words are in report/variables.yml.jinja. Here are the numbers for them: results as the stages wrote them, settings,
and where they come from.
"""

import functools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from response_priming import arms, artifacts, attention, notebooks, params, paths, stats, style
from response_priming.errors import InputError
from response_priming.evaluate.verdicts import PRIMARY, on, on_primary
from response_priming.report import lead, origins

TEMPLATE = "variables.yml.jinja"
TABLES = ("accuracy", "gains", "teacher", "lengths", "leakage", "rules", "calibration")  # of the comparison
STAGES = ("comparison", "attention", "audit", "claims")  # folders of the stages that the page reads


def known() -> list[str]:
    """Every key that index.qmd may name."""
    return re.findall(r"^(\w+):", (paths.REPORT / TEMPLATE).read_text(encoding="utf-8"), re.MULTILINE)


def texts(values: dict[str, Any]) -> dict[str, str]:
    """The value of every key as text, from what the template names (see `values`).

    Raises:
        InputError: the template is not one, or names what is not there.
    """
    try:
        filters = {
            "origin": functools.partial(origins.linked, known=values["origins"]),
            "parameter": functools.partial(origins.parameter, profile=values["profile"], tried=values["tried"]),
        }
        return dict(yaml.load(style.words(TEMPLATE, values, **filters), yaml.BaseLoader))
    except (jinja2.TemplateError, yaml.YAMLError) as error:
        raise InputError(f"{paths.REPORT / TEMPLATE}: {' '.join(str(error).split())}") from None


def sentences(profile: params.Profile, tried: origins.Tried = origins.NONE_TRIED) -> dict[str, str]:
    """The value of every key, of a profile whose stages have all run; `InputError` as of `texts`.

    Args:
        tried: see `report.render`.
    """
    found = values(profile, renderer=renderer()) | {"tried": tried}
    return {key: style.bound(text) for key, text in texts(found).items()}


def renderer() -> str:
    """What renders the page here, as the page says it."""
    return "Quarto" if quarto() else "pandoc preview"


def quarto() -> str | None:
    """The Quarto executable: on PATH, or beside this Python, where an environment that is not activated keeps it."""
    return shutil.which("quarto") or shutil.which("quarto", path=str(Path(sys.executable).parent))


def values(profile: params.Profile, renderer: str) -> dict[str, Any]:
    """What the template names of a profile whose stages have all run."""
    build = profile.build
    analysis = attention.read(build / "attention")
    # Only empty fields are missing values: an arm is called "none".
    accuracy, gains, teacher, lengths, leaked, rules, calibration, claimed = (
        pd.read_csv(build / f"{name}.csv", keep_default_na=False, na_values=[""])
        for name in (*(f"comparison/{name}" for name in TABLES), "claims/claims")
    )
    compared, released = (
        json.loads((build / folder / "variables.json").read_text(encoding="utf-8"))
        for folder in ("comparison", "audit")
    )
    longest = lengths["calculations"].max()
    by_rule = {rule: table.set_index("arm")["accuracy"] for rule, table in rules.groupby("rule", sort=False)}
    kd = [arm for arm in accuracy["arm"] if arms.is_distilled(arm)]
    found = {
        **settings(profile),
        **headline(accuracy, gains, teacher),
        "compared": compared,
        "longest": {row["arm"]: row for row in lengths.to_dict("records") if row["calculations"] == longest},
        "leaked": leaked.to_dict("records"),
        "rules": list(by_rule),
        "ahead": [rule for rule, found in by_rule.items() if kd and found.get(arms.FINE_TUNED, 0) > found[kd].max()],
        "aurocs": list(calibration["auroc"].dropna()),
        "attention": attention.summary(analysis.metrics, analysis.divergent, analysis.tests),
        "released": released,
        "verdicts": list(claimed["verdict"]),
        "fixed": rules_fixed(build),
        "executed": {node.stage: notebooks.PAGES[node.stage] for node in notebooks.executed_extras(profile)},
        "made": made(profile),
        "renderer": renderer,
    }
    return found | {"origins": origins.origins(profile, found), "tried": origins.NONE_TRIED}


def settings(profile: params.Profile) -> dict[str, Any]:
    """The profile, and what follows from it: passes over the training problems, the divergence in words."""
    distill = profile.distill
    passes = distill.train_steps * distill.train_batch / (profile.problems.n_train * (1 - distill.held_out))
    return {"profile": profile, "passes": passes, "divergence": distill.soft_loss.words}


def headline(accuracy: pd.DataFrame, gains: pd.DataFrame, teacher: pd.DataFrame) -> dict[str, Any]:
    """The rows that the text speaks of, of the tables of `compare`; None for what was not run.

    The best KD arm is the most accurate of the unprimed and the primed ones, the first of several. A gain has its
    `verdict` by the rules of `evaluate.verdicts`, and what it `lacks`; that of the best KD arm over the undistilled
    student is `wide` where it is wider than the arm's own interval.
    """
    names = {row["arm"]: row for row in accuracy.to_dict("records")}
    pairs = {(row["arm"], row["baseline"]): row for row in gains.to_dict("records")}
    for pair, row in pairs.items():
        alone = pair in PRIMARY
        row |= {"verdict": on(row, alone=alone), "lacks": stats.shortfall(row)}
    primed = [arm for arm in names if arms.is_primed(arm)]
    kd = [arm for arm in names if arms.is_distilled(arm)]
    best, best_primed = (max(some, key=lambda arm: names[arm]["accuracy"], default="") for some in (kd, primed))
    if gain := pairs.get((best, arms.UNDISTILLED)):
        gain |= {"wide": gain["points"] > 100 * (names[best]["high"] - names[best]["low"])}
    ranked: list[Any] = [*teacher.sort_values("accuracy", kind="stable").to_dict("records")] or [None]
    return {
        "undistilled": names.get(arms.UNDISTILLED),
        "shown": names.get(arms.SHOWN),
        "fine_tuned": names.get(arms.FINE_TUNED),
        "unprimed": names.get(arms.UNPRIMED),
        "neutral": names.get(arms.NEUTRAL),
        "best_kd": names.get(best),
        "kd_gain": gain,
        "tuned_gain": pairs.get((best, arms.FINE_TUNED)),
        "primary": pairs.get(PRIMARY[0]),
        "primary_over_neutral": pairs.get(PRIMARY[1]),
        "primary_verdict": on_primary(pairs),
        "best_primed": names.get(best_primed),
        "primed_gain": pairs.get((best_primed, arms.UNPRIMED)),
        "teacher_best": ranked[-1],
        "teacher_worst": ranked[0],
    }


def rules_fixed(build: Path) -> dict[str, Any] | None:
    """The digest of the rules of the verdicts and the `date` at which they were written, and whether that was `before`
    the first evaluation; None where they were not."""
    if (rules := artifacts.manifest(build / "rules")) is None:
        return None
    answered = [artifacts.read(file.parent)["date"] for file in build.glob(f"answers/*/seed-*/{artifacts.FILE}")]
    digest = rules["outputs"]["rules.json"].removeprefix("sha256:")
    return {"digest": digest, "date": rules["date"], "before": rules["date"] <= min(answered, default=rules["date"])}


def settled_table(profile: params.Profile) -> str:
    """Where a profile of the embedded model has too few students, the table of the one that has them."""
    embedded = profile.model.student == "embedded" and profile.problems.dataset == "procedural"
    if len(profile.seeds) >= stats.FEWEST["seeds"][0] or not embedded:
        return ""
    table = (paths.REPORT / "laptop-full.md").read_text(encoding="utf-8")
    return f'::: {{.scroll tabindex="0"}}\n\n{table}\n:::\n'  # wider than a phone


def findings(checks: pd.DataFrame) -> pd.DataFrame:
    """What the doctor found (see `studies.doctor.Row`), in words: of whom (`title`), what is `wrong`, and what to
    `change`."""
    words = arms.read_yaml(paths.REPORT / "doctor.yaml")["findings"]
    rows: list[Any] = checks[checks["finding"] != ""].to_dict("records")
    said = [[style.filled(words[row["finding"]][key], row) for key in ("wrong", "change")] for row in rows]
    table = pd.DataFrame(said, columns=["wrong", "change"])
    return table.assign(title=[arms.title(row["arm"]) for row in rows])


def diagnosis(profile: params.Profile) -> str:
    """Why distillation loses to fine-tuning, in Markdown: what the doctor found, where its notebook was executed."""
    folder = paths.BUILD / profile.name / "doctor"
    values: dict[str, Any] = {"goal": f"make doctor PROFILE={profile.name}", "students": 0}
    if any(node.stage == "doctor" for node in notebooks.executed_extras(profile)):
        options: dict[str, Any] = {"keep_default_na": False, "na_values": {"value": [""], "points": [""]}}
        checks, rungs = (pd.read_csv(folder / f"{name}.csv", **options) for name in ("checks", "rungs"))
        found = findings(checks).groupby(["wrong", "change"], sort=False)["title"].unique()
        values["findings"] = found.reset_index().to_dict("records")
        values["students"] = len(checks[checks["arm"] != ""].drop_duplicates(["arm", "seed"]))
        values["rungs"] = rungs.to_dict("records")
    commit = ((artifacts.manifest(folder) or {}).get("git_commit") or "unknown")[:12]
    known = {name: origins.Origin(f"doctor-preview.html#cell-tbl-{name}", f"doctor.ipynb, tbl-{name}; commit {commit}")
             for name in ("checks", "rungs")}  # fmt: skip
    return style.words("_doctor.md.jinja", values, origin=functools.partial(origins.linked, known=known))


def lead_figure(profile: params.Profile) -> str:
    """The lead figure, in HTML, by the rule of the headline."""
    table = pd.read_csv(profile.build / "comparison" / "slices.csv", keep_default_na=False, na_values=[""])
    return lead.html(table, profile.evaluate.rule)


def strategies_table(profile: params.Profile) -> str:
    """The profile's strategies with their prefixes, verbatim, as a table in Markdown."""
    entries = [arms.strategies()[name] for name in profile.strategies]
    return style.words("_strategies.md.jinja", {"strategies": entries})


def made(profile: params.Profile) -> dict[str, Any]:
    """Where the results come from: the manifest of the comparison, not this process; its `day`, and the `commit`."""
    manifest = artifacts.read(profile.build / "comparison")
    commit, day = (manifest["git_commit"] or "unknown")[:12], manifest["date"].partition(" ")[0]
    return manifest | {"commit": commit, "day": day}
