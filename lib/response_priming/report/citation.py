"""How the page is cited: CITATION.cff as Quarto's metadata, and as a BibTeX entry that names the profile and commit."""

import textwrap
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from response_priming import artifacts, params, paths


def metadata(profile: params.Profile) -> dict[str, Any]:
    """What Quarto makes its title block and its citation from."""
    about = _about()
    # Literal: it is no person's name, and must not be split into a given and a family name.
    authors = [{"name": {"literal": author["name"]}} for author in about["authors"]]
    citation = {"type": about["type"], "version": about["version"], "note": _note(profile)}
    return {"author": authors, "date": made_on(profile).isoformat(), "citation": citation}


def bibtex(profile: params.Profile) -> str:
    """The entry, as a code block in Markdown."""
    about = _about()
    fields = {
        "title": f"{{{about['title']}}}",
        "author": " and ".join(f"{{{author['name']}}}" for author in about["authors"]),
        "year": str(made_on(profile).year),
        "version": str(about["version"]),
        "note": _note(profile),
    }
    lines = "".join(
        textwrap.fill(f"  {key:7} = {{{value}}},", 76, subsequent_indent=" " * 14) + "\n"
        for key, value in fields.items()
    )
    return f"```\n@software{{responsepriming,\n{lines}}}\n```\n"


def made_on(profile: params.Profile) -> date:
    """The day on which the results were compared."""
    return date.fromisoformat(artifacts.read(_results(profile))["date"].partition(" ")[0])


def _note(profile: params.Profile) -> str:
    commit = artifacts.read(_results(profile))["git_commit"] or "unknown"
    return f"Profile {profile.name}, commit {commit[:12]}"


def _results(profile: params.Profile) -> Path:
    return paths.BUILD / profile.name / "comparison"


def _about() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return content
