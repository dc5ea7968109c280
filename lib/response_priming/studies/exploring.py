"""Exploring: one arm made again with one parameter changed, aside, and what every such run says beside the profile's.

What the change reaches is made anew, in explored/: the teacher's responses, the students, their answers. The rest is
the profile's own.
"""

import hashlib
from pathlib import Path

from response_priming import arms, artifacts, distill, evaluate, generate, params, style
from response_priming.errors import InputError
from response_priming.studies.two_runs import accuracies, differing, read_run


def explore(profile: params.Profile, changed: params.Profile, arm: str) -> Path:
    """Make an arm by the changed profile, unless that is done already; the folder of what differs.

    Raises:
        InputError: the profile lacks the arm, or the change reaches nothing of it.
    """
    if arm not in profile.arms:
        raise InputError(f"arm {arm!r}: not in profile {profile.name}; allowed: {', '.join(profile.arms)}")
    digest = hashlib.sha256(changed.written.encode()).hexdigest()[:8]
    folder, taught, anew = profile.build / "explored" / digest, None, False
    store = arms.store_of(arm, changed.distill_of(arm).repaired) if arm in profile.trained else None
    of_arm = {"distill": {"arm": arm}} if arm in profile.trained else {}
    teacher = (
        {"generate" if store.parent.name == "responses" else "prompt-signals": {"strategy": store.name}}
        if store
        else {}
    )
    stages = teacher | of_arm | {"evaluate": {"arm": arm}}
    for stage, item in stages.items():
        run, before = changed.run(stage, **item), profile.run(stage, **item)
        trained = anew or (stage == "distill" and changed.seeds != profile.seeds)
        anew = trained or run.shaping != before.shaping
        if not anew:
            continue
        if isinstance(run, params.GenerateRun):
            (generate.respond if stage == "generate" else generate.score)(run.placed(folder))
            taught = folder
        elif isinstance(run, params.DistillRun):
            distill.train(run.placed(folder, taught))
        elif isinstance(run, params.EvaluateRun):
            evaluate.answer(run.placed(folder) if trained else run.exploring(folder))
    if not anew:
        raise InputError(f"arm {arm!r}: nothing of it is made with what was changed")
    return folder


def tried(profile: params.Profile) -> dict[str, list[str]]:
    """Parameter, without its section -> what each run says where it alone is another than the profile's, in words.

    A run that was explored beside another state of the profile, or cannot be read, says nothing.
    """
    found: dict[str, list[str]] = {}
    scored = profile.build.glob(f"explored/*/scores/*/seed-*/{artifacts.FILE}")
    for folder in sorted({file.parents[3] for file in scored}):
        try:
            whole, run = read_run(str(profile.build)), read_run(str(folder))
            changes, gains = differing(whole, run), accuracies(whole, run).dropna(subset=["points"])
        except InputError:
            continue
        if len(changes) == 1:
            (change,) = changes.to_dict("records")
            for row in gains.to_dict("records"):
                gained = f"{row['points']:+.1f} points ({style.interval(row['low'], row['high'])})"
                found.setdefault(str(change["parameter"]), []).append(f"{change['b']} ({row['title']}): {gained}")
    return found
