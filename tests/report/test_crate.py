"""The record of a run, as an RO-Crate: of a small run made up here; of whole ones in tests/whole."""

import json

import pytest
from nbformat import v4, write
from rocrate.rocrate import ROCrate

from response_priming import artifacts, notebooks, params, paths, provenance
from response_priming.report import crate

PROFILE = params.load("laptop")
OLD = {
    "git_commit": 40 * "a",
    "git_changed": 2,
    "python": "3.11.0",
    "packages": {"torch": "2.0"},
    "machine": "one core",
}
TOOK = {"wall_seconds": 60.0, "cpu_seconds": 90.0}


def put(folder, reads=(), **more):
    """A folder of results, made on another machine by other code."""
    recipe = artifacts.decided_by(folder.parent.parent.name, more, reads, code=[])
    with artifacts.writing(folder, recipe) as aside:
        (aside / "table.csv").write_text("a,b\n")
    made = artifacts.manifest(folder) | OLD | TOOK | {"date": "2026-01-02 03:04"}
    (folder / artifacts.FILE).write_text(artifacts.manifests.text_of(made))


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A run of a teacher and the undistilled student, and its page."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    folder = tmp_path / "laptop"
    models = {"teacher": "some/model", "teacher_weights": f"some/model@{40 * 'c'}", "dtype": "bfloat16"}
    put(folder / "responses" / "none", dataset="gsm8k", data="openai/gsm8k@1", strategy="none", **models)
    put(folder / "answers" / "undistilled" / "seed-0")
    put(folder / "scores" / "undistilled" / "seed-0", [folder / "answers" / "undistilled" / "seed-0"])
    put(folder / "students" / "of-another-paper" / "seed-0")
    put(folder / "report")
    put(folder / "report" / "_site", [folder / "report"])
    for name in ("generate-none", "evaluate-undistilled"):
        node, notebook = notebooks.find(PROFILE, name), v4.new_notebook()
        times = {"start_time": "2026-01-02T03:00:00.123456+00:00", "end_time": "2026-01-02T03:05:00+00:00"}
        notebook.metadata["papermill"] = times
        node.executed.parent.mkdir(exist_ok=True)
        write(notebook, node.executed)
        notebooks.mark_done(node.stamp, {}, node.executed, TOOK | {"joules": 7.5})
    crate.write(PROFILE, {"wall_seconds": 1.0, "cpu_seconds": 2.0})
    return folder


def every(value):
    return value if isinstance(value, list) else [value]


def test_it_is_a_provenance_run_crate(build):
    record = ROCrate(build)
    context = json.loads((build / "ro-crate-metadata.json").read_text())["@context"]
    assert "https://w3id.org/ro/terms/workflow-run/context" in context
    root, workflow = record.root_dataset, record.mainEntity
    assert {each.id.rpartition("/")[0].rpartition("/")[2] for each in root["conformsTo"]} == {
        "process", "workflow", "provenance", "workflow-ro-crate"
    }  # fmt: skip
    assert {"name", "description", "license", "datePublished"} <= set(root)
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"} == set(workflow.type)
    assert workflow["programmingLanguage"]["name"] == "GNU Make"
    tools = {tool.id for tool in workflow["hasPart"]}
    assert {step["workExample"].id for step in workflow["step"]} == tools
    controls = record.get_by_type("ControlAction")
    assert {control["instrument"].id for control in controls} == {step.id for step in workflow["step"]}
    for action in (done for control in controls for done in every(control["object"])):
        assert action.type == "CreateAction"
        assert every(action["instrument"])[0].id in tools
        assert all(cost.type == "PropertyValue" and cost["propertyID"] for cost in action["resourceUsage"])
    (engine,) = record.get_by_type("OrganizeAction")
    assert engine["result"].id == "#paper"
    assert {control.id for control in engine["object"]} == {control.id for control in controls}
    for value in record.get("#paper")["object"]:
        assert value["exampleOfWork"].type == "FormalParameter"
        assert value["exampleOfWork"]["additionalType"]
    assert all(isinstance(each, dict) is False for each in record.root_dataset["mentions"])  # every reference resolves


def test_it_names_every_file_of_the_paper_with_its_digest(build):
    record = ROCrate(build)
    files = {entity.id: entity for entity in record.data_entities if "sha256" in entity}
    there = {file.relative_to(build).as_posix() for file in build.rglob("*") if file.is_file()}
    left = {name for name in there if name.startswith(("plan/", "students/of-another-paper")) or "/" not in name}
    assert files.keys() - {"plan/Makefile"} == there - left
    for name, entity in files.items():
        assert entity["sha256"] == provenance.content_digest(build / name)
        assert entity["contentSize"] == str((build / name).stat().st_size)
    assert [part.id for part in record.get("scores/undistilled/seed-0/")["hasPart"]] == [
        "scores/undistilled/seed-0/manifest.json", "scores/undistilled/seed-0/table.csv"
    ]  # fmt: skip


def test_every_parameter_is_there_with_its_value(build):
    found = {value["name"]: json.loads(value["value"]) for value in ROCrate(build).get("#paper")["object"]}
    whole = PROFILE.model_dump(mode="json")
    for name, value in found.items():
        section, _, key = name.rpartition(".")
        assert value == (whole[section] if section else whole)[key]
    assert len(found) == sum(len(part) if isinstance(part, dict) and part else 1 for part in whole.values()) - 1


def test_a_result_has_the_code_machine_data_and_model_that_it_was_made_by_and_of(build):
    made = ROCrate(build).get("#made/responses/none")
    of = {thing.id.partition("/")[0]: thing for thing in [*made["instrument"], *every(made["object"])]}
    assert (of["#code"]["version"], of["#code"]["description"]) == (40 * "a", "2 files differ from the commit")
    assert of["#software"]["softwareVersion"] == "2.0"
    assert of["#machine"]["value"].startswith("one core")
    assert of["#precision"]["value"] == "bfloat16"
    assert (of["#data"]["name"], of["#data"]["identifier"]) == ("gsm8k", "openai/gsm8k@1")
    assert (of["#model"]["name"], of["#model"]["version"]) == ("some/model", 40 * "c")
    assert made["endTime"] == "2026-01-02T03:04:00.000+00:00"
    assert {cost["name"]: cost["value"] for cost in made["resourceUsage"]} == {
        "wall_seconds": "60.0", "cpu_seconds": "90.0", "joules": crate.NOT_COUNTED
    }  # fmt: skip


def test_an_execution_has_its_times_and_its_energy_where_it_was_counted(build):
    done = ROCrate(build).get("#run/generate-none")
    assert (done["startTime"], done["endTime"]) == ("2026-01-02T03:00:00.123+00:00", "2026-01-02T03:05:00.000+00:00")
    assert {cost["name"]: cost["value"] for cost in done["resourceUsage"]}["joules"] == "7.5"


def test_what_it_names_otherwise_than_it_is_there_is_found(build):
    assert list(crate.differing(PROFILE)) == []
    file = build / "ro-crate-metadata.json"
    text = file.read_text()
    name = "responses/none/table.csv"
    digest = provenance.content_digest(build / name)
    file.write_text(text.replace(digest, 64 * "0"))
    assert f"{name} is not what it says" in list(crate.differing(PROFILE))
    put(build / "answers" / "undistilled" / "seed-0", more=1)
    file.write_text(text)
    assert list(crate.differing(PROFILE)) == ["answers/undistilled/seed-0/manifest.json is not what it says"]
    for broken in ("", "{}", "[]", '{"@context": "x", "@graph": []}'):
        file.write_text(broken)
        assert list(crate.differing(PROFILE)) == ["cannot be read"]
    file.unlink()
    assert list(crate.differing(PROFILE)) == ["cannot be read"]


def test_it_is_written_as_a_whole(build, monkeypatch):
    before = (build / "ro-crate-metadata.json").read_bytes()
    monkeypatch.setattr(crate.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crate.write(PROFILE, {})
    assert (build / "ro-crate-metadata.json").read_bytes() == before
