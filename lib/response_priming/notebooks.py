"""Notebooks: those that a profile executes, what makes each stale, their execution, and their pages.

`write` puts one small file per notebook under build/PROFILE/plan/ and touches it only where its content changes. Make
compares times: a notebook is stale exactly when its parameters, its code or its data changed, or a notebook it needs.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from response_priming import arms, artifacts, params, paths, progress, provenance
from response_priming.errors import InputError

# Titles of the notebooks' pages, where there is one a profile; the last three get one where they were executed.
PAGES = {
    "compare": "Compare all arms",
    "attention-visualize": "Attention inside the students",
    "audit": "Audit of the released logs",
    "claims": "The claims of the paper",
    "ladder": "What each deviation of the released code costs",
    "search": "Search on the validation split",
    "attribution": "What the teacher's responses are attributed to",
}


@dataclass(frozen=True)
class Node:
    """One notebook to execute: a stage, for one strategy or arm where its run is for one."""

    run: params.Run
    needs: tuple[str, ...] = ()  # names of the notebooks that have to be executed before

    @property
    def stage(self) -> str:
        """Stem of the notebook's source."""
        return self.run.stage

    @property
    def item(self) -> str | None:
        """The strategy or arm; None where it is for all."""
        return next(iter(self.run.item.values()), None)

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
            **artifacts.content(self.run),
        }


# --- which there are ---


def nodes(profile: params.Profile) -> list[Node]:
    """All notebooks of a profile's paper, each after those it needs."""
    run, scored = profile.run, tuple(f"evaluate-{arm}" for arm in profile.arms)
    stores = {arm: arms.store_of(arm, profile.distill_of(arm).repaired) for arm in profile.trained}
    return [
        *(Node(run("generate", strategy=name)) for name in profile.strategies),
        *(Node(run("prompt-signals", strategy=name)) for name in profile.scored),
        *(Node(run("distill", arm=arm), _writers(store)) for arm, store in stores.items()),
        *(Node(run("evaluate", arm=arm), (f"distill-{arm}",) if arm in stores else ()) for arm in profile.arms),
        Node(run("attention-visualize"), scored),
        Node(run("compare"), scored),
        Node(run("audit")),
        Node(run("claims"), ("compare", "attention-visualize", "audit")),
    ]


def extras(profile: params.Profile) -> list[Node]:
    """The notebooks that are executed when they are asked for, and what they need beyond those of the paper."""
    run, ladder, search = profile.run, profile.ladder.ladder_strategy, profile.search.search_strategy
    wanted = [
        Node(run("generate", strategy=ladder)),
        Node(run("generate", strategy=search)),
        Node(run("prompt-signals", strategy=ladder)),
        Node(run("ladder"), (f"generate-{ladder}", f"prompt-signals-{ladder}")),
        Node(run("search"), _writers(arms.store_of(search, profile.distill.repaired))),
        Node(run("attribution"), tuple(f"generate-{name}" for name in profile.strategies)),
    ]
    there = {node.name for node in nodes(profile)}
    return list({node.name: node for node in wanted if node.name not in there}.values())


def _writers(store: PurePath | None) -> tuple[str, ...]:
    """The notebook that writes a store; none where there is no store."""
    stages = {"responses": "generate", "prompt-signals": "prompt-signals"}
    return (f"{stages[store.parent.name]}-{store.name}",) if store else ()


def executed_extras(profile: params.Profile) -> list[Node]:
    """Of the notebooks that the paper does without, those with a result of their own that somebody has executed."""
    return [node for node in extras(profile) if node.stage in PAGES and node.executed.exists()]


def find(profile: params.Profile, name: str) -> Node:
    """The node of a name.

    Raises:
        InputError: no stage is named so, or the profile has no such strategy or arm of it.
    """
    known = [*nodes(profile), *extras(profile)]
    for node in known:
        if node.name == name:
            return node
    for stage in params.RUNS:
        if f"{name}-".startswith(f"{stage}-"):
            item = name.removeprefix(stage).removeprefix("-") or None
            allowed = ", ".join(node.item or "(none)" for node in known if node.stage == stage)
            raise InputError(f"{stage} of {item!r}: not in profile {profile.name}; allowed: {allowed}")
    raise InputError(f"stage {name!r}: unknown; allowed: {', '.join(params.RUNS)}")


# --- which are stale ---


def write(profile: params.Profile) -> None:
    """Write build/PROFILE/plan/: a file per notebook, `inputs.json`, and `plan.mk`, which notebook needs which."""
    all_nodes = nodes(profile) + extras(profile)
    sources = [paths.ROOT / "CITATION.cff", *(file for file in sorted(paths.REPORT.iterdir()) if file.is_file())]
    contents = {node.name: node.content() for node in all_nodes} | {
        "inputs": {
            "problems": profile.problems.model_dump(),
            "model": profile.model.model_dump(),
            "teacher": profile.generate.teacher,
        },
        "report": {
            "code": provenance.code_digests("report.page"),
            "sources": {file.name: artifacts.digest(file) for file in sources},
            "extras": {node.name: artifacts.digest(node.executed) for node in executed_extras(profile)},
        },
    }
    folder = paths.BUILD / profile.name / "plan"
    for name, content in contents.items():
        _write_if_changed(folder / f"{name}.json", json.dumps(content, indent=1))
    files = {node.name: f"$(NB)/{node.name}.ipynb" for node in all_nodes}
    needs = (
        f"{files[node.name]}: {' '.join(files[name] for name in node.needs)}\n" for node in all_nodes if node.needs
    )
    _write_if_changed(folder / "plan.mk", "".join(needs))


def notebook_code(notebook: Path) -> dict[str, str]:
    """Digests of our modules that a notebook imports, itself or through others; `style` counts here."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    digests = provenance.code_digests(*provenance.imported_by(source))
    return digests | {"style": artifacts.digest(provenance.module_file("style"))[:16]}


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
    found: list[dict[str, str | None]] = []
    for node in nodes(profile):
        done, state = node.run.build / "plan" / "done" / f"{node.name}.json", "not run"
        if node.executed.exists() and done.exists():
            state = "current" if json.loads(done.read_text(encoding="utf-8")) == node.content() else "stale"
        executed = paths.shown(node.executed) if node.executed.exists() else None
        found.append({"notebook": node.name, "state": state, "executed": executed})
    return found


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


# --- execution ---


def execute(
    notebook: Path, target: Path, values: dict[str, Any], line: progress.Line, *, folder: Path = paths.NOTEBOOKS
) -> None:
    """Execute a notebook by papermill in a folder. It is written beside its target and renamed once complete.

    What it writes to standard error is also said by the line; its standard output is in the executed notebook alone.

    A failed one stays beside its target as `*.partial.ipynb`, readable up to the cell that failed.

    Raises:
        InputError: the notebook raised it.
        SystemExit: it failed otherwise, and the line has said how.
    """
    import papermill
    from traitlets.config import Config

    partial = target.with_suffix(".partial.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as sockets:
        arguments: dict[str, Any] = {
            "parameters": values,
            "kernel_name": "python3",
            "cwd": folder,
            "start_timeout": 300,
            # Sockets in files of its own: with TCP, kernels that start at the same time can race for a port.
            "config": Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
            # The kernel's own log would pass the line by; now and then it says that an ending kernel was interrupted.
            "extra_arguments": ["--IPKernelApp.log_level=CRITICAL"],
            "coalesce_streams": True,  # of a bar, what is left on a terminal is left in the notebook: nothing
            "progress_bar": False,
            "stderr_file": line,
        }
        try:
            papermill.execute_notebook(notebook, partial, **arguments)
        except papermill.PapermillExecutionError as error:
            where = paths.shown(partial)
            if error.ename == InputError.__name__:
                raise InputError(f"{error.evalue} ({where})") from None
            line.say(f"{line.name} failed; the notebook up to there: {where}: {error.ename}: {error.evalue}")
            raise SystemExit(1) from None
    partial.replace(target)


def page(executed: Path, title: str) -> str:
    """An executed notebook without its code, as HTML that asks the network for nothing."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_file=str(paths.REPORT / "notebook.html.jinja"), exclude_anchor_links=True)
    html, _ = exporter.from_filename(str(executed), {"title": title})
    return str(html)
