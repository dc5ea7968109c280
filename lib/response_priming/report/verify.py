"""Verification: every file of a finished run by its digest, its record, every recipe, and the page's numbers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from response_priming import artifacts, audit, claims, compare, notebooks, paths, scoring
from response_priming.errors import InputError
from response_priming.report.crate import differing
from response_priming.report.origins import bare
from response_priming.report.variables import sentences

if TYPE_CHECKING:
    from response_priming import params


def verify(profile: "params.Profile") -> Iterator[str]:
    """What differs in build/PROFILE/, a sentence each; nothing there is changed, and the network is not asked.

    Digests are those of the files as they are now, read to their end, and make will know them. Where all are right,
    answers are scored anew, and audit, comparison, claims and the page's sentences are computed anew and compared.
    """
    heals = f"`make paper PROFILE={profile.name}` makes it again"
    wrong = [f"{paths.shown(file)}: {what}; {heals}" for file, what in _differing_files(profile.build)]
    of_the_paper = {"report", *(node.name for node in notebooks.nodes(profile))}
    for name, state in notebooks.states(profile).items():
        if state.reason and (state.executed or name in of_the_paper):
            wrong.append(f"{name}: {state.reason}; {heals}")
    if not wrong:  # or what was found would be said once more
        record = notebooks.page_of(profile)[2]
        wrong = [f"{paths.shown(record)}: {what}; {heals}" for what in differing(profile)]
    yield from wrong
    if not wrong:
        # Its digest is right, so make would take it for whole.
        yield from (f"{what}; remove the folder, and {heals}" for what in _derived_anew(profile))


def _differing_files(build: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(build.rglob(artifacts.FILE)):
        folder = file.parent
        if not artifacts.is_whole(folder):
            yield file, "not as it was written"
            continue
        for name in sorted(artifacts.damaged(folder, anew=True)):
            yield folder / name, "not as it was made" if (folder / name).is_file() else "missing"


def _derived_anew(profile: "params.Profile") -> Iterator[str]:
    """What comes out otherwise when it is computed again from what the models made."""
    for arm in profile.arms:
        folders = profile.run("evaluate", arm=arm).folders
        for answers, scores in zip(folders[::2], folders[1::2], strict=True):
            given, graded = (pd.read_parquet(folder.path / "answers.parquet") for folder in (answers, scores))
            if not scoring.grade(given).equals(graded):
                yield f"{paths.shown(scores.path)}: scored anew, the answers have other verdicts"
    with tempfile.TemporaryDirectory() as scratch:
        stages: dict[str, Any] = {"audit": audit.audit, "compare": compare.compare, "claims": claims.claims}
        for stage, again in stages.items():
            run = profile.run(stage)
            again(run.exploring(Path(scratch)))
            for there, anew in zip(run.folders, run.exploring(Path(scratch)).folders, strict=True):
                before, after = (artifacts.read(folder.path)["outputs"] for folder in (there, anew))
                for name in [name for name in before if before[name] != after.get(name)]:
                    yield f"{paths.shown(there.path)}/{name}: computed anew, it is another"
    staged = profile.build / "report"
    try:
        texts = sentences(profile)
    except InputError as error:
        yield f"{paths.shown(staged)}: {error}"
        return
    there = yaml.safe_load((staged / "_variables.yml").read_text(encoding="utf-8"))
    for name, text in texts.items():
        if (before := bare(there.get(name, ""))) != bare(text):
            yield f"{paths.shown(staged)}: {name} = {before!r}, computed anew {bare(text)!r}"
