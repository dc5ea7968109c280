"""Verdicts: the rules that turn a gain into a word, and the comparison that was chosen before any answer was seen.

- The paper's claim is about Ground Truth, so its gains over the unprimed student and over the one with neutral words
  are the primary comparisons, each by its interval alone. Both must hold: over the unprimed student, or it is no gain;
  over neutral words, or it is not what the prefix says. That takes no correction.
- Any other gain is one of all in its table, and its interval and p are corrected for all of them. So is that of the
  best of several arms, which allows for its selection.
- Supported: the 95 % interval of every gain that the claim is about lies above 0. Not supported: it does not.
- Not settled by this profile: an arm has fewer than three students, there are fewer than six problems or templates, or
  the arm with neutral words, which a claim about what a prefix says needs, was not run.
- Not testable here: what the claim is about was not run, or the two arms differ on fewer than six problems.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from response_priming import arms, artifacts, stats

if TYPE_CHECKING:
    from response_priming import params

SUPPORTED, UNSUPPORTED = "supported", "not supported"
UNSETTLED, UNTESTABLE = "not settled by this profile", "not testable here"
PRIMARY = (("ground-truth", arms.UNPRIMED), ("ground-truth", arms.NEUTRAL))


def fix(run: "params.EvaluateRun") -> Path:
    """Write the rules and the primary comparisons down in `rules/`, unless they are there: before anything is answered.

    The folder's manifest has their digest and the date.
    """
    design = run.model_dump(include={"seed", "seeds", "dataset", "n_test", "rule"})
    said = {"rules": __doc__, "primary": PRIMARY, "level": stats.SIGNIFICANT, "fewest": stats.FEWEST, **design}

    def write(aside: Path) -> None:
        (aside / "rules.json").write_text(json.dumps(said, indent=1), encoding="utf-8")

    return artifacts.made(run.build / "rules", artifacts.decided_by("rules", said, [], code=[]), write)


def on(gain: Any, *, alone: bool = False) -> str:
    """The verdict on one gain, a row of `tables.gains`; `alone`: as a primary one, uncorrected."""
    if gain["differ"] < stats.FEWEST["differ"][0]:
        return UNTESTABLE
    if stats.shortfall(gain):
        return UNSETTLED
    return SUPPORTED if gain["alone_low" if alone else "low"] > 0 else UNSUPPORTED


def on_primary(gains: dict[tuple[str, str], Any]) -> str:
    """The verdict on the primary claim, from the gains by arm and baseline."""
    if PRIMARY[0] not in gains:
        return UNTESTABLE
    found = [on(gains[pair], alone=True) if pair in gains else UNSETTLED for pair in PRIMARY]
    return next((worst for worst in (UNTESTABLE, UNSETTLED, UNSUPPORTED) if worst in found), SUPPORTED)
