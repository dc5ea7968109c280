"""A real JupyterLab, started by the command of `make lab`, with the notebooks' start page in a real browser."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import tiny
from tests.attention.test_explorer import EXAMPLES, analysis, executed, half

from response_priming import arms, paths

BROWSED = """import pandas as pd
from response_priming import evaluate
from response_priming.scoring import grade
asked = {"problem_id": ["test-0", "test-1"], "question": ["How many?", "How much?"], "answer": ["4", "5"]}
answers = pd.DataFrame(asked)
evaluate.browse(grade(answers.assign(response=["#### 4", "#### 6"], finished=True)), "hash")"""
EXPLORED = """from response_priming import attention
from tests.attention.test_explorer import EXAMPLES, analysis
attention.explore(analysis(*EXAMPLES))"""
DOLLARS = "It costs $5 and he gives $6 back; $$x^2$$ <script>window.ran = 1</script> <think> {{< var x >}}"
SHOWN = f"""import pandas as pd
from response_priming import evaluate, scoring, style
style.apply_style()
pd.set_option("display.max_colwidth", None)
row = {{"problem_id": "test-0", "question": {DOLLARS!r}, "answer": "5", "response": {DOLLARS!r}, "finished": True}}
answers = scoring.grade(pd.DataFrame([row]))
display(style.printed(answers, "samples", {{"question": ({DOLLARS!r}, None), "response": ("response", "{{}}")}}))
display(answers[["question"]])
evaluate.browse(answers, "hash")"""
RUN_ALL = """async () => {
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.sessionContext.ready;
    await window.jupyterapp.commands.execute('notebook:run-all-cells');
    return panel.content.model.toJSON().cells.filter(cell => cell.cell_type === 'code');
}"""


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):  # noqa: ARG001 - without a browser there is nothing to start a server for
    """The address of a JupyterLab on a copy of the start page; the server ends with the tests."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    shutil.copy(paths.NOTEBOOKS / "start.ipynb", root / "notebooks")
    notebook = nbformat.read(paths.NOTEBOOKS / "start.ipynb", as_version=4)
    notebook.cells = [nbformat.v4.new_code_cell(BROWSED)]
    nbformat.write(notebook, root / "notebooks" / "browse.ipynb")
    notebook.cells = [nbformat.v4.new_code_cell(SHOWN), nbformat.v4.new_markdown_cell("Read: $x^2$")]
    nbformat.write(notebook, root / "notebooks" / "dollars.ipynb")
    notebook.cells = [nbformat.v4.new_code_cell(EXPLORED, outputs=[executed(analysis(*EXAMPLES))])]
    nbformat.write(notebook, root / "notebooks" / "explore.ipynb")
    make = ["make", "-n", "lab", f"BIN={Path(sys.executable).parent}"]
    shown = subprocess.run(make, cwd=paths.ROOT, env=tiny.ENVIRONMENT, capture_output=True, text=True, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=", "--expose-app-in-browser"]
    own = {name: str(root / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    settings = os.environ | own | {"PYTHONPATH": os.pathsep.join(map(str, (paths.ROOT / "lib", paths.ROOT)))}
    with (root / "log").open("w") as log:
        command = [*shlex.split(shown.stdout), *options]
        server = subprocess.Popen(command, cwd=root, env=settings, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api/status", server, root / "log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the kernels are its children
        server.wait(timeout=tiny.PATIENCE)


def wait_for(address, server, log):
    limit = time.monotonic() + tiny.PATIENCE
    while time.monotonic() < limit:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(log.read_text())


@pytest.fixture
def open_notebook(new_page, lab):
    """Opens a notebook by its address, with a kernel."""
    with new_page(viewport={"width": 1400, "height": 1000}) as page:

        def visit(address):
            page.goto(f"{lab}{address}")
            page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
            return page

        yield visit


def errors(cells):
    return [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]


def test_lab_opens_the_start_page_whose_cells_run_twice(open_notebook, screenshot):
    page = open_notebook("/")  # what `make lab` opens
    assert "start.ipynb" in page.title()
    first, second = page.evaluate(RUN_ALL), page.evaluate(RUN_ALL)
    screenshot(page, "lab-start")
    assert errors(first) == errors(second) == []
    assert [cell["execution_count"] for cell in second] == list(range(len(first) + 1, 2 * len(first) + 1))
    states = "".join(second[1]["outputs"][0]["data"]["text/html"])
    assert "compare" in states


def test_responses_can_be_leafed_through(open_notebook, screenshot):
    page = open_notebook("/lab/workspaces/other/tree/notebooks/browse.ipynb")
    (cell,) = page.evaluate(RUN_ALL)
    assert errors([cell]) == []
    page.locator(".widget-dropdown select").select_option("wrong (1)")
    page.get_by_text("hash finds 6, right is 5").wait_for()
    screenshot(page, "lab-browse")
    assert page.locator(".widget-html pre").all_inner_texts() == ["How much?", "#### 6"]


def test_foreign_text_is_shown_as_written_and_not_as_mathematics(open_notebook, screenshot):
    page = open_notebook("/lab/workspaces/dollars/tree/notebooks/dollars.ipynb")
    (cell,) = page.evaluate(RUN_ALL)
    assert errors([cell]) == []
    page.locator(".widget-html pre").first.wait_for()
    page.locator(".jp-MarkdownCell mjx-container").wait_for()  # what is mathematics has been typeset
    screenshot(page, "lab-dollars")
    shown = page.locator(".jp-CodeCell .jp-OutputArea")
    assert shown.locator("mjx-container").count() == 0
    assert shown.locator("td, th, pre").get_by_text(DOLLARS, exact=True).count() == 6
    assert page.evaluate("window.ran") is None


def test_the_explorer_runs_once_the_notebook_is_trusted(open_notebook, screenshot):
    page = open_notebook("/lab/workspaces/maps/tree/notebooks/explore.ipynb")
    page.get_by_text("Run this cell to see the explorer.").wait_for()
    assert page.locator("iframe").count() == 0
    (cell,) = page.evaluate(RUN_ALL)
    assert errors([cell]) == []
    page.locator("iframe").wait_for()
    frame = page.frame_locator("iframe")
    frame.get_by_label("Arm", exact=True).select_option(arms.title("none"))
    frame.get_by_label("Compared with", exact=True).select_option(arms.title("teacher"))
    frame.get_by_label("Layer", exact=True).select_option("0")
    frame.get_by_label("Head", exact=True).select_option("0")
    frame.get_by_label("Problem", exact=True).select_option("test-1")
    changes = half(EXAMPLES[1], "none", 0, 0) - half(EXAMPLES[1], "teacher", 0, 0)
    largest = changes[abs(changes).argmax()]
    frame.get_by_text(f"{arms.title('none')}, layer 0, head 0, test-1: ").wait_for()
    said = f"{largest:+.2f}".replace("-", "\N{MINUS SIGN}")
    frame.get_by_text(f"the largest difference is {said}, at").wait_for()
    screenshot(page, "lab-explore")
