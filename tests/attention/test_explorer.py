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
from response_priming.report import cells

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
    return written(tmp_path_factory.mktemp("site"), *EXAMPLES)


def written(folder, *examples):
    target = folder / "explorer.html"
    target.write_text(explorer.html(analysis(*examples)), encoding="utf-8")
    return target


@pytest.fixture
def shown(file, open_page):
    """Opens the page, with something asked for in its address."""

    def visit(state="", **options):
        return ready(open_page(file, state=state, **options))

    return visit


@pytest.fixture
def page(shown):
    return shown()


def ready(opened):
    opened.get_by_text("of the attention goes to").wait_for()
    return opened


PIXELS = """id => {
    const canvas = document.getElementById(id);
    return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
}"""


def painted(page, name):
    """The pixels [tokens, tokens, RGBA] of one of the maps."""
    pixels = np.array(page.evaluate(PIXELS, name))
    size = round((len(pixels) / 4) ** 0.5)
    return pixels.reshape(size, size, 4)


def assert_shown(page, example, arm, against, layer, head):
    """Both maps are those of the head: a weight's root to the last bit, a difference within a step of its scale."""
    seen = np.tril(np.ones(2 * [len(example.tokens)], dtype=bool))
    np.testing.assert_array_equal(painted(page, "weight")[seen, 3], example.maps[arm][layer, head][seen])
    change = (example.weights(arm, layer, head) - example.weights(against, layer, head))[seen]
    red, _, blue, alpha = painted(page, "difference")[seen].T
    signed = np.where(blue > red, -1, 1) * alpha / 255 * abs(change).max()
    np.testing.assert_allclose(signed, change, atol=abs(change).max() / 255)


def control(page, label):
    return page.get_by_label(label, exact=True)


def tokens(page):
    return page.locator("#text [role=option]")


def option(page, token):
    return tokens(page).nth(token)


def shades(page):
    """What colours each token: its shade, from 0 to 1, negative where it is less than in the compared arm."""
    found = tokens(page).evaluate_all(
        "all => all.map(one => (one.className === 'less' ? -1 : 1) * one.style.getPropertyValue('--shade'))"
    )
    return np.array(found)


def half(example, arm, layer, head):
    weights = example.weights(arm, layer, head)
    return weights[np.tril_indices(len(weights))]


def executed(found):
    """What a cell that explores an analysis leaves in its notebook."""
    data = {"text/html": explorer.explore(found).data, "text/plain": "<IPython.core.display.HTML object>"}
    return nbformat.v4.new_output("execute_result", data=data, execution_count=1)


# --- head and token ---


def test_the_first_head_shown_is_the_most_divergent_one(page):
    summary = page.locator("#summary").inner_text()
    assert summary.startswith(f"{arms.title('teacher')}, layer 2, head 1, test-0: ")
    assert_shown(page, EXAMPLES[0], "teacher", "undistilled", 2, 1)


def test_the_first_token_chosen_is_the_one_at_which_the_arms_differ_most(page):
    change = abs(EXAMPLES[0].weights("teacher", 2, 1) - EXAMPLES[0].weights("undistilled", 2, 1))
    (chosen,) = page.locator("[aria-selected=true]").all()
    assert chosen.get_attribute("title").startswith(f"{change.max(axis=1).argmax()}: ")


@pytest.mark.parametrize("arm", ARMS)
def test_every_control_chooses_what_it_says(page, arm):
    control(page, "Arm").select_option(arms.title(arm))
    control(page, "Compared with").select_option(arms.title("none"))
    control(page, "Layer").select_option("0")
    control(page, "Head").select_option("0")
    control(page, "Problem").select_option("test-1")
    assert_shown(page, EXAMPLES[1], arm, "none", 0, 0)
    assert option(page, 1).text_content() == "</script>"


def test_another_head_is_reached_by_keyboard_alone(page):
    head = control(page, "Head")
    for _ in range(10):
        page.keyboard.press("Tab")
        if head.evaluate("element => document.activeElement === element"):
            break
    assert head.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("ArrowUp")
    page.get_by_text("layer 2, head 0").wait_for()
    assert_shown(page, EXAMPLES[0], "teacher", "undistilled", 2, 0)


def test_the_text_is_shown_as_it_is(page):
    assert tokens(page).all_text_contents() == EXAMPLES[0].tokens
    prompt, solution = (page.get_by_role("group", name=name) for name in ("Question", "Answer"))
    assert [group.locator("[role=option]").count() for group in (prompt, solution)] == [2, 3]
    tops = tokens(page).evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert tops[2] == tops[3] < tops[4]  # the last one follows a line break
    marks = page.locator("#text i").evaluate_all("all => all.map(one => getComputedStyle(one, '::before').content)")
    assert marks == ['"↵"']


def test_tokens_that_were_left_out_are_counted(tmp_path, open_page):
    example = replace(made_up(["<s>", "   ", "\t"]), positions=np.array([0, 7, 8]))
    page = ready(open_page(written(tmp_path, example)))
    assert page.locator("#text small").all_inner_texts() == ["… 6 tokens left out …"]
    option(page, 1).click()
    assert page.locator("#strongest").inner_text().startswith("“␣␣␣” (7) attends most to ")


def test_a_click_chooses_a_token_whose_attention_shades_the_others(page):
    option(page, 3).click()
    expected = EXAMPLES[0].maps["teacher"][2, 1, 3] / 255
    np.testing.assert_allclose(shades(page), expected, atol=1e-6)
    drawn = option(page, 0).evaluate("one => getComputedStyle(one).backgroundColor")
    assert float(drawn.rstrip(")").split(",")[-1]) == pytest.approx(expected[0], abs=0.01)
    weights = EXAMPLES[0].weights("teacher", 2, 1)[3]
    said = page.get_by_role("status").last.inner_text()
    assert said.startswith("“↵” (3) attends most to ")
    assert re.findall(r"\((\d)\):\s([\d.]+)\b", said) == [
        (str(key), f"{weights[key]:.3f}") for key in np.argsort(-weights, kind="stable")[:3]
    ]


def test_the_difference_to_the_compared_arm_is_another_reading(page):
    control(page, "Compared with").select_option(arms.title("none"))
    option(page, 4).click()
    page.get_by_role("radio", name="difference").check()
    changes = EXAMPLES[0].weights("teacher", 2, 1) - EXAMPLES[0].weights("none", 2, 1)
    np.testing.assert_allclose(shades(page), changes[4] / abs(changes).max(), atol=1e-6)
    most = abs(changes[4]).argmax()
    said = page.locator("#strongest").inner_text().replace("\N{MINUS SIGN}", "-")
    assert f"compared with {arms.title('none')}, differs most at" in said
    assert re.search(r"\((\d)\):\s([-+][\d.]+)", said).groups() == (str(most), f"{changes[4, most]:+.3f}")


def test_arrow_keys_move_the_choice(page):
    option(page, 0).click()
    looks = "one => [getComputedStyle(one).outlineWidth, getComputedStyle(one).outlineStyle]"
    steps = {"ArrowRight": 1, "ArrowDown": 2, "ArrowLeft": 1, "ArrowUp": 0, "Home": 0, "End": 4}
    for key, expected in steps.items():
        page.keyboard.press(key)
        state = tokens(page).evaluate_all(
            "all => all.map(one => [one.ariaSelected, one.tabIndex, document.activeElement === one])"
        )
        assert state == [["true", 0, True] if token == expected else ["false", -1, False] for token in range(5)]
        assert option(page, expected).evaluate(looks) == ["3px", "solid"]
    np.testing.assert_allclose(shades(page), EXAMPLES[0].maps["teacher"][2, 1, 4] / 255, atol=1e-6)


def test_an_entry_of_a_map_says_its_numbers_and_a_click_chooses_its_row(page):
    canvas = page.locator("#weight")
    cell = canvas.bounding_box()["width"] / 5
    canvas.click(position={"x": 1.5 * cell, "y": 4.5 * cell})
    weight = EXAMPLES[0].weights("teacher", 2, 1)[4, 1]
    assert page.locator("#entry").inner_text().startswith(f"“4” (4) looks at “Tom” (1): {weight:.3f}; in ")
    assert option(page, 4).get_attribute("aria-selected") == "true"
    canvas.hover(position={"x": 4.5 * cell, "y": 1.5 * cell})
    assert page.locator("#entry").inner_text() == "“Tom” (1) comes before “4” (4) and does not see it."


# --- its address ---


def test_the_address_opens_a_head(shown):
    page = shown("#layer=1&head=0&arm=none&against=teacher&text=test-1&token=2&show=difference")
    assert_shown(page, EXAMPLES[1], "none", "teacher", 1, 0)
    assert option(page, 2).get_attribute("aria-selected") == "true"
    assert page.get_by_role("radio", name="difference").is_checked()
    assert not page.locator("#notice").is_visible()


def test_the_address_follows_what_is_chosen_and_opens_it_again(page, shown):
    control(page, "Layer").select_option("0")
    control(page, "Arm").select_option(arms.title("none"))
    option(page, 1).click()
    page.wait_for_url(re.compile("token=1"))
    state = page.evaluate("location.hash")
    assert state == "#arm=none&against=undistilled&layer=0&head=1&text=test-0&show=weight&token=1"
    assert shown(state).locator("main").inner_text() == page.locator("main").inner_text()


@pytest.mark.parametrize(
    ("state", "ignored"),
    [
        ("#layer=99&head=1", "layer 99"),
        ("#layer=1&head=7", "head 7"),
        ("#arm=nobody&token=9", "arm nobody, token 9"),
        ("#text=&toString=1", "toString 1, text "),
        ("#show=<b>x</b>", "show <b>x</b>"),
    ],
)
def test_what_the_address_asks_for_in_vain_is_ignored_and_said(shown, state, ignored):
    page = shown(state)
    notice = page.get_by_role("alert")
    assert notice.inner_text() == f"The address asks for what this page does not have, which is ignored: {ignored}."
    layer = 1 if "layer=1" in state else 2
    assert f"layer {layer}, head 1, test-0" in page.locator("#summary").inner_text()
    control(page, "Head").select_option("0")
    assert not notice.is_visible()


def test_another_address_of_the_open_page_shows_another_head(page, file):
    page.goto(f"{file.as_uri()}#layer=0&head=0")
    page.get_by_text("layer 0, head 0, test-0: ").wait_for()
    assert_shown(page, EXAMPLES[0], "teacher", "undistilled", 0, 0)


# --- its look ---


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_barrier_and_is_not_wider_than_the_window(shown, screenshot, scheme, width):
    page = shown("#token=4&show=difference", width=width, scheme=scheme)
    screenshot(page, f"explorer-{scheme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert all(box.bounding_box()["width"] > 300 for box in page.locator("canvas").all())
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_every_shade(shown, scheme):
    names = ("ground", "text", "soft", "much", "more", "less")
    found = shown(scheme=scheme).evaluate(
        "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`))", names
    )
    bright = {name: luminance(color) for name, color in zip(names, found, strict=True)}
    assert contrast(bright["ground"], bright["text"]) > 7  # of WCAG 2, level AAA
    assert contrast(bright["ground"], bright["soft"]) > 4.5
    assert all(contrast(bright[hue], bright["text"]) > 4.5 for hue in ("much", "more", "less"))
    assert (bright["ground"] > bright["text"]) == (scheme == "light")


def contrast(one, other):
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def luminance(color):
    short = re.fullmatch(r"#(.)(.)(.)", color)
    digits = "".join(2 * digit for digit in short.groups()) if short else color.lstrip("#")
    channels = (
        [int(value) / 255 for value in color.split()] if " " in color else np.array([*bytes.fromhex(digits)]) / 255
    )
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_maps_are_painted_anew_for_the_dark(page):
    before = painted(page, "weight")
    page.emulate_media(color_scheme="dark")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert (painted(page, "weight") != before).any()
    assert_shown(page, EXAMPLES[0], "teacher", "undistilled", 2, 1)


# --- what it lets in ---


def test_what_strangers_wrote_is_text_and_no_other_script_runs(tmp_path, new_page, monkeypatch):
    plant = "<img src=x onerror='window.ran = 1'> </script><script>window.ran = 1</script> $$x$$ {{< var x >}}"
    monkeypatch.setattr(arms, "title", lambda arm: f"{arm} {plant}")
    example = replace(made_up(["<s>", plant, "$5", "$6"]), problem=f"test-0 {plant}")
    file, loaded = written(tmp_path, example), []
    with new_page() as page:
        page.on("request", lambda request: loaded.append(request.url))
        page.goto(f"{file.as_uri()}#token=1&{plant}")
        ready(page)
        assert page.locator("#summary").inner_text().startswith(f"teacher {plant}, layer 2, head 1, test-0 {plant}: ")
        assert option(page, 1).text_content() == plant
        assert f"“{plant}” (1) attends most to " in page.locator("#strongest").inner_text()
        assert f"test-0 {plant}, 4 tokens" in " ".join(page.locator("main").inner_text().split())
        page.evaluate("document.body.appendChild(document.createElement('script')).textContent = 'window.ran = 1'")
        assert page.evaluate("window.ran") is None
        assert [url.partition("#")[0] for url in loaded] == [file.as_uri()]
        with page.expect_event("requestfailed") as blocked:
            page.evaluate("document.body.appendChild(new Image()).src = 'https://example.org/x.png'")
        assert blocked.value.failure == "csp"


def test_the_policy_names_one_script_by_its_digest(file):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', file.read_text())
    assert re.search(r"script-src 'sha256-[\w+/]{43}=';", policy)
    assert "unsafe-eval" not in policy


def test_within_a_notebook_it_runs_in_its_frame_and_leaves_the_address_alone(tmp_path, open_page):
    notebook = tmp_path / "notebook.html"
    notebook.write_text(explorer.explore(analysis(*EXAMPLES)).data, encoding="utf-8")
    page = open_page(notebook)
    frame = page.frame_locator("iframe")
    frame.get_by_label("Layer", exact=True).select_option("0")
    option(frame, 1).click()
    frame.get_by_text("“Tom” (1) attends most to").wait_for()
    page.wait_for_timeout(400)  # an address would have changed by then
    assert page.url == notebook.as_uri()
    assert frame.get_by_role("link").count() == 0


# --- the file ---


def test_the_page_says_what_it_holds(file):
    text = " ".join(re.sub(r"<script.*?</script>|<[^>]+>", " ", file.read_text(), flags=re.DOTALL).split())
    assert "2 texts, the same for every arm" in text
    assert "test-0, 5 tokens, of which the first 2 are the prompt" in text
    assert "; ".join(arms.title(arm) for arm in ARMS) in text
    assert "All 6 heads of 3 layers." in text


def test_heads_that_do_not_fit_are_left_out_and_the_page_says_so(tmp_path, open_page, monkeypatch):
    monkeypatch.setattr(explorer, "BUDGET", 3 * 15 * len(ARMS))  # three heads of five tokens
    file = written(tmp_path, EXAMPLES[0])
    assert "3 of 6 heads" in file.read_text()
    page = ready(open_page(file))
    control(page, "Layer").select_option("1")
    assert control(page, "Layer").locator("option").all_inner_texts() == ["1", "2"]
    assert control(page, "Head").locator("option").all_inner_texts() == ["1"]
    assert_shown(page, EXAMPLES[0], "teacher", "undistilled", 1, 1)


def test_the_page_of_an_executed_notebook_links_it_instead_of_holding_it_again(tmp_path):
    cell = nbformat.v4.new_code_cell("attention.explore(analysis)", outputs=[executed(analysis(*EXAMPLES))])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "executed.ipynb")
    cells.static_copy(tmp_path / "executed.ipynb", tmp_path / "staged.ipynb")
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
    ready(open_page(file)).get_by_text("It is compared with itself.").wait_for()


def analysis_of_one(example):
    heads = pd.DataFrame({"layer": [0], "head": [0]})
    return results.Analysis(pd.DataFrame(), heads, pd.DataFrame(), [example])


def test_no_maps_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(InputError, match=r"^attention: not made yet; `make paper` makes every stage in order$"):
        results.read(tmp_path / "attention")
