"""The record of a run, as an RO-Crate: which parameters, code, data, models and machine made which file, and the cost.

It follows the profile Provenance Run Crate (Leo et al. 2024, doi 10.1371/journal.pone.0309210): the Makefile is the
workflow, each executed notebook a step of it, and each folder of results was made by an action of its own, since it may
be older than the notebook that found it. Values of parameters are JSON; seconds, joules and bytes are the units.
"""

import json
import mimetypes
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel
from rocrate.model.computerlanguage import ComputerLanguage
from rocrate.rocrate import ROCrate

from response_priming import artifacts, notebooks, params, paths, provenance

RUN_CRATES, RUN_CRATE_VERSION = ("process", "workflow", "provenance"), "0.5"
WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
WORKFLOW = "plan/Makefile"  # a copy of the project's, as it was
TYPES = {bool: "Boolean", int: "Integer", float: "Float", str: "Text"}  # of schema.org; of all else, a PropertyValue
VERSION = version("response-priming")
LICENSE = "https://spdx.org/licenses/MIT"
NOT_COUNTED = "not measured: this machine has no counter of energy that can be read (RAPL)"
# How a manifest's costs are called here, with the quantity and the unit by QUDT.
COSTS = {"wall_seconds": ("Time", "SEC"), "cpu_seconds": ("Time", "SEC"), "joules": ("Energy", "J")}


def write(profile: params.Profile, took: dict[str, float]) -> Path:
    """Write build/PROFILE/ro-crate-metadata.json of a finished paper; `took` is what rendering the page did."""
    build = profile.build
    shutil.copyfile(paths.ROOT / "Makefile", build / WORKFLOW)
    record = Record(profile)
    for name in record.steps:
        record.add_step(name, took)
    record.add_workflow()
    target = notebooks.page_of(profile)[2]
    paths.write(target, json.dumps(record.crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False))
    return target


def differing(profile: params.Profile) -> Iterator[str]:
    """Where the crate names another file, or another digest, than is there."""
    there = {name: provenance.digest(file) for name, file in Record(profile).files().items()}
    try:
        crate = ROCrate(profile.build)
        named = {entity.id: entity.get("sha256") for entity in crate.data_entities if entity.get("sha256")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        yield "cannot be read"
        return
    for name in sorted(there.keys() | named.keys()):
        if there.get(name) != named.get(name):
            yield f"{name} is not what it says"


def values(profile: params.Profile) -> dict[str, tuple[Any, str]]:
    """Every parameter with its meaning, by its place in the profile, as `distill.alpha`; but for the profile's name."""
    found = {}
    for name, field in type(profile).model_fields.items():
        part = getattr(profile, name)
        if isinstance(part, BaseModel):
            for key, inner in type(part).model_fields.items():
                found[f"{name}.{key}"] = (part.model_dump(mode="json")[key], inner.description or key)
        elif name != "name":
            found[name] = (profile.model_dump(mode="json")[name], field.description or name)
    return found


def _to(*ids: str) -> Any:
    """References to entities; to a single one, it is no list."""
    links = [{"@id": name} for name in dict.fromkeys(ids)]
    return links[0] if len(links) == 1 else links


def _time(text: str) -> str:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).isoformat(timespec="milliseconds")


class Record:
    """A crate in the making: its steps are the notebooks that were executed, by name, and `report`."""

    def __init__(self, profile: params.Profile) -> None:
        self.profile, self.build = profile, profile.build
        nodes = notebooks.nodes(profile) + notebooks.extras(profile)
        self.nodes = {node.name: node for node in nodes if node.executed.exists()}
        self.steps = [*self.nodes, "report"]
        self.crate = ROCrate(version="1.1")
        self.crate.metadata.extra_contexts.append("https://w3id.org/ro/terms/workflow-run/context")
        self.times: list[str] = []
        # The folders of results, each with the step that made it; what is of no step is of another paper.
        owners = {
            artifacts.part_of(folder.path): name for name in self.nodes for folder in self.nodes[name].run.folders
        }
        # Written down by the first evaluation, whichever arm's that was.
        owners["rules"] = next((name for name in self.nodes if self.nodes[name].stage == "evaluate"), "")
        self.made: dict[str, str] = {}
        for file in sorted(self.build.rglob(artifacts.FILE)):
            part = file.parent.relative_to(self.build)
            owner = owners.get(part.as_posix(), part.parts[0])
            if owner in self.steps and not any(name.startswith(".") for name in part.parts):
                self.made[part.as_posix()] = owner

    def files(self) -> dict[str, Path]:
        """Every file that the crate names, by its path below the profile's folder."""
        found = {WORKFLOW: self.build / WORKFLOW}
        found |= {f"notebooks/{name}.ipynb": node.executed for name, node in self.nodes.items()}
        return found | {name: self.build / name for part in self.made for name in self._within(part)}

    def _within(self, part: str) -> list[str]:
        made = artifacts.read(self.build / part)
        return [f"{part}/{name}" for name in (artifacts.FILE, *made["outputs"], *made.get("measured", {}))]

    def _add(self, key: str, kind: str, /, **properties: Any) -> str:
        """A contextual entity, once; returns its id."""
        if key not in self.crate:
            self.crate.add_jsonld({"@id": key, "@type": kind, **properties})
        return key

    def _file(self, name: str) -> str:
        file, kind = self.build / name, mimetypes.guess_type(name)[0]
        about = {"name": Path(name).name, "sha256": provenance.digest(file), "contentSize": str(file.stat().st_size)}
        about["encodingFormat"] = kind or "application/octet-stream"
        return str(self.crate.add_file(dest_path=quote(name), properties=about).id)

    def _costs(self, action: str, took: dict[str, Any]) -> Any:
        ids = [
            self._add(
                f"{action}/{name}",
                "PropertyValue",
                name=name,
                value=str(took[name]),
                propertyID=f"https://qudt.org/vocab/quantitykind/{quantity}",
                unitCode=f"https://qudt.org/vocab/unit/{unit}",
            )
            for name, (quantity, unit) in COSTS.items()
            if name in took
        ]
        if "joules" not in took:
            energy = {
                "name": "joules",
                "value": NOT_COUNTED,
                "propertyID": "https://qudt.org/vocab/quantitykind/Energy",
            }
            ids.append(self._add("#no-joules", "PropertyValue", **energy, unitCode="https://qudt.org/vocab/unit/J"))
        return _to(*ids)

    def _objects(self, made: dict[str, Any]) -> Any:
        """What a folder was made of, and on which machine."""
        parameters = made["recipe"].get("parameters", {})
        found = [f"{quote(part)}/" for part in made["recipe"]["inputs"] if part in self.made]
        if "data" in parameters:
            about = {"name": parameters["dataset"], "identifier": parameters["data"]}
            found.append(self._add(f"#data/{quote(parameters['data'])}", "CreativeWork", **about))
        for role in ("teacher", "student"):
            if weights := parameters.get(f"{role}_weights"):
                # A method's store may be made by a student that another row names.
                name, version = parameters.get(role, weights), weights.rpartition("@")[2]
                about = {"name": name, "identifier": weights, "version": version}
                found.append(self._add(f"#model/{quote(weights)}", "CreativeWork", **about))
        machine = ", ".join([made["machine"], *made.get("hardware", [])])
        found.append(self._add(f"#machine/{quote(machine)}", "PropertyValue", name="machine", value=machine))
        if dtype := parameters.get("dtype"):
            found.append(self._add(f"#precision/{dtype}", "PropertyValue", name="precision", value=dtype))
        return _to(*found)

    def _instruments(self, tool: str, made: dict[str, Any]) -> Any:
        """What made a folder: the notebook or program, the code as it was, and the packages."""
        about = {"name": "response-priming", "version": made["git_commit"] or "unknown"}
        code = f"#code/{about['version']}+{made['git_changed']}"
        found = [tool, self._add(code, "SoftwareSourceCode", **about, description=provenance.state_of(made))]
        for name, installed in ({"Python": made["python"]} | made["packages"]).items():
            about = {"name": name, "softwareVersion": installed}
            found.append(self._add(f"#software/{quote(name)}-{quote(installed)}", "SoftwareApplication", **about))
        return _to(*found)

    def add_step(self, name: str, took: dict[str, float]) -> None:
        """A notebook, or the page: what it does, its execution, and the folders that it made."""
        node, actions = self.nodes.get(name), []
        if node:
            source = {"name": node.notebook.name, "sha256": provenance.digest(node.notebook), "version": VERSION}
            tool = self._add(f"#notebook/{node.stage}", "SoftwareSourceCode", **source)
            about = json.loads(node.executed.read_text(encoding="utf-8"))["metadata"]["papermill"]
            took = json.loads(node.stamp.read_text(encoding="utf-8")).get("took", {})
            times = {"startTime": _time(about["start_time"]), "endTime": _time(about["end_time"])}
            result = _to(self._file(f"notebooks/{name}.ipynb"))
        else:
            tool = self._add("#report", "SoftwareApplication", name="response-priming report", softwareVersion=VERSION)
            times, result = {"endTime": _time(datetime.now(UTC).isoformat())}, _to("report/_site/index.html")
        run = f"#run/{name}"
        about = {
            "name": f"Execution of {name}",
            "description": f"step {name} of make paper PROFILE={self.profile.name}",
        }
        about |= {"instrument": _to(tool), "result": result, **times}
        actions.append(self._add(run, "CreateAction", **about, resourceUsage=self._costs(run, took)))
        self.times.extend(times.values())
        for part in [part for part, owner in self.made.items() if owner == name]:
            made = artifacts.read(self.build / part)
            within = {"name": part, "hasPart": _to(*map(self._file, self._within(part)))}
            folder = self.crate.add_dataset(dest_path=quote(part), properties=within).id
            making = f"#made/{quote(part)}"
            about = {"name": f"Making of {part}", "description": f"by the recipe in {part}/{artifacts.FILE}"}
            about |= {"endTime": _time(made["date"]), "result": _to(folder)}
            about |= {"instrument": self._instruments(tool, made), "object": self._objects(made)}
            actions.append(self._add(making, "CreateAction", **about, resourceUsage=self._costs(making, made)))
        step = self._add(
            f"#step/{name}", "HowToStep", name=name, position=self.steps.index(name), workExample=_to(tool)
        )
        self._add(f"#control/{name}", "ControlAction", name=name, instrument=_to(step), object=_to(*actions))

    def add_workflow(self) -> None:
        """What the steps are of: the paper, its parameters, and the crate itself."""
        crate, profile, made = self.crate, self.profile, provenance.here()
        formal, given = [], []
        for name, (value, meaning) in values(profile).items():
            kind = TYPES.get(type(value), "PropertyValue")
            about = {"name": name, "additionalType": kind, "description": meaning, "valueRequired": False}
            formal.append(self._add(f"#parameter/{name}", "FormalParameter", **about))
            about = {"name": name, "value": json.dumps(value), "exampleOfWork": _to(formal[-1])}
            given.append(self._add(f"#value/{name}", "PropertyValue", **about))
        make = {"name": "GNU Make", "url": "https://www.gnu.org/software/make/"}
        language = crate.add(ComputerLanguage(crate, "#make", properties=make))
        about = {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": "make paper",
            "version": made["git_commit"] or "unknown",
            "encodingFormat": "text/x-makefile",
            "contentSize": str((self.build / WORKFLOW).stat().st_size),
            "sha256": provenance.digest(self.build / WORKFLOW),
            "input": _to(*formal),
            "step": _to(*(f"#step/{name}" for name in self.steps)),
            "hasPart": _to(*(f"#notebook/{node.stage}" for node in self.nodes.values()), "#report"),
        }
        crate.add_workflow(dest_path=WORKFLOW, main=True, lang=language, properties=about)
        parts = [f"{quote(part)}/" for part in self.made]
        used = {"object": _to(*given), "result": _to("report/_site/index.html", *parts)}
        times = {"startTime": min(self.times), "endTime": max(self.times)}
        self._add("#paper", "CreateAction", name="make paper", instrument=_to(WORKFLOW), **used, **times)
        controls = _to(*(f"#control/{name}" for name in self.steps))
        engine = {"instrument": _to("#engine"), "object": controls, "result": _to("#paper")}
        self._add("#engine", "SoftwareApplication", **make)
        self._add("#organize", "OrganizeAction", name=f"make paper PROFILE={profile.name}", **engine)
        profiles = [self._add(WORKFLOW_CRATE, "CreativeWork", name="Workflow RO-Crate", version="1.0")]
        for name in RUN_CRATES:
            about = {"name": f"{name.capitalize()} Run Crate", "version": RUN_CRATE_VERSION}
            profiles.append(self._add(f"https://w3id.org/ro/wfrun/{name}/{RUN_CRATE_VERSION}", "CreativeWork", **about))
        crate.root_dataset["conformsTo"] = _to(*profiles)
        crate.name, crate.description = f"Response priming, profile {profile.name}", __doc__.partition(":")[0]
        self._add(LICENSE, "CreativeWork", name="MIT", description="Of the code; data and models have their own")
        crate.root_dataset["alternateName"] = profile.name
        crate.license, crate.datePublished = _to(LICENSE), datetime.now(UTC)
        actions = [entity.id for entity in crate.get_by_type("CreateAction")]
        crate.root_dataset["mentions"] = _to("#organize", *actions)
