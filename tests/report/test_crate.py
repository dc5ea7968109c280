"""The record of a run, as an RO-Crate: of a small run made up here; of whole ones in tests/whole."""

import json

import pytest
from made_runs import write_elsewhere
from rocrate.rocrate import ROCrate

from response_priming import params, provenance
from response_priming.report import crate

PROFILE = params.load("laptop")


def every(value):
    return value if isinstance(value, list) else [value]


def test_it_is_a_provenance_run_crate(recorded):
    record = ROCrate(recorded)
    context = json.loads((recorded / "ro-crate-metadata.json").read_text())["@context"]
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


def test_it_names_every_file_of_the_paper_with_its_digest(recorded):
    record = ROCrate(recorded)
    files = {entity.id: entity for entity in record.data_entities if "sha256" in entity}
    there = {file.relative_to(recorded).as_posix() for file in recorded.rglob("*") if file.is_file()}
    left = {name for name in there if name.startswith(("plan/", "students/of-another-paper")) or "/" not in name}
    assert files.keys() - {"plan/Makefile"} == there - left
    for name, entity in files.items():
        assert entity["sha256"] == provenance.content_digest(recorded / name)
        assert entity["contentSize"] == str((recorded / name).stat().st_size)
    assert [part.id for part in record.get("scores/undistilled/seed-0/")["hasPart"]] == [
        "scores/undistilled/seed-0/manifest.json", "scores/undistilled/seed-0/table.csv"
    ]  # fmt: skip


def test_every_parameter_is_there_with_its_value(recorded):
    found = {value["name"]: json.loads(value["value"]) for value in ROCrate(recorded).get("#paper")["object"]}
    whole = PROFILE.model_dump(mode="json")
    for name, value in found.items():
        section, _, key = name.rpartition(".")
        assert value == (whole[section] if section else whole)[key]
    assert len(found) == sum(len(part) if isinstance(part, dict) and part else 1 for part in whole.values()) - 1


def test_a_result_has_the_code_machine_data_and_model_that_it_was_made_by_and_of(recorded):
    made = ROCrate(recorded).get("#made/responses/none")
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


def test_an_execution_has_its_times_and_its_energy_where_it_was_counted(recorded):
    done = ROCrate(recorded).get("#run/generate-none")
    assert (done["startTime"], done["endTime"]) == ("2026-01-02T03:00:00.123+00:00", "2026-01-02T03:05:00.000+00:00")
    assert {cost["name"]: cost["value"] for cost in done["resourceUsage"]}["joules"] == "7.5"


def test_what_it_names_otherwise_than_it_is_there_is_found(recorded):
    assert list(crate.differing(PROFILE)) == []
    file = recorded / "ro-crate-metadata.json"
    text = file.read_text()
    name = "responses/none/table.csv"
    digest = provenance.content_digest(recorded / name)
    file.write_text(text.replace(digest, 64 * "0"))
    assert f"{name} is not what it says" in list(crate.differing(PROFILE))
    write_elsewhere(recorded / "answers" / "undistilled" / "seed-0", more=1)
    file.write_text(text)
    assert list(crate.differing(PROFILE)) == ["answers/undistilled/seed-0/manifest.json is not what it says"]
    for broken in ("", "{}", "[]", '{"@context": "x", "@graph": []}'):
        file.write_text(broken)
        assert list(crate.differing(PROFILE)) == ["cannot be read"]
    file.unlink()
    assert list(crate.differing(PROFILE)) == ["cannot be read"]


def test_it_is_written_as_a_whole(recorded, monkeypatch):
    before = (recorded / "ro-crate-metadata.json").read_bytes()
    monkeypatch.setattr(crate.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crate.write(PROFILE, {})
    assert (recorded / "ro-crate-metadata.json").read_bytes() == before


def test_a_store_that_a_student_wrote_names_the_model_by_its_weights(recorded):
    weights = f"some/student@{40 * 'd'}"
    write_elsewhere(recorded / "responses" / "none", dataset="procedural", data="procedural@1", student_weights=weights)
    crate.write(PROFILE, {"wall_seconds": 1.0, "cpu_seconds": 2.0})
    models = [each for each in ROCrate(recorded).get_by_type("CreativeWork") if each.id.startswith("#model/")]
    assert [(model["name"], model["identifier"]) for model in models] == [(weights, weights)]
