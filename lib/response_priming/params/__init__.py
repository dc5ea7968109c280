"""Parameters: a profile (YAML) goes in, and every stage gets its own, validated, as a run.

`sections` has every parameter with its default, `runs` what each notebook is given, `profile` how both are read.
"""

from response_priming.params.profile import Profile, collect, load, parameters_cell, profiles
from response_priming.params.runs import (
    RUNS,
    AttentionRun,
    AttributionRun,
    AuditRun,
    ClaimsRun,
    CompareRun,
    DistillRun,
    EvaluateRun,
    GenerateRun,
    LadderRun,
    PromptSignalsRun,
    Run,
    SearchRun,
)

__all__ = [
    "RUNS",
    "AttentionRun",
    "AttributionRun",
    "AuditRun",
    "ClaimsRun",
    "CompareRun",
    "DistillRun",
    "EvaluateRun",
    "GenerateRun",
    "LadderRun",
    "Profile",
    "PromptSignalsRun",
    "Run",
    "SearchRun",
    "collect",
    "load",
    "parameters_cell",
    "profiles",
]
