"""The rendered manuscript in a real browser: the preview and Quarto's, desktop and phone, light and dark."""

import contextlib
import functools
import http.server
import re
import threading

import pytest
from tests.report.test_page import PROFILE, QUARTO, embeds, rendered

from response_priming.report.page import notebook_titles

WIDTHS = {"desktop": 1280, "phone": 390}
RENDERERS = {"preview": None, "Quarto": QUARTO}


@pytest.fixture(scope="session", params=RENDERERS)
def page(request, tmp_path_factory):
    if request.param == "Quarto" and QUARTO is None:
        pytest.skip("Quarto is not installed")
    return rendered(tmp_path_factory.mktemp("build"), RENDERERS[request.param])


@contextlib.contextmanager
def served(folder):
    """The address of a server that has the folder, and the picture that browsers ask every server for."""
    (folder / "favicon.ico").touch()
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def address(page):
    """Where a browser finds the page: Quarto's has scripts beside it, of which it takes some from a server alone."""
    if not page.with_name("site_libs").exists():
        yield page
    else:
        with served(page.parent) as site:
            yield f"{site}/index.html"


@pytest.fixture(
    scope="module", params=[(name, scheme) for name in WIDTHS for scheme in ("light", "dark")], ids="-".join
)
def opened(request, address, open_page_once, screenshot):
    name, scheme = request.param
    shown = open_page_once(address, width=WIDTHS[name], scheme=scheme)
    screenshot(shown, f"manuscript-{name}-{scheme}")
    shown.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    return shown


def test_nothing_is_wider_than_the_window(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_image_is_there(opened):
    sizes = opened.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert sizes
    assert all(sizes)


def test_contents_and_references_lead_to_what_they_name(opened):
    targets = opened.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
    )
    missing = opened.evaluate("ids => ids.filter(id => !document.getElementById(decodeURIComponent(id)))", targets)
    assert len(targets) > 20
    assert missing == []


def test_a_contents_list_and_every_notebook_can_be_reached(opened):
    shown = [opened.locator(place) for place in ("nav#TOC", "details.contents summary") if opened.is_visible(place)]
    assert len(shown) == 1
    for stem in notebook_titles(PROFILE):
        assert any(link.is_visible() for link in opened.locator(f"a[href='{stem}-preview.html']").all())


def test_each_figure_and_table_shows_the_way_to_its_cell(opened):
    sources = opened.locator(".source a")
    assert sources.count() == len(embeds())
    assert all(link.is_visible() for link in sources.all())


def test_other_formats_and_every_answer_of_the_checklist_can_be_reached(opened):
    for name in ("index.docx", "index.xml"):
        assert any(link.is_visible() for link in opened.locator(f"a[href='{name}']").all())
    answers = opened.locator("li", has_text=re.compile(r"^[\w ]+: (Yes|No|NA)\."))
    assert answers.count() == 16
    assert all(answer.locator("a").count() for answer in answers.all())


LUMINANCE = """element => {
    const part = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(one => one / 255)
        .map(one => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    const light = colour => { const [r, g, b] = part(colour); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    let ground = element;
    while (ground && getComputedStyle(ground).backgroundColor.endsWith(", 0)")) ground = ground.parentElement;
    const under = getComputedStyle(ground || document.documentElement).backgroundColor;
    return [getComputedStyle(element).color, under].map(light);
}"""


def test_printed_text_can_be_told_from_its_ground(opened):
    for block in opened.locator("pre").all():
        low, high = sorted(block.evaluate(LUMINANCE))
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_what_is_wider_than_its_box_has_a_bar(opened):
    boxes = opened.evaluate(
        "[...document.querySelectorAll('.scroll, .cell-output, pre, math')]"
        ".filter(box => box.scrollWidth > box.clientWidth + 1)"
        ".map(box => [getComputedStyle(box).overflowX, getComputedStyle(box, '::-webkit-scrollbar').height])"
    )
    assert all(box == ["auto", "8px"] for box in boxes)


def barriers(opened):
    """All that axe finds, of every impact."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(opened).response["violations"]
    return {rule["id"]: [node["target"] for node in rule["nodes"]][:3] for rule in found}


def test_it_has_no_barrier(opened):
    assert barriers(opened) == {}


def test_opened_as_a_file_or_served_it_has_its_contents_list_and_its_switch_of_colours(page, address, new_page):
    if page == address:
        pytest.skip("the preview has no switch")
    for place in (page.as_uri(), address):
        with new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light") as opened:
            opened.goto(place)
            assert opened.locator("nav#TOC li a").first.is_visible()
            switch, body = opened.get_by_role("button", name="Light or dark"), opened.locator("body")
            assert "quarto-light" in body.get_attribute("class")
            switch.click()
            assert "quarto-dark" in body.get_attribute("class")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_notebooks_page_fits_and_has_no_barrier(page, open_page, width, scheme):
    opened = open_page(page.parent / "compare-preview.html", width=width, scheme=scheme)
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    link = opened.locator("a[href$='.out.ipynb']").first.bounding_box()
    assert 0 <= link["x"] <= link["x"] + link["width"] <= width
    opened.locator("summary", has_text="Parameters: those of this run").scroll_into_view_if_needed()
    code = opened.locator("pre", has_text="seed = 1")
    assert not code.is_visible()
    opened.locator("summary", has_text="Parameters: those of this run").click()
    assert code.is_visible()
    assert barriers(opened) == {}


def test_figures_stand_on_the_ground_of_the_page(opened):
    picture = opened.locator("figure img").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    corner = {"x": box["x"], "y": max(0, box["y"]), "width": 1, "height": 1}
    beside = corner | {"x": 1}
    assert opened.screenshot(clip=corner) == opened.screenshot(clip=beside)


CARD = """link => {
    const card = getComputedStyle(link, '::after'), text = getComputedStyle(link);
    return {visible: card.visibility, content: card.content, width: parseFloat(card.width),
            line: text.textDecorationLine, asText: text.color === getComputedStyle(link.parentElement).color};
}"""
SHOWN = "link => getComputedStyle(link, '::after').visibility === 'visible'"


@pytest.mark.parametrize("kind", ["number", "parameter"])
def test_a_number_shows_what_it_is_of_where_it_is_hovered_or_focused(opened, kind):
    link = opened.locator(f"p a.{kind}").first
    link.scroll_into_view_if_needed()
    shown = link.evaluate(CARD)
    assert (shown["visible"], shown["line"], shown["asText"]) == ("hidden", "underline", True)
    assert link.get_attribute("aria-description") in shown["content"]
    for act in (link.hover, link.focus):
        act()
        opened.wait_for_function(SHOWN, arg=link.element_handle())
        assert link.evaluate(CARD)["width"] <= opened.viewport_size["width"]
        assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        opened.mouse.move(0, 0)
    link.blur()
