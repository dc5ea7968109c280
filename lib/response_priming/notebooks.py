"""The plan: every notebook that a profile executes, and what decides whether it has to be executed again.

`write` puts one small file per notebook under build/PROFILE/plan/ and touches it only where its content changes. Make
compares times: a notebook is stale exactly when its parameters, its code or its data changed, or a notebook it needs.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from response_priming import artifacts, params, paths, problems
from response_priming.params import sections

# Titles of the notebooks' pages, where there is one a profile; the last three get one where they were executed.
PAGES = {
    "compare": "Compare all arms",
    "attention-visualize": "Attention inside the students",
    "audit": "Audit of the released logs",
    "claims": "The claims of the paper",
    "repair-ladder": "What each deviation of the released code costs",
    "search": "Search on the validation split",
    "attribution": "What the teacher's responses are attributed to",
}


@dataclass(frozen=True)
class Node:
    """One notebook to execute: a stage, and the strategy or arm it is for (None where it is for all)."""

    stage: str
    item: str | None
    run: params.Run
    needs: tuple[str, ...] = ()  # names of the notebooks that have to be executed before

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
            "notebook": artifacts.digest(self.notebook),
            "code": notebook_code(self.notebook),
            "parameters": self.run.model_dump(),
            "prefix": params.strategies()[self.run.strategy]["prefix"]
            if isinstance(self.run, params.GenerateRun)
            else None,
            "data": _data(self.run),
        }


def _data(run: params.Run) -> Any:
    if isinstance(run, sections.Problems):
        return problems.fingerprint(run)
    if not (isinstance(run, sections.Audit) and run.logs_dir):
        return None
    from response_priming.audit import released  # here because it brings pandas, and every `make` writes a plan

    return released.fingerprint(Path(run.logs_dir))


def nodes(profile: params.Profile) -> list[Node]:
    """All notebooks of a profile's paper, each after those it needs."""
    distilled = {arm: f"distill-{arm}" for arm in profile.trained}
    scored = tuple(f"evaluate-{arm}" for arm in profile.arms)
    return [
        *(_teacher(profile, "generate", name) for name in profile.strategies),
        *(_teacher(profile, "prompt-signals", name) for name in profile.scored),
        *(
            Node(
                "distill",
                arm,
                profile.run("distill", arm=arm),
                _teachers(params.store_of(arm, profile.distill_of(arm))),
            )
            for arm in profile.trained
        ),
        *(
            Node("evaluate", arm, profile.run("evaluate", arm=arm), tuple(filter(None, [distilled.get(arm)])))
            for arm in profile.arms
        ),
        Node("attention-visualize", None, profile.run("attention-visualize"), scored),
        Node("compare", None, profile.run("compare"), scored),
        Node("audit", None, profile.run("audit")),
        Node("claims", None, profile.run("claims"), ("compare", "attention-visualize", "audit")),
    ]


def extras(profile: params.Profile) -> list[Node]:
    """The notebooks that are executed when they are asked for, and what they need beyond those of the paper."""
    ladder, search = profile.ladder.ladder_strategy, profile.search.search_strategy
    wanted = [
        _teacher(profile, "generate", ladder),
        _teacher(profile, "generate", search),
        _teacher(profile, "prompt-signals", ladder),
        Node("repair-ladder", None, profile.run("repair-ladder"), (f"generate-{ladder}", f"prompt-signals-{ladder}")),
        Node("search", None, profile.run("search"), _teachers(params.store_of(search, profile.distill))),
        Node("attribution", None, profile.run("attribution"), tuple(f"generate-{name}" for name in profile.strategies)),
    ]
    there = {node.name for node in nodes(profile)}
    return list({node.name: node for node in wanted if node.name not in there}.values())


def _teacher(profile: params.Profile, stage: str, strategy: str) -> Node:
    return Node(stage, strategy, profile.run(stage, strategy=strategy))


def _teachers(store: PurePath | None) -> tuple[str, ...]:
    """The notebook that writes a store."""
    if store is None:
        return ()
    return (f"{'generate' if store.parent.name == 'responses' else store.parent.name}-{store.name}",)


def find(profile: params.Profile, stage: str, item: str | None) -> Node:
    """The node of a stage and item; KeyError where the profile has none."""
    for node in nodes(profile) + extras(profile):
        if (node.stage, node.item) == (stage, item):
            return node
    raise KeyError(f"{stage} {item}")


def write(profile: params.Profile) -> None:
    """Write build/PROFILE/plan/: a file per notebook, `inputs.json`, and `plan.mk`, which notebook needs which."""
    folder = paths.BUILD / profile.name / "plan"
    all_nodes = nodes(profile) + extras(profile)
    for node in all_nodes:
        _write_if_changed(folder / f"{node.name}.json", json.dumps(node.content(), indent=1))
    inputs = {
        "problems": profile.problems.model_dump(),
        "model": profile.model.model_dump(),
        "teacher": profile.generate.teacher,
    }
    _write_if_changed(folder / "inputs.json", json.dumps(inputs, indent=1))
    _write_if_changed(
        folder / "report.json",
        json.dumps(
            {
                "code": artifacts.code_digests("report.page"),
                "sources": _report_sources(),
                "extras": {node.name: artifacts.digest(node.executed) for node in executed_extras(profile)},
            },
            indent=1,
        ),
    )
    files = {node.name: f"$(NB)/{node.name}.ipynb" for node in all_nodes}
    needs = (
        f"{files[node.name]}: {' '.join(files[name] for name in node.needs)}\n" for node in all_nodes if node.needs
    )
    _write_if_changed(folder / "plan.mk", "".join(needs))


def executed_extras(profile: params.Profile) -> list[Node]:
    """Of the notebooks that the paper does without, those with a result of their own that somebody has executed."""
    return [node for node in extras(profile) if node.stage in PAGES and node.executed.exists()]


def notebook_code(notebook: Path) -> dict[str, str]:
    """Digests of our modules that a notebook imports, itself or through others; `style` counts here."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    digests = artifacts.code_digests(*artifacts.imported_by(source))
    return digests | {"style": artifacts.digest(artifacts.module_file("style"))[:16]}


def _report_sources() -> dict[str, str]:
    files = [paths.ROOT / "CITATION.cff", *(file for file in sorted(paths.REPORT.iterdir()) if file.is_file())]
    return {file.name: artifacts.digest(file) for file in files}


def mark_done(node: Node) -> None:
    """Remember what a notebook was executed with, and since when."""
    file = node.run.build / "plan" / f"{node.name}.json"
    if file.exists():
        (file.parent / "done").mkdir(exist_ok=True)
        shutil.copy2(file, file.parent / "done" / file.name)


def states(profile: params.Profile) -> list[dict[str, str | None]]:
    """How far the profile is, an entry for each notebook in the order of the plan.

    `notebook`; `state`: `current`, `stale` (its parameters, code or data changed since) or `not run`; `executed`: the
    path of the executed notebook, None where there is none.
    """
    return [
        {
            "notebook": node.name,
            "state": _state(node),
            "executed": paths.shown(node.executed) if node.executed.exists() else None,
        }
        for node in nodes(profile)
    ]


def _state(node: Node) -> str:
    done = node.run.build / "plan" / "done" / f"{node.name}.json"
    if not (node.executed.exists() and done.exists()):
        return "not run"
    return "current" if json.loads(done.read_text(encoding="utf-8")) == node.content() else "stale"


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
