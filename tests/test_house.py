"""The rules of the lib's folders that no linter knows."""

import ast
import json
import re
import subprocess
import sys
from typing import get_args

import pandas as pd
import pytest

from response_priming import extraction, params, paths, scoring

LIB = paths.ROOT / "lib" / "response_priming"
FACES = sorted(LIB.glob("*/__init__.py"))


def calls_lazy_loader(node):
    return isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("lazy_loader.attach(")


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.parent.name)
def test_a_face_says_what_its_folder_does_and_holds_no_code(face):
    tree = ast.parse(face.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body[1:]:
        names = (
            {target.id for target in node.targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.Assign)
            else ()
        )
        assert isinstance(node, ast.Import | ast.ImportFrom) or calls_lazy_loader(node) or names == {"__all__"}


@pytest.mark.parametrize("notebook", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda notebook: notebook.stem)
def test_notebooks_import_faces_and_what_stages_share(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    inner = {f"response_priming.{face.parent.name}" for face in FACES}
    found = [node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    assert [module for module in found if module in inner or str(module).count(".") > 1] == []


def test_what_every_make_starts_is_quick_to_import():
    script = (
        "import sys; from response_priming import cli, notebooks, params\n"
        "[node.content() for node in notebooks.nodes(params.load('laptop'))]\n"
        "print(sorted({'torch', 'pandas', 'transformers', 'matplotlib', 'rocrate', 'bs4'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_few_doors_open_at_the_top():
    assert len([entry for entry in LIB.iterdir() if entry.name != "__pycache__"]) <= 32


def drawing(file):
    """Whether a module imports what draws."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in nodes}
    return bool({str(name).partition(".")[0] for name in names} & {"matplotlib", "seaborn"})


def test_what_computes_does_not_draw():
    drawn = {file.relative_to(LIB).as_posix() for file in LIB.rglob("*.py") if drawing(file)}
    assert {name for name in drawn if not name.endswith("/figures.py")} == {"style.py"}


def test_figures_are_imported_by_their_face_alone():
    imports = [
        (file.relative_to(LIB).as_posix(), node.module)
        for file in LIB.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in [*node.names]
        if name.name == "figures" or node.module.endswith(".figures")
    ]
    assert imports == []


@pytest.mark.parametrize("file", sorted(LIB.rglob("*.py")), ids=lambda file: file.relative_to(LIB).as_posix())
def test_every_prompt_has_the_runs_date(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func)
        assert not name.endswith("apply_chat_template")
        assert name not in ("prompts.encode", "prompts.render") or len(call.args) == 3


STORIES = [notebook for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")) if notebook.stem != "start"]


@pytest.mark.parametrize("notebook", STORIES, ids=lambda notebook: notebook.stem)
def test_every_notebook_begins_in_the_same_way(notebook):
    title, parameters, setup, *_ = json.loads(notebook.read_text())["cells"]
    parts = re.findall(r"^(?:- )?(# |\*\*.*?\*\*)", "".join(title["source"]), re.MULTILINE)
    assert parts == ["# ", "**Question.**", "**In:**", "**Out:**", "**Takes,**"]
    assert parameters["metadata"]["tags"] == ["parameters"]
    if notebook.stem != "compare-runs":  # which is of two runs
        begin = f'run = params.collect("{notebook.stem}", globals())\nnotebooks.require(run)\n'
        assert begin in "".join(setup["source"])
        assert "".join(setup["source"]).endswith("print(provenance.summary(run))")


# --- what is added by one file or one entry; strategies and divergences: tests/whole/test_readme.py ---


def test_an_engine_is_a_file_and_its_name_in_the_schema():
    files = {file.stem for file in (LIB / "engines").glob("*.py") if "\nENGINE = " in file.read_text()}
    assert files == set(get_args(params.Engine))


def test_an_extraction_rule_is_an_entry(monkeypatch):
    monkeypatch.setitem(extraction.RULES, "new", extraction.RULES["last-number"])
    graded = scoring.grade(pd.DataFrame({"response": ["so 3"], "answer": ["3"]}))
    assert graded[f"{params.EvaluateRun(rule='new').rule}-correct"].tolist() == [True]
    assert scoring.known([])[-1] == "new"
