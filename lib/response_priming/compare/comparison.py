"""Stage compare: all arms' scores side by side, as the tables and figures of the paper.

Arms answered the same problems, so a difference between two of them is paired problem by problem (see `stats`). Scores
that were not made alike are refused, so no table can mix protocols.
"""

import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from response_priming import artifacts, evaluate, generate, problems, scoring
from response_priming.compare.leakage import KINDS, THRESHOLD, overlaps
from response_priming.compare.tables import accuracy, gains, lengths, rules, samples, slices, teacher
from response_priming.errors import InputError

if TYPE_CHECKING:
    from response_priming import params

TABLES = (
    "accuracy", "lengths", "gains", "rules", "slices", "teacher", "samples", "losses", "steps", "calibration", "leakage"
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. Shares are fractions; `gains` is in percentage points; `variables`: what was compared."""

    accuracy: pd.DataFrame
    lengths: pd.DataFrame
    gains: pd.DataFrame
    rules: pd.DataFrame
    slices: pd.DataFrame
    teacher: pd.DataFrame
    samples: pd.DataFrame
    losses: pd.DataFrame
    steps: pd.DataFrame
    calibration: pd.DataFrame
    leakage: pd.DataFrame
    variables: dict[str, Any]


def compare(run: "params.CompareRun") -> Comparison:
    """The comparison of all arms of `run`; computed unless it is there already.

    Raises:
        InputError: scores or responses are missing, were not made alike, or do not fit the run's parameters.
    """
    made = run.folders[0]
    folder = artifacts.made(made.path, artifacts.recipe(run, made), functools.partial(_write, run))
    # Only empty fields are missing values: an arm is called "none", and a response may say "NaN".
    options: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "dtype": {"answer": str}}
    read = {name: pd.read_csv(folder / f"{name}.csv", **options) for name in TABLES}
    return Comparison(**read, variables=json.loads((folder / "variables.json").read_text(encoding="utf-8")))


def _write(run: "params.CompareRun", folder: Path) -> None:
    scores = read_scores(run)
    sliced = slices(scores)
    made = {
        "accuracy": accuracy(scores, run.rule),
        "lengths": lengths(sliced, run.rule),
        "gains": gains(scores, run.rule, seed=run.seed),
        "rules": rules(sliced),
        "slices": sliced,
        "teacher": teacher(read_teacher(run), run.rule),
        "samples": samples(scores, run.rule),
        "losses": losses_table(run),
        "steps": evaluate.calculations_table(scores, run.rule),
        "calibration": evaluate.calibration_table(scores, run.rule),
        "leakage": leakage_table(run),
    }
    scored = _made_by(run, run.scores_of(run.arms[0], run.seeds[0]))
    about = run.model_dump(include={"profile", "seed", "dataset", "n_train", "n_test", "rule"})
    about |= {"teacher": None, "student": scored["student"], "precision": scored["dtype"]}
    for strategy in run.strategies:
        about["teacher"] = _made_by(run, run.build / "responses" / strategy)["teacher"]
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "variables.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


# --- reading what is alike ---


def read_scores(run: "params.CompareRun") -> dict[str, pd.DataFrame]:
    """Every arm's answers, one block of rows a seed; refused unless all were made alike and for the same problems."""
    if run.n_test < 2:
        raise InputError(f"n_test = {run.n_test}: a comparison resamples problems; allowed: 2 or more")
    scores: dict[str, list[pd.DataFrame]] = {arm: [] for arm in run.arms}
    folder = run.scores_of(run.arms[0], run.seeds[0])
    first, reference = artifacts.part_of(folder), _made_by(run, folder)
    asked = list(pd.read_parquet(folder / "answers.parquet")["problem_id"])
    for arm in run.arms:
        for seed in run.seeds_of(arm):
            folder = run.scores_of(arm, seed)
            made, answers = _made_by(run, folder), pd.read_parquet(folder / "answers.parquet")
            _require_alike(name := artifacts.part_of(folder), made, first, reference | {"arm": arm})
            given = [part for part in artifacts.read(folder)["recipe"]["inputs"] if part.startswith("answers/")]
            if given not in ([], [f"answers/{arm}/seed-{seed}"]):
                raise InputError(f"{name}: scores {given[0]}: one student where seeds = {run.seeds} claim one each")
            if list(answers["problem_id"]) != asked:
                raise InputError(f"{name}: problem_id differs from {first}; evaluate both on the same problems")
            scores[arm].append(answers.assign(seed=seed))
    return {arm: pd.concat(blocks, ignore_index=True) for arm, blocks in scores.items()}


def read_teacher(run: "params.CompareRun") -> dict[str, pd.DataFrame]:
    """The teacher's graded responses under each strategy to the training problems, one a problem."""
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    graded = {}
    for strategy in run.strategies:
        _made_by(run, run.build / "responses" / strategy)
        # One response a problem, however many samples.
        answered = generate.read(run.build / "responses" / strategy).query("sample == 0")
        if set(answered["problem_id"]) != {problem.id for problem in asked}:
            raise InputError(
                f"responses/{strategy}: problem_id differs from the run's train problems; generate it again"
            )
        graded[strategy] = scoring.grade_teacher(answered, asked, run.rule)
    return graded


def _made_by(run: "params.CompareRun", folder: Path) -> dict[str, Any]:
    """Parameters and code or version that made a folder; refused where they contradict the run's parameters."""
    name, recipe = artifacts.part_of(folder), artifacts.decisive(artifacts.read(folder)["recipe"])
    code = {f"{module.replace('.', '/')}.py": digest for module, digest in recipe.get("code", {}).items()}
    made = recipe["parameters"] | code | {key: recipe[key] for key in ("version",) if key in recipe}
    wanted = {key: value for key, value in run.shaping.items() if key != "rule"}
    wanted |= {"method": None}  # that of a related method, which may ask otherwise
    _require_alike(name, made, "this run", {key: wanted.get(key, value) for key, value in made.items()})
    return dict(made)


def _require_alike(name: str, made: Mapping[str, Any], other: str, wanted: Mapping[str, Any]) -> None:
    for field in sorted(made.keys() | wanted.keys()):
        have, want = made.get(field), wanted.get(field)
        if have != want:
            raise InputError(f"{name}: {field} = {have!r}, but {want!r} in {other}; only alike runs are compared")


def leakage_table(run: "params.CompareRun") -> pd.DataFrame:
    """How many of the run's `n` test problems have their like in a `split`, among the `others` that a student learns
    from or the teacher is shown: a column for each of `leakage.KINDS`."""
    test = [problem.question for problem in problems.load(run, "test", run.n_test, seed=run.seed)]
    rows, splits = [], zip(problems.SPLITS, (run.n_train, run.worked_examples), strict=False)
    for split, size in splits:
        others = [problem.question for problem in problems.load(run, split, size, seed=run.seed)]
        found = Counter(overlap.kind for overlap in overlaps(test, others))
        kinds = {kind: found[kind] for kind in KINDS}
        rows.append({"split": split, "n": len(test), "others": len(others), **kinds, "threshold": THRESHOLD})
    return pd.DataFrame(rows)


def losses_table(run: "params.CompareRun") -> pd.DataFrame:
    """The training losses of every student, one row a step."""
    none = pd.DataFrame(columns=["step", "loss", "hard", "soft", "arm", "seed"])
    tables = [
        pd.read_parquet(run.student_of(arm, seed) / "losses.parquet").assign(arm=arm, seed=seed)
        for arm, seed in run.trained
    ]
    return pd.concat(tables or [none], ignore_index=True)
