"""A strategy more is an entry in params/prompts.yaml and a name in a profile's `arms`: every table and figure has it.

The list of tables and figures is that of the notebooks' labelled cells, so one that is added later is looked at, too.
"""

import json
import shutil
from html import unescape

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from matplotlib.text import Text

from response_priming import params, paths, style
from response_priming.attention import explorer, results
from response_priming.audit import findings
from response_priming.distill import training
from response_priming.evaluate import answers
from response_priming.generate import teacher
from response_priming.report import page, variables

# Both are shown as they are written, whatever Markdown, HTML and mathematics would make of them.
FIFTH, TITLE = "be-brief", "KD, *Be* <b>Brief</b> | $5 or $6"
ENTRY = {"title": TITLE, "prefix": "Answer in one short sentence.\n| {{< var seed >}} ", "source": "a test"}
OF_ONE_STRATEGY = "follows the strategy that a parameter names"
OF_THE_PUBLICATION = "about the arms that were published"
WITHOUT = {
    "tbl-ladder": OF_ONE_STRATEGY,
    "fig-ladder": OF_ONE_STRATEGY,
    "tbl-rungs": OF_ONE_STRATEGY,
    "tbl-related": OF_ONE_STRATEGY,
    "tbl-related-costs": OF_ONE_STRATEGY,
    "fig-related": OF_ONE_STRATEGY,
    "tbl-related-gains": OF_ONE_STRATEGY,
    "tbl-related-rounds": OF_ONE_STRATEGY,
    "tbl-explained": OF_ONE_STRATEGY,
    "tbl-traced": "about made-up learners",
    "fig-rungs": OF_ONE_STRATEGY,
    "tbl-findings": "names what is not healthy",
    "tbl-trials": OF_ONE_STRATEGY,
    "fig-history": OF_ONE_STRATEGY,
    "fig-surface": OF_ONE_STRATEGY,
    "tbl-published": OF_THE_PUBLICATION,
    "tbl-audit-rules": OF_THE_PUBLICATION,
    "fig-audit": OF_THE_PUBLICATION,
    "tbl-audit-decomposition": OF_THE_PUBLICATION,
    "tbl-audit-tests": OF_THE_PUBLICATION,
    "tbl-discrepancies": OF_THE_PUBLICATION,
    "tbl-claims": "names the best primed arm",
    "tbl-attention-test": "primed students taken together",
    "fig-attention-ranking": "about heads",
    "tbl-leakage": "about problems",
}


def code_cells(stage):
    """The source of a notebook's code cells: label, or None, and text."""
    cells = json.loads((paths.NOTEBOOKS / f"{stage}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [(text.split("#| label: ")[1].split()[0] if "#| label: " in text else None, text) for text in sources]


LABELS = {stage: [label for label, _ in code_cells(stage) if label] for stage in params.RUNS}


@pytest.fixture(scope="module")
def profile(tmp_path_factory, tiny_model):
    """A profile with the fifth strategy, all of whose arms were made on the tiny model."""
    root, model = tmp_path_factory.mktemp("project"), str(tiny_model)
    shutil.copytree(paths.PARAMS, root / "params")
    prompts = root / "params" / "prompts.yaml"
    prompts.write_text(prompts.read_text() + yaml.safe_dump({FIFTH: ENTRY}).replace("\n", "\n    ").join(("  ", "\n")))
    content = {
        "arms": [*params.load("laptop").arms, FIFTH],
        "problems": {"n_train": 4, "n_test": 6},
        "model": {"student": model, "dtype": "float32", "device": "cpu"},
        "generate": {"teacher": model, "worked_examples": 1, "response_tokens": 4},
        "distill": {"train_steps": 1, "train_batch": 2, "micro_batch": 2},
        "evaluate": {"answer_tokens": 4},
        "attention": {"attention_prompts": 2, "heatmaps": 1},
        "attribution": {"attribution_problems": 1, "gradient_steps": 2, "random_orders": 1},
        "doctor": {"doctor_rungs": False},
    }
    (root / "params" / "five.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PARAMS", root / "params")
        patch.setattr(paths, "BUILD", root / "build")
        five = params.load("five")
        for strategy in five.strategies:
            teacher.respond(five.run("generate", strategy=strategy))
        for arm in five.trained:
            training.train(five.run("distill", arm=arm))
        for arm in five.arms:
            answers.answer(five.run("evaluate", arm=arm))
        findings.audit(five.run("audit"))
        yield five


@pytest.fixture(scope="module")
def shown(profile):
    """Label -> the text of what the labelled cell shows, of every notebook that has one without an excuse."""
    found = {}
    with mpl.rc_context():
        for stage, labels in LABELS.items():
            if set(labels) - set(WITHOUT):
                item = {"strategy": FIFTH} if stage == "generate" else {}
                found |= execute(stage, profile.run(stage, **item))
    return found


def execute(stage, run):
    """Run a notebook with these parameters in this process; the text of what its labelled cells show, by label."""
    shell, found = InteractiveShell.instance(), {}
    shell.reset(new_session=False)
    for label, source in code_cells(stage):
        done = shell.run_cell(source)
        done.raise_error()
        if source.startswith("# The defaults of profile"):
            shell.push(run.model_dump())
        elif label:
            drawn = [done.result] if isinstance(done.result, Figure) else [*map(plt.figure, plt.get_fignums())]
            texts = [text for figure in drawn for text in figure.findobj(Text) if text.get_text()]
            assert all(figure.get_figwidth() == style.WIDTH for figure in drawn)
            assert all(text.get_fontsize() >= style.TEXT for text in texts), "a phone could not show it legibly"
            table = unescape(done.result.to_html()) if hasattr(done.result, "to_html") else ""
            found[label] = [table, *(text.get_text() for text in texts)]
        plt.close("all")
    return found


@pytest.mark.parametrize("label", [label for labels in LABELS.values() for label in labels if label not in WITHOUT])
def test_the_table_or_figure_has_the_fifth_strategy(shown, label):
    assert TITLE in " ".join("\n".join(shown[label]).split())


def test_no_excuse_outlives_its_cell():
    assert set(WITHOUT) <= {label for labels in LABELS.values() for label in labels}


def test_the_page_has_the_fifth_strategy(profile, shown):
    assert shown  # the attention was analysed
    assert TITLE in unescape(variables.strategies_table(profile))
    assert TITLE in unescape(explorer.html(results.read(profile.run("attention-visualize").build / "attention")))
    pages = page.notebook_titles(profile)
    assert {name for name in pages if name.endswith(FIFTH)} == {
        f"{s}-{FIFTH}" for s in ("generate", "distill", "evaluate")
    }
