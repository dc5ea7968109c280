import json
import logging
import sys
import tempfile

import nbformat
import pytest

from response_priming import progress
from response_priming.cli.execution import execute
from response_priming.errors import InputError


def executed(folder, code):
    """A notebook of one cell after it was executed by this project's own means."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, folder / "source.ipynb")
    target = folder / "executed" / "some.ipynb"
    target.parent.mkdir(exist_ok=True)
    with progress.Line("some", folder / "console") as line:
        execute(folder / "source.ipynb", target, {}, line, folder=folder)
    return "".join(output.get("text", "") for output in nbformat.read(target, as_version=4).cells[-1].outputs)


def test_the_kernel_is_that_of_this_python_whatever_is_installed(tmp_path, monkeypatch):
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(foreign.parents[1]))
    assert executed(tmp_path, "import sys; print(sys.executable)").strip() == sys.executable


def test_a_long_folder_for_temporary_files_stops_no_kernel(tmp_path, monkeypatch):
    (long := tmp_path / ("a" * 120)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert executed(tmp_path, "print(7)") == "7\n"


def test_a_killed_kernel_is_one_line_with_the_notebook_up_to_there(tmp_path):
    with pytest.raises(InputError, match=r"^some: its kernel was killed, .*executed/some.partial.ipynb; run it again"):
        executed(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert (tmp_path / "executed" / "some.partial.ipynb").exists()
    assert logging.getLogger("papermill").handlers  # or its own words for it would go to standard error, too
