"""Notebooks: those that a profile executes, and what makes each stale.

Content decides, never a time: `state` compares what a notebook would be executed with, and what it would write, with
what is there. `write` tells make what is stale, and make runs it in order.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from response_priming import arms, artifacts, params, paths, provenance
from response_priming.errors import InputError

# Titles of the notebooks' pages, where there is one a profile; the last five get one where they were executed.
PAGES = {
    "compare": "Compare all arms",
    "attention-visualize": "Attention inside the students",
    "audit": "Audit of the released logs",
    "claims": "The claims of the paper",
    "doctor": "Why distillation loses to fine-tuning",
    "ladder": "What each deviation of the released code costs",
    "related": "Related methods, side by side",
    "search": "Search on the validation split",
    "attribution": "What the teacher's responses are attributed to",
}
CRATE = "ro-crate-metadata.json"  # the record of a run, in its folder


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
    def title(self) -> str:
        """Title of its page."""
        stage = self.stage.capitalize().replace("-", " ")
        return f"{stage}: {arms.title(self.item)}" if self.item else PAGES[self.stage]

    @property
    def notebook(self) -> Path:
        """The notebook's source."""
        return paths.NOTEBOOKS / f"{self.stage}.ipynb"

    @property
    def executed(self) -> Path:
        """Where the executed notebook lands."""
        return self.run.build / "notebooks" / f"{self.name}.ipynb"

    @property
    def stamp(self) -> Path:
        """Where it is kept with what the notebook was executed."""
        return self.run.build / "plan" / f"{self.name}.json"

    def content(self) -> dict[str, Any]:
        """Everything that makes the executed notebook stale when it changes, but for what the run writes."""
        return {
            "notebook": provenance.digest(self.notebook),
            "code": notebook_code(self.notebook) | self._methods(),
            "parameters": self.run.model_dump(),
            "inputs": {path.name: found["outputs"] for path in self.run.reads if (found := artifacts.manifest(path))},
            **provenance.content(self.run),
        }

    def _methods(self) -> dict[str, str]:
        """Digests of the related methods, which are found by their names."""
        names = [f"methods.{name.replace('-', '_')}" for name in getattr(self.run, "related_methods", ())]
        return provenance.code_digests(*(name for name in names if provenance.module_file(name).exists()))


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
    related = profile.related.related_strategy
    references = tuple(f"evaluate-{arm}" for arm in arms.references(related) if arm in profile.arms)
    scored = tuple(f"evaluate-{arm}" for arm in profile.arms)
    wanted = [
        Node(run("generate", strategy=profile.doctor.doctor_strategy)),
        Node(run("doctor"), (*scored, f"generate-{profile.doctor.doctor_strategy}")),
        Node(run("generate", strategy=ladder)),
        Node(run("generate", strategy=search)),
        Node(run("prompt-signals", strategy=ladder)),
        Node(run("ladder"), (f"generate-{ladder}", f"prompt-signals-{ladder}")),
        Node(run("generate", strategy=related)),
        Node(run("related"), (f"generate-{related}", *references)),
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


class State(NamedTuple):
    """Why a notebook would be executed now, None where it is current, and whether what it writes would be made again.

    `executed`: the path of the executed notebook, None where there is none.
    """

    reason: str | None
    makes: bool
    executed: str | None


def states(profile: params.Profile) -> dict[str, State]:
    """The state of every notebook of a profile, and of its page, `report`; each after those it needs."""
    found: dict[str, State] = {}
    for node in nodes(profile) + extras(profile):
        needed = next((name for name in node.needs if found[name].makes), None)
        reason = f"{needed} is to be made first" if needed else lacking(node.run)
        makes, executed = reason is not None, paths.shown(node.executed) if node.executed.exists() else None
        reason = reason or _changed(node.stamp, node.content(), node.executed)
        found[node.name] = State(reason, makes, executed)
    stale = next((node.name for node in nodes(profile) if found[node.name].reason), None)
    stamp, page, crate = page_of(profile)
    site = sorted(artifacts.damaged(page.parent))
    reason = f"{stale} is to be executed first" if stale else f"{site[0]} changed by hand" if site else None
    reason = reason or (_changed(stamp, page_content(profile), crate) if page.exists() else "not run yet")
    found["report"] = State(reason, makes=False, executed=paths.shown(page) if page.exists() else None)
    return found


def lacking(run: params.Run) -> str | None:
    """Why what a run writes is to be made again; None where all of it is there, as it was made and by its recipe."""
    for folder in run.folders:
        name = "/".join(folder.path.relative_to(run.output).parts)
        try:
            wanted = artifacts.recipe(run, folder, here=False)
            there = artifacts.read(folder.path)
        except InputError as error:
            return str(error).partition(";")[0]
        if not artifacts.is_current(folder.path, wanted):
            before = artifacts.decisive(there["recipe"])
            if wanted["parameters"].get("dtype") == "auto":
                before["parameters"] = before["parameters"] | {"dtype": "auto"}
            return f"{name}: {difference(before, artifacts.decisive(wanted))}"
    return None


def _changed(stamp: Path, content: dict[str, Any], executed: Path) -> str | None:
    try:
        done = json.loads(stamp.read_text(encoding="utf-8"))
        before, made, there = done["content"], done["executed"], provenance.digest(executed)
    except (OSError, ValueError, LookupError, TypeError):
        return "not run yet"
    if before != json.loads(json.dumps(content)):
        return difference(before, content)
    return None if there == made else f"{paths.shown(executed)} changed by hand"


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two recipes or contents differ, in words."""
    now = json.loads(json.dumps(now))
    for part in [*now, *before]:
        old, new = before.get(part), now.get(part)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            key = next(key for key in [*new, *old] if key not in old or key not in new or old[key] != new[key])
            if part == "parameters" and key in old and key in new:
                return f"{key} = {new[key]!r}, was {old[key]!r}"
            return f"{part}: {key} changed"
        return f"{part} changed"
    return "changed"


def write(profile: params.Profile) -> None:
    """Write build/PROFILE/plan/plan.mk: which notebooks are stale, and which need which."""
    found, all_nodes = states(profile), nodes(profile) + extras(profile)
    files = {node.name: f"$(NB)/{node.name}.ipynb" for node in all_nodes} | {"report": "$(PAGE)"}
    stale = [files[name] for name, state in found.items() if state.reason]
    plan, ready = (profile.build / "plan" / name for name in ("plan.mk", "ready"))
    # A model that is gone from the cache is looked up again, or its recipes would name no commit.
    gone = not all(provenance.hub_commit(*model) for model in profile.from_hub.values())
    if gone or not ready.exists() or ready.read_text(encoding="utf-8") != profile.written:
        stale.append("$(READY)")
    # Every notebook is named, or make would take it for a file between two others, which it does without.
    needs = [f"{files[node.name]}: | {' '.join(files[name] for name in node.needs)}".strip() for node in all_nodes]
    # The Makefile drops a file without its last line, which a kill or a full disk cut short.
    text = "\n".join([*[f"{' '.join(stale)}: FORCE"] * bool(stale), *needs, "# complete", ""])
    if not plan.exists() or plan.read_text(encoding="utf-8") != text:
        paths.write(plan, text)


def require(run: params.Run) -> None:
    """`InputError` where what a run's notebook needs is not what the profile says: before it reads that, wherever it
    is executed."""
    profile, name = params.load(run.profile), Node(run).name
    paper = {node.name: node for node in nodes(profile)}
    known = paper | {node.name: node for node in extras(profile)}
    for need in known[name].needs if name in known else ():
        if reason := lacking(known[need].run):
            heals = f"make paper PROFILE={profile.name}"
            heals = heals if need in paper else f"response-priming run {need} --profile {profile.name}"
            raise InputError(f"{name} needs {need}, which is stale: {reason}; `{heals}` makes it again")


def notebook_code(notebook: Path) -> dict[str, str]:
    """Digests of our modules that a notebook imports, itself or through others; here `style` and its tables count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # This module shows nothing: it refuses.
    digests = provenance.code_digests(*(name for name in provenance.imported_by(source) if name != "notebooks"))
    style = provenance.module_file("style").read_text(encoding="utf-8")
    tables = provenance.digest(paths.REPORT / "tables.yaml")
    return digests | {"style": provenance.code_digest(style), "tables": tables}


def page_of(profile: params.Profile) -> tuple[Path, Path, Path]:
    """Where it is kept what a profile's page was made of, the page, and the record of the run (see `report.crate`)."""
    build = profile.build
    return build / "plan/report.json", build / "report/_site/index.html", build / CRATE


def page_content(profile: params.Profile) -> dict[str, Any]:
    """Everything that makes the page stale when it changes."""
    sources = [paths.ROOT / "CITATION.cff", *(file for file in sorted(paths.REPORT.rglob("*")) if file.is_file())]
    executed = [node for node in nodes(profile) if node.executed.exists()] + executed_extras(profile)
    manifests = [folder.path / artifacts.FILE for node in executed for folder in node.run.folders]
    manifests += sorted(profile.build.glob(f"explored/*/scores/*/seed-*/{artifacts.FILE}"))
    return {
        "parameters": profile.model_dump(),
        "code": provenance.code_digests("report.page"),
        "sources": {paths.shown(file): provenance.digest(file) for file in sources},
        "executed": {node.name: provenance.digest(node.executed) for node in executed},
        "made": {artifacts.part_of(file.parent): provenance.digest(file) for file in manifests if file.exists()},
    }


def mark_done(stamp: Path, content: dict[str, Any], made: Path, took: dict[str, float]) -> None:
    """Remember with what a notebook was executed, or the page made, what that took, and the digest of what it made."""
    paths.write(stamp, json.dumps({"content": content, "executed": provenance.digest(made), "took": took}, indent=1))
