"""Made-up logs in the form of the released ones: four problems of our own, six arms, and the reference answers."""

import os
from pathlib import Path

import pandas as pd

from response_priming import paths
from response_priming.audit import released

REAL = Path(os.environ.get("PUBLISHED_LOGS") or paths.ROOT.parent / "shared" / "published-logs")
NO_LOGS = f"{REAL}: the released logs are not here; set PUBLISHED_LOGS to their folder"
RIGHT = ["5", "1200", "8", "3"]
QUESTIONS = [
    "Mia has 2 pens and buys 3. How many are there?",
    "A mill grinds 1,200 kg , all of it today. How many kg?",
    "Leo cuts .5 m ten times; 8 pieces stay. How many stay?",
    "A cat and 2 dogs: how many animals?",
]
# right with a box, right without, wrong with a box (then a run-on), nothing at all
RESPONSES = ["So \\boxed{5} of 9", "That makes 1,200", "Hence $\x08oxed{7}$. Next: 8", "No idea"]


def tables():
    """File name -> table, as the released files have them."""
    reference = pd.DataFrame({"question": QUESTIONS, "answer": [f"By counting.\n#### {right}" for right in RIGHT]})
    made = {released.REFERENCE: reference}
    for arm, name in released.LOGS.items():
        log = reference.assign(
            model_answer=RESPONSES,
            model_output_tokens=[6, 5, 9, 4] if arm == "undistilled" else [40, 20, 60, 60],
            model_max_tokens=[False, False, True, True],
        )
        if arm == "confidence":  # released raw: the question first, without blanks before punctuation, and no grades
            echoed = [question.replace(" ,", ",").replace(" .5", ".5") for question in QUESTIONS]
            log["model_answer"] = [f"{question} {text}" for question, text in zip(echoed, RESPONSES, strict=True)]
        else:
            log["correct"] = [True, True, True, False]
        made[name] = log
    return made


def write(folder, changed=None):
    """Write the files, some of them changed: file name -> table, or None to leave it out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (tables() | (changed or {})).items():
        if table is not None:
            table.to_csv(folder / name)
    return folder
