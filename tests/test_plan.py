import json

import pytest

from response_priming import params, paths, plan


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    plan.write(params.load("laptop"))
    return tmp_path / "laptop" / "plan"


def test_a_file_for_every_notebook(written):
    profile = params.load("laptop")
    names = [node.name for node in plan.nodes(profile) + plan.extras(profile)]
    assert len(names) == len(set(names)) == 4 + 5 + 6 + 2 + 1
    assert {file.stem for file in written.glob("*.json")} == {*names, "inputs", "report"}


def test_writing_again_touches_nothing(written):
    before = {file: file.stat().st_mtime_ns for file in written.iterdir()}
    plan.write(params.load("laptop"))
    assert {file: file.stat().st_mtime_ns for file in written.iterdir()} == before


def test_content_has_the_parameters_that_papermill_injects(written):
    content = json.loads((written / "distill-teacher.json").read_text())
    assert content["parameters"] == params.load("laptop").run("distill", arm="teacher").model_dump()


def test_code_follows_imports_and_stops_at_the_stage():
    generate = plan.notebook_code(paths.NOTEBOOKS / "generate.ipynb")
    assert {"generate", "engines", "models", "priming", "problems", "responses", "figures"} <= generate.keys()
    assert {"distill", "losses", "attention"} & generate.keys() == set()


def test_changed_prefix_changes_its_strategy_only(monkeypatch):
    profile = params.load("laptop")
    before = {node.name: node.content() for node in plan.nodes(profile)}
    changed = params.strategies()
    changed["teacher"] = changed["teacher"] | {"prefix": "Think. "}
    monkeypatch.setattr(params, "strategies", lambda: changed)
    after = {node.name: node.content() for node in plan.nodes(profile)}
    assert {name for name in before if before[name] != after[name]} == {"generate-teacher"}


def test_nodes_come_after_what_they_need():
    names = [node.name for node in plan.nodes(params.load("laptop"))]
    assert names.index("generate-teacher") < names.index("distill-teacher") < names.index("evaluate-teacher")
    assert names[-1] == "compare"
