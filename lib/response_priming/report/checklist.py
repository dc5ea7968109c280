"""Checklist: the questions of the NeurIPS paper checklist, answered by what a run's manifests and parameters say.

The words are in report/_checklist.md.jinja, each answer's with a link. Questions and their order: NeurIPS Paper
Checklist Guidelines (2025), neurips.cc/public/guides/PaperChecklist.
"""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from response_priming import artifacts, notebooks, params, paths, stats, style
from response_priming.report import crate, variables

BY_A_PERSON = frozenset({"ethics"})  # what no file of a run can tell


def words(profile: params.Profile, costs: pd.DataFrame, cited: Mapping[str, Any]) -> str:
    """The checklist in Markdown.

    Args:
        costs: as of `compute.table`.
        cited: as of `citation.metadata`.
    """
    said = facts(profile, costs, cited)
    return style.words("_checklist.md.jinja", said | {"answers": answers(said), "by_a_person": BY_A_PERSON})


def facts(profile: params.Profile, costs: pd.DataFrame, cited: Mapping[str, Any]) -> dict[str, Any]:
    """What the answers rest on: the profile, the manifests of all that its notebooks made, and the manuscript."""
    nodes = notebooks.nodes(profile) + notebooks.executed_extras(profile)
    folders = [folder.path for node in nodes for folder in node.run.folders]
    made = {artifacts.part_of(path): found for path in folders if (found := artifacts.manifest(path))}
    text, offered = ((paths.REPORT / name).read_text(encoding="utf-8") for name in ("index.qmd", "_downloads.md"))
    return {
        "profile": profile,
        "made": made,
        "uncommitted": [part for part, found in made.items() if not found["git_commit"] or found["git_changed"]],
        "machines": sorted({", ".join(found.get("hardware", [found["machine"]])) for found in made.values()}),
        "untimed": [part for part, found in made.items() if "cpu_seconds" not in found],
        "cpu_seconds": float(costs["cpu_seconds"].iloc[-1]),
        "students": [part for part in made if part.startswith("students/")],
        "without_card": [
            part for part, found in made.items() if part.startswith("students/") and "README.md" not in found["outputs"]
        ],
        "parameters": len(crate.values(profile)),
        "fixed": variables.rules_fixed(profile.build),
        "fewest_seeds": stats.FEWEST["seeds"][0],
        "address": cited["citation"].get("url"),
        "licences": licences(profile),
        "limits": _section(text, "limit|threat"),
        "impacts": _section(text, "impact"),
        "proofs": re.findall(r"\{#(?:thm|lem|prp)-", text),
        "weights": re.findall(r"\]\([^)]+\.(?:safetensors|gguf|bin|pt)\)", text + offered),
        "people": re.findall(r"\b(?:participant|annotator|crowd ?worker)s?\b", text, re.IGNORECASE),
        "models": {
            name for found in made.values() if (name := found.get("recipe", {}).get("parameters", {}).get("student"))
        },
        "train": next((node.name for node in nodes if node.stage == "distill"), None),
        "answer": next((node.name for node in nodes if node.stage == "evaluate"), None),
        "stages": list(dict.fromkeys(node.stage for node in nodes)),
    }


def answers(said: Mapping[str, Any]) -> dict[str, str]:
    """Yes, No or NA to each question, in the checklist's order; `said`: as of `facts`."""
    found = {
        "claims": bool(said["fixed"] and said["fixed"]["before"]),
        "limitations": said["limits"] is not None,
        "theory": bool(said["proofs"]) or None,
        "reproducibility": bool(said["made"]) and not said["uncommitted"],
        "access": bool(said["address"]) and said["profile"].problems.dataset != "local",
        "settings": said["train"] is not None,
        "significance": len(said["profile"].seeds) >= said["fewest_seeds"],
        "compute": bool(said["made"]) and not said["untimed"],
        "ethics": True,
        "impacts": said["impacts"] is not None,
        "safeguards": False if said["weights"] else None,
        "licences": None not in said["licences"].values(),
        "assets": not said["without_card"] if said["students"] else None,
        "people": False if said["people"] else None,
        "review": False if said["people"] else None,
        "models": bool(said["models"]),
    }
    return {question: {True: "Yes", False: "No", None: "NA"}[answer] for question, answer in found.items()}


def licences(profile: params.Profile) -> dict[str, str | None]:
    """The licence of the data and of each model that a profile uses, as README.md lists it; None where it does not."""
    readme = (
        (paths.ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Licences\n")[2].partition("\n## ")[0]
    )
    listed = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", readme, re.MULTILINE))
    data = {"gsm8k": "GSM8K", "procedural": "this code", "local": "the local folder"}[profile.problems.dataset]
    models = {profile.model.student, profile.generate.teacher} - {"none"}
    used = [data, *sorted("SmolLM2-135M-Instruct" if name == "embedded" else name for name in models)]

    def found(name: str) -> str | None:
        parts = name.rpartition("/")[2].split("-")  # one is the family's name, as Llama in meta-llama/Llama-3.1-8B
        families = (said for what, said in listed.items() if what[0].isupper() and what.split()[0] in parts)
        said = listed.get(name) or next(families, None)
        return said and said.partition(" (")[0]

    return {name: found(name) for name in used}


def _section(text: str, pattern: str) -> str | None:
    """Title of the manuscript's first section that is called so; None where none is."""
    found = re.search(rf"^##? ([^{{\n]*(?:{pattern})[^{{\n]*?)(?: \{{.*\}})?$", text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None
