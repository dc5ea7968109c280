import contextlib
import os
import shutil
import sys

# Before torch is imported: threads that wait must not spin, and no test may reach the hub.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib as mpl
import pytest
import tiny
import torch

from response_priming import params, paths

torch.set_num_threads(1)

# The files that take longest come first: where processes share the files, none is left with a long one at the end.
LONGEST = ["test_makefile", "test_training", "test_fifth_strategy", "test_teacher", "test_recount", "test_lab"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def own_style():
    """Figures look as they do by default, whatever style an earlier test set."""
    with mpl.rc_context():
        yield


@pytest.fixture(autouse=True, scope="module")
def own_main():
    """A shell within this process makes itself `__main__`, and where it was reset, no process can be spawned by it."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a tiny random model and its tokenizer."""
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def padded_model(tmp_path_factory):
    """The same with outputs that have no token."""
    return tiny.save_model(tmp_path_factory.mktemp("padded"), tiny.padded_llama())


@pytest.fixture
def make_run(tmp_path, monkeypatch, tiny_model):
    """Makes runs of a stage on the tiny model, which write below `tmp_path` as if their values were the profile's."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    models = {"student": str(tiny_model), "teacher": str(tiny_model), "dtype": "float32", "device": "cpu"}

    def make(stage, **changes):
        values = models | changes
        fields = params.RUNS[stage].model_fields
        item = {key: values.pop(key) for key in ("arm", "strategy") if key in values}
        profile = params.load("laptop")
        run = profile.model_copy(update={"arms": values.get("arms", profile.arms)}).run(stage, **item)
        values = {key: value for key, value in values.items() if key in fields or key not in models}
        return params.RUNS[stage].model_validate(run.model_dump() | values)

    return make


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright; tests that need it are skipped where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine; `apt-get install chromium` brings it")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def new_page(browser):
    """An empty page of the browser, for as long as a block lasts."""

    @contextlib.contextmanager
    def opened(**options):
        page = browser.new_page(**options)
        page.set_default_timeout(1000 * tiny.PATIENCE)
        yield page
        page.close()

    return opened


def visits(new_page):
    """Opens files, or what a server of this machine has, in the browser; afterwards its console must be free of errors
    and nothing else been requested, but what the same server has."""
    requested, errors, own = [], [], ["data:", "blob:"]
    with contextlib.ExitStack() as pages:

        def visit(file, *, width=1280, scheme="light", state=""):
            address = file if isinstance(file, str) else file.as_uri()
            own.extend([address.rpartition("/")[0]] if address.startswith("http://127.0.0.1:") else [])
            page = pages.enter_context(new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme))
            page.on("request", lambda request: requested.append(request.url))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.goto(f"{address}{state}")
            requested.remove(address)
            return page

        yield visit
    assert errors == []
    assert [url for url in requested if not url.startswith(tuple(own))] == []


open_page = pytest.fixture(visits)
open_page_once = pytest.fixture(visits, scope="module")  # for tests that only look


@pytest.fixture(scope="session")
def screenshot():
    """Keeps the window that a browser test saw, for a person to look at, in build/test-artefacts/.

    The window alone: the manuscript is 30,000 pixels high, which Chromium may take most of a minute to paint on a CPU.
    """

    def keep(page, name):
        page.screenshot(path=paths.ROOT / "build" / "test-artefacts" / f"{name}.png")

    return keep
