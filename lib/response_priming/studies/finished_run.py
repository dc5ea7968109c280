"""A finished run, read from its folder: its answers, and the manifests of all that they were made from.

What it was made with comes from its manifests alone: its profile's YAML may have changed since.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from response_priming import artifacts, params, paths, style
from response_priming.errors import InputError


@dataclass(frozen=True)
class FinishedRun:
    """What `read` found.

    `home` is the folder of the run's profile: `folder` itself, unless the run is an explored one. `manifests`: of every
    stage folder that the answers come from, by its path below the run, as `scores/none/seed-0`, readers first; `lost`
    are those that are not there. `answers`: arm -> graded answers (see `evaluate.answer`), of every student in the
    order of the problems' ids.
    """

    name: str
    folder: Path
    home: Path
    profile: str
    rule: str
    manifests: dict[str, dict[str, Any]]
    lost: list[str]
    answers: dict[str, pd.DataFrame]

    @property
    def problems(self) -> pd.DataFrame:
        """What the arms were asked: `problem_id`, `question` and `answer`, one row a problem."""
        asked = next(iter(self.answers.values()))[["problem_id", "question", "answer"]]
        return asked.drop_duplicates("problem_id", ignore_index=True)

    @property
    def seeds(self) -> int:
        """How many students the trained arms have."""
        return max(answers["seed"].nunique() for answers in self.answers.values())

    @property
    def page(self) -> Path | None:
        """The page of the run's profile, where it was rendered."""
        page = self.home / "report" / "_site" / "index.html"
        return page if page.exists() else None

    def recorded(self, key: str) -> list[Any]:
        """What the manifests say under a key, each value once; those that are older than the key say nothing."""
        values = [made[key] for made in self.manifests.values() if made.get(key)]
        return [value for place, value in enumerate(values) if value not in values[:place]]

    def recipes(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(stage, strategy or arm) -> recipe; of an arm with several students, that of the first."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for part, made in self.manifests.items():
            item = part.split("/")[1] if "/" in part else ""
            found.setdefault((made["recipe"]["stage"], item), made["recipe"])
        return found


def read(name: str) -> FinishedRun:
    """A profile's run, or that in a folder: a copy of build/PROFILE/, or what a changed notebook left in explored/.

    An explored comparison is of its profile's scores; explored scores are read by the rule of its profile's comparison.

    Raises:
        InputError: no such profile or folder; it holds no run; its comparison is missing, or older than its scores.
    """
    known = params.profiles()
    folder = paths.BUILD / name if name in known else Path(name).expanduser().resolve()
    if name not in known and not folder.is_dir():
        raise InputError(f"{name}: neither a profile ({', '.join(known)}) nor a folder")
    home = folder.parent.parent if folder.parent.name == "explored" else folder
    explored_scores = sorted(folder.glob("scores/*/seed-*")) if folder != home else []
    compared = (home if explored_scores else folder) / "comparison"
    if not (compared / artifacts.FILE).exists():
        raise InputError(f"{name}: {_why_not(compared)}")
    parts = [path.relative_to(folder).as_posix() for path in explored_scores] or ["comparison"]
    manifests, places, lost = _follow(parts, [folder, home])
    if not explored_scores:
        _require_unchanged(compared, places)
    return FinishedRun(
        name,
        folder,
        home,
        json.loads((compared / "variables.json").read_text(encoding="utf-8"))["profile"],
        artifacts.read(compared)["recipe"]["parameters"]["rule"],
        manifests,
        lost,
        _answers(places),
    )


def _why_not(compared: Path) -> str:
    folder = compared.parent
    if folder.parent == paths.BUILD and folder.name in params.profiles():
        return f"no comparison yet; `make paper PROFILE={folder.name}` makes it"
    return "not a run to compare: a run has comparison/, an explored one comparison/ or scores/"


def _follow(parts: list[str], folders: list[Path]) -> tuple[dict[str, dict[str, Any]], dict[str, Path], list[str]]:
    """The manifests and places of these parts and of all that they were made from; and the parts that are not there."""
    manifests: dict[str, dict[str, Any]] = {}
    places: dict[str, Path] = {}
    pending, lost = list(parts), []
    while pending:
        part = pending.pop(0)
        there = [folder / part for folder in folders if (folder / part / artifacts.FILE).exists()]
        if not there:
            lost.append(part)
        elif part not in manifests:
            manifests[part], places[part] = artifacts.read(there[0]), there[0]
            pending += manifests[part]["recipe"]["inputs"]
    return manifests, places, sorted(set(lost))


def _require_unchanged(compared: Path, places: dict[str, Path]) -> None:
    """Refuse scores that are not those which the comparison saw."""
    for part, outputs in artifacts.read(compared)["recipe"]["inputs"].items():
        if not part.startswith("scores/"):
            continue
        file = places.get(part, compared.parent / part) / "answers.parquet"
        if not file.exists() or artifacts.digest(file) != outputs[file.name]:
            raise InputError(
                f"{paths.shown(file)}: {'changed since' if file.exists() else 'missing, but read by'} "
                f"{paths.shown(compared)}; `make paper` makes both again"
            )


def _answers(places: dict[str, Path]) -> dict[str, pd.DataFrame]:
    blocks: dict[str, list[pd.DataFrame]] = {}
    for part, place in places.items():
        if not part.startswith("scores/"):
            continue
        _, arm, seed = part.split("/")
        try:
            style.title(arm)
        except KeyError:
            raise InputError(f"{paths.shown(place)}: arm {arm!r} is not in params/prompts.yaml any more") from None
        answers = pd.read_parquet(place / "answers.parquet").sort_values("problem_id", kind="stable")
        blocks.setdefault(arm, []).append(answers.assign(seed=int(seed.removeprefix("seed-"))))
    return {arm: pd.concat(several, ignore_index=True) for arm, several in blocks.items()}
