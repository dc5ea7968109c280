"""Parameters: a profile (YAML) goes in, and every stage gets its own, validated, as a run.

`sections` has every parameter with its default, `fields` the types of those that are shared, `runs` what each notebook
is given, `base` what all of either share, `profile` how both are read; `released` is the training of the released code.
"""

from response_priming.params.base import Folder, Run
from response_priming.params.divergences import DIVERGENCES
from response_priming.params.fields import Engine, Strategy, is_on_hub
from response_priming.params.hardware import cpu_flags, device_of, multiplies_bf16, precision_of
from response_priming.params.profile import Profile, collect, load, parameters_cell, profiles
from response_priming.params.released import REPAIRS
from response_priming.params.runs import (
    PLACEMENT,
    RUNS,
    AttentionRun,
    AttributionRun,
    AuditRun,
    ClaimsRun,
    CompareRun,
    DistillRun,
    DoctorRun,
    EvaluateRun,
    GenerateRun,
    LadderRun,
    PromptSignalsRun,
    RelatedRun,
    SearchRun,
)
from response_priming.params.sections import SEARCHED, Cluster, Distill, Generate, Model, Problems

__all__ = [
    "DIVERGENCES", "PLACEMENT", "REPAIRS", "RUNS", "SEARCHED", "AttentionRun", "AttributionRun", "AuditRun",
    "ClaimsRun", "Cluster", "CompareRun", "Distill", "DistillRun", "DoctorRun", "Engine", "EvaluateRun", "Folder",
    "Generate", "GenerateRun", "LadderRun", "Model", "Problems", "Profile", "PromptSignalsRun", "RelatedRun", "Run",
    "SearchRun", "Strategy", "collect", "cpu_flags", "device_of", "is_on_hub", "load", "multiplies_bf16",
    "parameters_cell", "precision_of", "profiles",
]  # fmt: skip
