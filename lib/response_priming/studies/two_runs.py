"""Two finished runs, A and B: what each was made with, and how much the same arm differs between them.

What a run was made with comes from its manifests alone: its profile's YAML may have changed since. An arm's difference
is paired over the problems that both asked, as in stage compare, which sets the arms of one run side by side; other
problems are independent samples.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from response_priming import arms, artifacts, params, paths, provenance, scoring, stats
from response_priming.errors import InputError

# In a recipe, but no choice of the run: what the folder is for, and texts of the tables.
NO_PARAMETERS = frozenset({"arm", "strategy", "train_seed", "titles", "published"})
ABSENT = "—"


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its answers, and the manifests of all that they were made from (see `read_run`).

    `home` is the folder of the run's profile: `folder` itself, unless the run is an explored one. `manifests`: of every
    stage folder that the answers come from, by its path below the run, as `scores/none/seed-0`, readers first; `lost`
    are those that are not there. `answers`: arm -> graded answers (see `evaluate.answer`), of every student in the
    order of the problems' ids.
    """

    folder: Path
    home: Path
    profile: str
    rule: str
    manifests: dict[str, dict[str, Any]]
    lost: list[str]
    answers: dict[str, pd.DataFrame]

    @property
    def name(self) -> str:
        """As it can be given at the project's folder: a profile, or a path."""
        of_profile = self.folder.parent == paths.BUILD and self.folder.name in params.profiles()
        return self.folder.name if of_profile else paths.shown(self.folder)

    @property
    def slug(self) -> str:
        """The run in the name of a folder: `laptop`, `laptop-explored-1a2b3c4d`."""
        return re.sub(r"[^\w.]+", "-", str(self.folder.relative_to(self.home.parent)))

    @property
    def link(self) -> str | None:
        """A link to the page of the run's profile, from the folder that this runs in; None where there is no page."""
        page = self.home / "report" / "_site" / "index.html"
        return quote(os.path.relpath(page)) if page.exists() else None

    @property
    def problems(self) -> pd.DataFrame:
        """What the arms were asked: `problem_id`, `question` and `answer`, one row a problem."""
        asked = next(iter(self.answers.values()))[["problem_id", "question", "answer"]]
        return asked.drop_duplicates("problem_id", ignore_index=True)

    @property
    def seeds(self) -> int:
        """How many students the trained arms have."""
        return max(answers["seed"].nunique() for answers in self.answers.values())

    def recorded(self, key: str) -> list[Any]:
        """What the manifests say under a key, each value once; those that are older than the key say nothing."""
        values = [made[key] for made in self.manifests.values() if made.get(key)]
        return [value for place, value in enumerate(values) if value not in values[:place]]

    def recipes(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(stage, strategy or arm) -> recipe; of an arm with several students, that of the first."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for part, made in self.manifests.items():
            item = part.split("/")[1] if "/" in part else ""
            recipe = found.setdefault((made["recipe"]["stage"], item), made["recipe"] | {"code": {}})
            recipe["code"] = recipe["code"] | made["recipe"]["code"]  # of what was answered, and of how it was scored
        return found


def read_run(name: str) -> FinishedRun:
    """A finished run: a profile's, or that in a folder, a copy of build/PROFILE/ or what a notebook left in explored/.

    An explored comparison is of its profile's scores; explored scores are read by the rule of its profile's comparison.

    Raises:
        InputError: no such profile or folder; it holds no run; its comparison is missing, or older than its scores.
    """
    known = params.profiles()
    folder = paths.BUILD / name if name in known else Path(name).expanduser().resolve()
    if name not in known and not folder.is_dir():
        raise InputError(f"{name}: neither a profile ({', '.join(known)}) nor a folder")
    home = folder.parent.parent if folder.parent.name == "explored" else folder
    explored = sorted(folder.glob("scores/*/seed-*")) if folder != home else []
    compared = (home if explored else folder) / "comparison"
    if not (compared / artifacts.FILE).exists():
        if compared.parent.parent == paths.BUILD and (profile := compared.parent.name) in known:
            raise InputError(f"{name}: no comparison yet; `make paper PROFILE={profile}` makes it")
        raise InputError(f"{name}: not a run to compare: a run has comparison/, an explored one comparison/ or scores/")
    manifests: dict[str, dict[str, Any]] = {}
    places: dict[str, Path] = {}
    pending, lost = [path.relative_to(folder).as_posix() for path in explored] or ["comparison"], set()
    while pending:
        part = pending.pop(0).removeprefix(f"{folder.relative_to(home).as_posix()}/")  # as if it were the profile's
        there = [below / part for below in (folder, home) if (below / part / artifacts.FILE).exists()]
        if not there:
            lost.add(part)
        elif part not in manifests:
            manifests[part], places[part] = artifacts.read(there[0]), there[0]
            pending += manifests[part]["recipe"]["inputs"]
    profile = json.loads((compared / "variables.json").read_text(encoding="utf-8"))["profile"]
    recipe = artifacts.read(compared)["recipe"]
    answers = _answers(places, compared, {} if explored else recipe["inputs"])
    return FinishedRun(folder, home, profile, recipe["parameters"]["rule"], manifests, sorted(lost), answers)


def _answers(places: dict[str, Path], compared: Path, seen: dict[str, dict[str, str]]) -> dict[str, pd.DataFrame]:
    """The scores among these parts, refused unless they are those that the comparison has seen."""
    blocks: dict[str, list[pd.DataFrame]] = {}
    for part in (part for part in places | seen if part.startswith("scores/")):
        file = places.get(part, compared.parent / part) / "answers.parquet"
        if part in seen and not (file.exists() and provenance.digest(file) == seen[part][file.name]):
            raise InputError(
                f"{file}: {'changed since' if file.exists() else 'missing, but read by'} "
                f"{compared}; `make paper` makes both again"
            )
        _, arm, seed = part.split("/")
        if arm not in arms.known():
            raise InputError(f"{file.parent}: arm {arm!r} is not in params/prompts.yaml any more")
        answers = pd.read_parquet(file).sort_values("problem_id", kind="stable")
        blocks.setdefault(arm, []).append(answers.assign(seed=int(seed.removeprefix("seed-"))))
    return {arm: pd.concat(several, ignore_index=True) for arm, several in blocks.items()}


# --- what they were made with ---


def origins(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """Where both come from: columns `what`, `a` and `b`."""
    found = {}
    for side, run in (("a", a), ("b", b)):
        packages = [f"{name} {version}" for made in run.recorded("packages") for name, version in made.items()]
        recorded = {
            "commit": [commit[:10] for commit in run.recorded("git_commit")],
            "made": [f"{date} UTC" for date in sorted(run.recorded("date"))[-1:]],
            "machine": run.recorded("machine"),
            "versions": [f"Python {version}" for version in run.recorded("python")] + list(dict.fromkeys(packages)),
        }
        said = {what: ", ".join(values) or "not recorded" for what, values in recorded.items()}
        found[side] = {"run": run.name, "profile": run.profile} | said
    return pd.DataFrame(found).rename_axis("what").reset_index()


def differing(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """The parameters that differ, by the recipes of what both have: `parameter`, `where`, `a`, `b`.

    `where`: a stage a line, as `distill: KD, Teacher`; the stage alone where it holds for all that both have of it.
    """
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    both = _recipes_of_both(a, b)
    for place, (first, second) in both.items():
        old, new = first["parameters"], second["parameters"]
        for name in [name for name in old | new if name not in NO_PARAMETERS]:
            row = (name, *(_shown(values[name]) if name in values else ABSENT for values in (old, new)))
            if row[1] != row[2]:
                found.setdefault(row, []).append(place)
    rows = []
    for (name, *values), places in found.items():
        where = []
        for stage in dict.fromkeys(stage for stage, _ in places):
            items, every = ([item for of, item in some if of == stage] for some in (places, both))
            where.append(stage if items == every else f"{stage}: {'; '.join(map(arms.title, items))}")
        rows.append((name, "\n".join(where), *values))
    return pd.DataFrame(rows, columns=["parameter", "where", "a", "b"])


def differing_code(a: FinishedRun, b: FinishedRun) -> list[str]:
    """The modules whose code differs where it made answers; what compares them does not matter, it is run anew."""
    changed = set()
    for (stage, _), (old, new) in _recipes_of_both(a, b).items():
        if stage != params.CompareRun.stage:
            changed |= {stem for stem, _ in old["code"].items() ^ new["code"].items()}
    return [f"{name.replace('.', '/')}.py" for name in sorted(changed)]


def _recipes_of_both(a: FinishedRun, b: FinishedRun) -> dict[tuple[str, str], tuple[Any, Any]]:
    old, new = a.recipes(), b.recipes()
    return {place: (old[place], new[place]) for place in old if place in new}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    text = str(value)
    if text.startswith("sha256:"):
        return text.removeprefix("sha256:")[:16]
    return text if text and text == text.strip() else repr(text)


# --- how much they differ ---


def same_problems(a: FinishedRun, b: FinishedRun) -> bool:
    """Whether both asked the same problems: ids, questions and answers, since ids repeat from data set to data set."""
    return a.problems.equals(b.problems)


def accuracies(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """One row an arm that either has, by A's rule: both accuracies with their intervals, and their difference.

    Columns: `arm`, `title`; `a`, `a_low`, `a_high` and the same of `b` (shares); those of `stats.gains`, of B over A,
    corrected for all arms that both have; `only_a`, `only_b`, answers that only one of the two got right. The latter
    are missing where the problems are not the same, all of them where one run lacks the arm.

    Raises:
        InputError: answers of one of them carry no verdict of A's rule.
    """
    same, rows = same_problems(a, b), []
    right: list[Any] = []
    labels: list[Any] = []
    for arm in dict.fromkeys([*a.answers, *b.answers]):
        row: dict[str, Any] = {"arm": arm, "title": arms.title(arm)}
        for side, run in (("a", a), ("b", b)):
            if arm not in run.answers:
                continue
            answers = run.answers[arm]
            if f"{a.rule}-correct" not in answers:
                have = ", ".join(re.findall(r"(\S+)-correct", " ".join(map(str, answers))))
                raise InputError(f"{run.name}: scores/{arm} has no verdicts by rule {a.rule!r}; it has those of {have}")
            templates = scoring.templates(answers)
            right.append(scoring.by_student(answers, a.rule))
            asked = answers.iloc[: right[-1].shape[1]]
            labels.append((asked["question"] + "\n" + asked["answer"]).to_numpy() if templates is None else templates)
            low, high = stats.accuracy_interval(right[-1], templates)
            row |= {
                side: float(right[-1].mean()),
                f"{side}_low": low,
                f"{side}_high": high,
                f"{side}_at": len(right) - 1,
            }
        rows.append(row)
    both = [row for row in rows if {"a", "b"} <= row.keys()]
    pairs = [(row["b_at"], row["a_at"]) for row in both]
    untrained = [row[f"{side}_at"] for row in both if row["arm"] in arms.UNTRAINED for side in "ab"]
    drawn = stats.sampled(right, labels, untrained=untrained)
    for row, (new, old), gain in zip(both, pairs, stats.gains(drawn, pairs, seed=0), strict=True):
        row |= gain
        if same:
            differ = stats.answers_that_differ(right[new], right[old])
            row |= {"only_a": differ["losses"], "only_b": differ["wins"]}
    sides = [f"{side}{end}" for side in "ab" for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["arm", "title", *sides, *stats.GAIN, "only_a", "only_b"])


def claims(a: FinishedRun, b: FinishedRun) -> pd.DataFrame:
    """The verdict on each claim in both runs: `claim`, `a`, `b`, missing where a run has none; no rows for neither.

    A run has none where its verdicts are not on the comparison that is read here.
    """
    verdicts = {}
    for side, run in (("a", a), ("b", b)):
        folder, compared, found = run.folder / "claims", run.manifests.get("comparison"), {}
        made = artifacts.read(folder)["recipe"]["inputs"] if (folder / artifacts.FILE).exists() else {}
        if compared and made.get("comparison") == compared["outputs"]:
            table = pd.read_csv(folder / "claims.csv", keep_default_na=False)
            found = dict(zip(table["claim"], table["verdict"], strict=True))
        verdicts[side] = pd.Series(found, dtype=str)
    return pd.concat(verdicts, axis=1, sort=False).rename_axis("claim").reset_index()
