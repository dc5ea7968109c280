"""The plan: every notebook that a profile executes, and what decides whether it has to be executed again.

`write` puts one small file per notebook under build/PROFILE/plan/ and touches it only where its content changes. Make
compares times: a notebook is stale exactly when its parameters, its code or its data changed, or a notebook it needs.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from response_priming import manifest, params, paths, problems

IMPORT = re.compile(r"^from response_priming import (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Node:
    """One notebook to execute: a stage, and the strategy or arm it is for (None where it is for all)."""

    stage: str
    item: str | None
    run: params.Run

    @property
    def name(self) -> str:
        """Stem of the executed notebook: `distill-teacher`, `compare`."""
        return f"{self.stage}-{self.item}" if self.item else self.stage

    @property
    def notebook(self) -> Path:
        """The notebook's source."""
        return paths.NOTEBOOKS / f"{self.stage}.ipynb"

    @property
    def executed(self) -> Path:
        """Where the executed notebook lands."""
        return self.run.build / "notebooks" / f"{self.name}.ipynb"

    def content(self) -> dict[str, Any]:
        """Everything that makes the executed notebook stale when it changes, apart from other notebooks."""
        return {
            "notebook": manifest.digest(self.notebook),
            "code": notebook_code(self.notebook),
            "parameters": self.run.model_dump(),
            "prefix": params.strategies()[self.item]["prefix"] if self.stage == "generate" and self.item else None,
            "data": problems.fingerprint(self.run) if isinstance(self.run, params.Problems) else None,
        }


def nodes(profile: params.Profile) -> list[Node]:
    """All notebooks of a profile's paper, each after those it needs."""
    return [
        *(Node("generate", name, profile.run("generate", strategy=name)) for name in profile.strategies),
        *(Node("distill", arm, profile.run("distill", arm=arm)) for arm in profile.trained),
        *(Node("evaluate", arm, profile.run("evaluate", arm=arm)) for arm in profile.arms),
        Node("attention-visualize", None, profile.run("attention-visualize")),
        Node("compare", None, profile.run("compare")),
    ]


def extras(profile: params.Profile) -> list[Node]:
    """The notebooks that are executed when they are asked for."""
    return [Node("attribution", None, profile.run("attribution"))]


def find(profile: params.Profile, stage: str, item: str | None) -> Node:
    """The node of a stage and item; KeyError where the profile has none."""
    for node in nodes(profile) + extras(profile):
        if (node.stage, node.item) == (stage, item):
            return node
    raise KeyError(f"{stage} {item}")


def write(profile: params.Profile) -> None:
    """Write build/PROFILE/plan/: a file per notebook, `inputs.json`, and `plan.mk`, the lists that make loops over."""
    folder = paths.BUILD / profile.name / "plan"
    for node in nodes(profile) + extras(profile):
        _write_if_changed(folder / f"{node.name}.json", json.dumps(node.content(), indent=1))
    inputs = {
        "problems": profile.problems.model_dump(),
        "model": profile.model.model_dump(),
        "teacher": profile.generate.teacher,
    }
    _write_if_changed(folder / "inputs.json", json.dumps(inputs, indent=1))
    _write_if_changed(
        folder / "report.json",
        json.dumps({"code": manifest.code_digests("report"), "sources": _report_sources()}, indent=1),
    )
    lists = {"STRATEGIES": profile.strategies, "TRAINED": profile.trained, "ARMS": profile.arms}
    _write_if_changed(folder / "plan.mk", "".join(f"{name} := {' '.join(items)}\n" for name, items in lists.items()))


def notebook_code(notebook: Path) -> dict[str, str]:
    """Digests of our modules that a notebook imports, itself or through others; `figures` counts here."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    modules = {name.strip() for names in IMPORT.findall(source) for name in names.split(",")}
    digests = {stem: value for module in sorted(modules) for stem, value in manifest.code_digests(module).items()}
    return digests | {"figures": manifest.digest(Path(__file__).with_name("figures.py"))[:16]}


def _report_sources() -> dict[str, str]:
    return {file.name: manifest.digest(file) for file in _files(paths.REPORT)}


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.is_file())


def mark_done(node: Node) -> None:
    """Remember what a notebook was executed with, and since when."""
    file = node.run.build / "plan" / f"{node.name}.json"
    if file.exists():
        (file.parent / "done").mkdir(exist_ok=True)
        shutil.copy2(file, file.parent / "done" / file.name)


def _write_if_changed(file: Path, content: str) -> None:
    if file.exists() and file.read_text(encoding="utf-8") == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    done = file.parent / "done" / file.name
    if done.exists() and done.read_text(encoding="utf-8") == content:
        # A change taken back: with the old time, too, what was made from it is not stale.
        shutil.copy2(done, file)
    else:
        file.write_text(content, encoding="utf-8")
