"""The explorer's page: what it holds, and how it behaves in a real browser."""

import re
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest

from response_priming import arms, paths
from response_priming.attention import explorer, results
from response_priming.errors import InputError
from response_priming.report import preview

ARMS = ["undistilled", "none", "teacher"]
LAYERS, HEADS = 3, 2


def made_up(tokens, *, seed=0, layers=LAYERS):
    """An example as the stage keeps it, with random maps."""
    random = np.random.default_rng(seed)
    maps = {}
    for arm in ARMS:
        weights = np.tril(random.exponential(size=(layers, HEADS, len(tokens), len(tokens))) ** 3)
        weights /= weights.sum(axis=-1, keepdims=True)
        maps[arm] = np.round(255 * np.sqrt(weights)).astype(np.uint8)
    return results.Example(f"test-{seed}", tokens, np.arange(len(tokens)), 2, maps)


def analysis(*examples):
    """An analysis in which the last head of the last layer is the most divergent one."""
    layers = len(examples[0].maps[ARMS[0]])
    heads = [(layer, head) for layer in reversed(range(layers)) for head in reversed(range(HEADS))]
    empty = pd.DataFrame()
    return results.Analysis(empty, pd.DataFrame(heads, columns=["layer", "head"]), empty, list(examples))


EXAMPLES = [made_up(["<s>", "Tom", " has", "\n", "4"], seed=0), made_up(["<s>", "</script>", "&", " 'x'"], seed=1)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    target = tmp_path_factory.mktemp("site") / "explorer.html"
    target.write_text(explorer.html(analysis(*EXAMPLES)), encoding="utf-8")
    return target


@pytest.fixture
def page(file, open_page):
    opened = open_page(file)
    opened.wait_for_function("document.getElementById('summary').textContent")
    return opened


def columns(page):
    """What both plots draw now: column -> values."""
    source = "Object.values(Bokeh.index)[0].model.document.all_models"
    found = f"[...({source})].find(model => model.type === 'ColumnDataSource' && 'shade' in model.data)"
    return page.evaluate(f"(() => Object.fromEntries(Object.entries({found}.data).map(([k, v]) => [k, [...v]])))()")


def control(page, label):
    return page.get_by_label(label, exact=True)


def half(example, arm, layer, head):
    weights = example.weights(arm, layer, head)
    return weights[np.tril_indices(len(weights))]


def executed(found):
    """What a cell that explores an analysis leaves in its notebook."""
    data = {"text/html": explorer.explore(found).data, "text/plain": "<IPython.core.display.HTML object>"}
    return nbformat.v4.new_output("execute_result", data=data, execution_count=1)


# --- in the browser ---


def test_the_first_head_shown_is_the_most_divergent_one(page):
    summary = page.locator("#summary").inner_text()
    assert summary.startswith(f"{arms.title('teacher')}, layer 2, head 1, test-0: ")


def test_the_plots_hold_the_weights_of_the_arm_and_their_difference(page):
    drawn = columns(page)
    arm, reference = (half(EXAMPLES[0], name, 2, 1) for name in ("teacher", "undistilled"))
    np.testing.assert_allclose(drawn["weight"], arm, atol=1e-6)
    np.testing.assert_allclose(drawn["difference"], arm - reference, atol=1e-6)
    assert drawn["attends"][:3] == ["0 <s>", "1 Tom", "1 Tom"]
    assert drawn["attended"][:3] == ["0 <s>", "0 <s>", "1 Tom"]


@pytest.mark.parametrize("arm", ARMS)
def test_every_control_chooses_what_it_says(page, arm):
    control(page, "Arm").select_option(arms.title(arm))
    control(page, "Compared with").select_option(arms.title("none"))
    control(page, "Layer").select_option("0")
    control(page, "Head").select_option("0")
    control(page, "Problem").select_option("test-1")
    drawn = columns(page)
    np.testing.assert_allclose(drawn["weight"], half(EXAMPLES[1], arm, 0, 0), atol=1e-6)
    expected = half(EXAMPLES[1], arm, 0, 0) - half(EXAMPLES[1], "none", 0, 0)
    np.testing.assert_allclose(drawn["difference"], expected, atol=1e-6)
    assert drawn["attends"][1] == "1 </script>"


def test_another_head_is_reached_by_keyboard_alone(page):
    before, image = page.locator("#summary").inner_text(), page.locator("[role=img]").first.screenshot()
    head = control(page, "Head")
    for _ in range(10):
        page.keyboard.press("Tab")
        if head.evaluate("element => element.getRootNode().activeElement === element"):
            break
    assert head.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("ArrowUp")
    page.wait_for_function("before => document.getElementById('summary').textContent !== before", arg=before)
    page.wait_for_timeout(200)  # the canvas is painted after the text
    assert "layer 2, head 0" in page.locator("#summary").inner_text()
    assert page.locator("[role=img]").first.screenshot() != image


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page, scheme, screenshot):
    page.emulate_media(color_scheme=scheme)
    screenshot(page, f"explorer-{scheme}")
    ground, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('li')).color]"
    )
    bright = [luminance(color) for color in (ground, text)]
    assert (max(bright) + 0.05) / (min(bright) + 0.05) > 7  # contrast ratio of WCAG 2, level AAA
    assert (bright[0] > bright[1]) == (scheme == "light")


def luminance(color):
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_what_strangers_wrote_is_text_and_no_other_script_runs(tmp_path, new_page, monkeypatch):
    plant = "<img src=x onerror='window.ran = 1'> </script><script>window.ran = 1</script> $$x$$ {{< var x >}}"
    monkeypatch.setattr(arms, "title", lambda arm: f"{arm} {plant}")
    example = replace(made_up(["<s>", plant, "$5", "$6"]), problem=f"test-0 {plant}")
    file, loaded = tmp_path / "explorer.html", []
    file.write_text(explorer.html(analysis(example)), encoding="utf-8")
    with new_page() as page:
        page.on("request", lambda request: loaded.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_function("document.getElementById('summary').textContent.includes('$$x$$')")
        assert page.locator("#summary").inner_text().startswith(f"teacher {plant}, layer 2, head 1, test-0 {plant}: ")
        assert f"test-0 {plant}, 4 tokens" in " ".join(page.locator("main").inner_text().split())
        page.evaluate("document.body.appendChild(document.createElement('script')).textContent = 'window.ran = 1'")
        assert page.evaluate("window.ran") is None
        assert [url for url in loaded if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
        with page.expect_event("requestfailed") as blocked:
            page.evaluate("document.body.appendChild(new Image()).src = 'https://example.org/x.png'")
        assert blocked.value.failure == "csp"


# --- the file ---


def test_the_page_says_what_it_holds(file):
    text = " ".join(re.sub(r"<script.*?</script>|<[^>]+>", " ", file.read_text(), flags=re.DOTALL).split())
    assert "2 texts, the same for every arm" in text
    assert "test-0, 5 tokens, of which the first 2 are the prompt" in text
    assert "; ".join(arms.title(arm) for arm in ARMS) in text
    assert "All 6 heads of 3 layers." in text


def test_heads_that_do_not_fit_are_left_out_and_the_page_says_so(tmp_path, open_page, monkeypatch):
    monkeypatch.setattr(explorer, "BUDGET", 3 * 15 * len(ARMS))  # three heads of five tokens
    file = tmp_path / "explorer.html"
    file.write_text(explorer.html(analysis(EXAMPLES[0])), encoding="utf-8")
    assert "3 of 6 heads" in file.read_text()
    page = open_page(file)
    control(page, "Layer").select_option("1")
    assert control(page, "Layer").locator("option").all_inner_texts() == ["1", "2"]
    assert control(page, "Head").locator("option").all_inner_texts() == ["1"]
    np.testing.assert_allclose(columns(page)["weight"], half(EXAMPLES[0], "teacher", 1, 1), atol=1e-6)


def test_the_page_of_an_executed_notebook_links_it_instead_of_holding_it_again(tmp_path):
    cell = nbformat.v4.new_code_cell("attention.explore(analysis)", outputs=[executed(analysis(*EXAMPLES))])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "executed.ipynb")
    preview.static_copy(tmp_path / "executed.ipynb", tmp_path / "staged.ipynb")
    (output,) = nbformat.read(tmp_path / "staged.ipynb", as_version=4).cells[0].outputs
    link = '<p><a href="explorer.html">Explore the maps of every head</a></p>'
    assert output.data["text/markdown"] == "```{=html}\n" + link + "\n```"


def test_heads_that_are_asked_for_are_there_beside_those_that_fit(monkeypatch):
    monkeypatch.setattr(explorer, "BUDGET", 15 * len(ARMS))  # one head of five tokens
    found = explorer.explore(analysis(EXAMPLES[0]), [[0, 1], [2, 1]]).data
    assert "2 of 6 heads, those" in found
    assert "and those that were asked for" in " ".join(found.split())


def test_one_arm_is_compared_with_itself(tmp_path, open_page):
    maps = {"none": EXAMPLES[0].maps["none"][..., :2, :2]}
    alone = results.Example("test-0", ["a", "b"], np.arange(2), 2, maps)
    file = tmp_path / "explorer.html"
    file.write_text(explorer.html(analysis_of_one(alone)), encoding="utf-8")
    page = open_page(file)
    page.wait_for_function("document.getElementById('summary').textContent.includes('compared with itself')")


def analysis_of_one(example):
    heads = pd.DataFrame({"layer": [0], "head": [0]})
    return results.Analysis(pd.DataFrame(), heads, pd.DataFrame(), [example])


def test_no_maps_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(InputError, match=r"^attention: not made yet; `make paper` makes every stage in order$"):
        results.read(tmp_path / "attention")
