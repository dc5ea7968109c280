import json
import os
import re

import nbformat
import pytest

from response_priming import arms, artifacts, audit, notebooks, params, paths
from response_priming.errors import InputError
from response_priming.report import page


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    notebooks.write(params.load("laptop"))
    return tmp_path / "laptop" / "plan"


def test_every_notebook_and_the_page_are_stale_at_first(written):
    names = [node.name for node in notebooks.nodes(params.load("laptop"))]
    assert len(names) == len(set(names)) == 4 + 5 + 7 + 4
    extras = {"prompt-signals-ground-truth", "doctor", "ladder", "related", "search", "attribution"}
    first, *_, last = (written / "plan.mk").read_text().splitlines()
    files = {f"$(NB)/{name}.ipynb" for name in [*names, *extras]}
    assert {*first.removesuffix(": FORCE").split()} == {*files, "$(PAGE)", "$(READY)"}
    assert last == "# complete"


def test_writing_again_touches_nothing(written):
    before = {file: file.stat().st_mtime_ns for file in written.iterdir()}
    notebooks.write(params.load("laptop"))
    assert {file: file.stat().st_mtime_ns for file in written.iterdir()} == before


def test_content_has_the_parameters_that_papermill_injects():
    profile = params.load("laptop")
    content = notebooks.find(profile, "distill-teacher").content()
    assert content["parameters"] == profile.run("distill", arm="teacher").model_dump()


def test_code_follows_imports_and_stops_at_the_stage():
    generate = notebooks.notebook_code(paths.NOTEBOOKS / "generate.ipynb")
    shared = {"engines.base", "models", "prompts", "problems", "style", "tables"}
    assert shared | {"generate.teacher", "generate.store", "generate.figures"} <= generate.keys()
    assert {"distill.training", "methods.losses", "attention.analysis"} & generate.keys() == set()


def test_changed_prefix_changes_its_strategy_only(monkeypatch):
    profile = params.load("laptop")
    before = {node.name: node.content() for node in notebooks.nodes(profile)}
    changed = arms.strategies()
    changed["teacher"] = changed["teacher"] | {"prefix": "Think. "}
    monkeypatch.setattr(arms, "strategies", lambda: changed)
    after = {node.name: node.content() for node in notebooks.nodes(profile)}
    assert {name for name in before if before[name] != after[name]} == {"generate-teacher"}


def test_every_notebook_is_found_by_its_name():
    profile = params.load("laptop")
    for node in notebooks.nodes(profile) + notebooks.extras(profile):
        assert notebooks.find(profile, node.name) == node


@pytest.mark.parametrize("file", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_what_a_notebook_shows_escapes_foreign_text(file):
    for cell in json.loads(file.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            # Data frames escape by themselves, and so does `style.printed`; a Styler must be told to.
            assert not re.search(r"[\w)\]]\.style\b", source) or 'escape="html"' in source
            assert not re.search(r"\b(HTML|display|Latex|Javascript)\(|escape=(False|None)", source)
            assert not re.search(r"\bMarkdown\((?!said\b)", source)


def test_nodes_come_after_what_they_need():
    names = [node.name for node in notebooks.nodes(params.load("laptop"))]
    assert names.index("generate-teacher") < names.index("distill-teacher") < names.index("evaluate-teacher")
    assert names.index("compare") < names.index("claims") > names.index("audit")


def test_a_notebook_is_not_run_then_current_then_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    profile = params.load("laptop")
    node = notebooks.find(profile, "audit")

    def why(name="audit"):
        return notebooks.states(profile)[name].reason

    assert why() == f"{tmp_path}/laptop/audit: not made yet"
    audit.audit(node.run)
    assert why() == "not run yet"
    node.executed.parent.mkdir(parents=True)
    node.executed.write_text("{}")
    notebooks.mark_done(node.stamp, node.content(), node.executed, {})
    assert why() is None
    os.utime(node.executed, (0, 0))  # whatever the clock says
    assert why() is None
    node.executed.write_text("{ }")
    assert why() == f"{node.executed} changed by hand"
    node.executed.write_text("{}")
    node.stamp.write_text("{")
    assert why() == "not run yet"
    notebooks.mark_done(node.stamp, node.content() | {"notebook": "another"}, node.executed, {})
    assert why() == "notebook changed"
    notebooks.mark_done(node.stamp, node.content(), node.executed, {})
    assert why() is None
    (tmp_path / "laptop" / "audit" / "tests.csv").write_text("p\n0.0\n")
    assert why() == f"{tmp_path}/laptop/audit/tests.csv: not as it was made"
    assert why("claims") == "compare is to be made first"


def test_a_difference_is_said_in_words():
    before = {"parameters": {"alpha": 0.5, "seed": 0}, "inputs": {"students/none/seed-0": {}}, "version": [1]}
    for change, said in (
        ({"parameters": {"alpha": 0.9, "seed": 0}}, "alpha = 0.9, was 0.5"),
        ({"inputs": {"students/none/seed-0": {"a": "b"}}}, "inputs: students/none/seed-0 changed"),
        ({"version": [2]}, "version changed"),
        ({"parameters": {"alpha": 0.5, "seed": 0, "revision": None}}, "parameters: revision changed"),
    ):
        assert notebooks.difference(before, before | change) == said


def test_every_notebook_needs_what_its_arm_reads():
    arms = ["undistilled", "none", "shuffled", "published-teacher"]
    profile = params.load("laptop").model_copy(update={"arms": arms})
    needs = {node.name: set(node.needs) for node in notebooks.nodes(profile)}
    assert list(needs)[:2] == ["generate-none", "prompt-signals-teacher"]
    assert needs["distill-none"] == needs["distill-shuffled"] == {"generate-none"}
    assert needs["distill-published-teacher"] == {"prompt-signals-teacher"}
    assert needs["evaluate-undistilled"] == set()
    assert needs["evaluate-shuffled"] == {"distill-shuffled"}
    assert needs["compare"] == needs["attention-visualize"] == {f"evaluate-{arm}" for arm in arms}


def test_what_a_notebook_needs_is_in_the_plan_and_comes_before_it():
    profile = params.load("laptop")
    names = [node.name for node in notebooks.nodes(profile) + notebooks.extras(profile)]
    for node in notebooks.nodes(profile) + notebooks.extras(profile):
        assert all(names.index(name) < names.index(node.name) for name in node.needs), node.name


def test_make_reads_the_needs(written):
    lines = (written / "plan.mk").read_text().splitlines()
    assert "$(NB)/distill-none.ipynb: | $(NB)/generate-none.ipynb" in lines
    assert "$(NB)/search.ipynb: | $(NB)/generate-none.ipynb" in lines
    wanted = "$(NB)/generate-ground-truth.ipynb $(NB)/prompt-signals-ground-truth.ipynb"
    assert f"$(NB)/ladder.ipynb: | {wanted}" in lines
    # Of the arms that related methods are compared with, those that the profile has.
    wanted = " ".join(f"$(NB)/{name}.ipynb" for name in ("generate-none", "evaluate-fine-tuned", "evaluate-none"))
    assert f"$(NB)/related.ipynb: | {wanted}" in lines


@pytest.mark.usefixtures("written")
def test_an_extra_notebook_that_was_executed_gets_a_page_and_makes_the_report_stale():
    profile = params.load("laptop")
    assert notebooks.executed_extras(profile) == []
    before = notebooks.page_content(profile)
    node = notebooks.find(profile, "ladder")
    node.executed.parent.mkdir(parents=True)
    node.executed.write_text("{}")
    assert notebooks.page_content(profile) != before
    titles = page.notebook_titles(profile)
    assert titles["ladder"] == notebooks.PAGES["ladder"]
    assert "search" not in titles


@pytest.mark.parametrize(("stage", "need"), [("distill", "generate-none"), ("ladder", "generate-ground-truth")])
def test_a_notebook_refuses_what_is_stale_wherever_it_is_executed(tmp_path, monkeypatch, stage, need):
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    setup = next(
        cell["source"]
        for cell in nbformat.read(paths.NOTEBOOKS / f"{stage}.ipynb", as_version=4).cells
        if "params.collect(" in cell["source"]
    )
    run = params.load("laptop").run(stage)
    lacks = rf"^{stage}[a-z-]* needs {need}, which is stale: .*: not made yet; `make paper PROFILE=laptop` makes it"
    with pytest.raises(InputError, match=lacks):
        exec(setup, run.model_dump())
    needed = notebooks.find(params.load("laptop"), need).run
    (made,) = needed.folders
    with artifacts.writing(made.path, artifacts.recipe(needed, made)):
        pass
    if stage == "distill":
        exec(setup, run.model_dump())
        changed = artifacts.read(made.path)["recipe"]
        changed["parameters"]["top_k"] = 3
        with artifacts.writing(made.path, changed):
            pass
        with pytest.raises(InputError, match=r"which is stale: responses/none: top_k = 64, was 3; `make paper "):
            exec(setup, run.model_dump())
