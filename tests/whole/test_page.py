"""The rendered manuscript in a real browser: desktop and phone, light and dark."""

import pytest
from tests.report.test_page import page  # noqa: F401

WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(
    scope="module", params=[(name, scheme) for name in WIDTHS for scheme in ("light", "dark")], ids="-".join
)
def opened(request, page, open_page_once, screenshot):  # noqa: F811
    name, scheme = request.param
    shown = open_page_once(page, width=WIDTHS[name], scheme=scheme)
    screenshot(shown, f"manuscript-{name}-{scheme}")
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


def test_it_has_no_serious_barrier(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(opened).response["violations"]
    barriers = {
        rule["id"]: [node["target"] for node in rule["nodes"]][:3]
        for rule in found
        if rule["impact"] in ("serious", "critical")
    }
    assert barriers == {}
