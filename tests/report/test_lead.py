"""The lead figure: the same picture without its script, and what a reader's choices make of it."""

import numpy as np
import pandas as pd
import pytest

from response_priming import arms, paths, style
from response_priming.extraction import RULES
from response_priming.report import cells, lead, preview

NAMES = ["undistilled", "none", "teacher"]


def slices(seeds):
    """As `compare.slices` writes them: numbers that tell every choice apart."""
    rows = []
    for place, arm in enumerate(NAMES):
        students = [*range(seeds)] if seeds > 1 and place else []
        for by, rule in enumerate(RULES):
            for length in (np.nan, 1, 2):
                share = 0.1 + 0.2 * place + 0.01 * by + (0 if np.isnan(length) else 0.03 * length)
                for seed in (np.nan, *students):
                    value = share if np.isnan(seed) else share + 0.02 * (seed - 1)
                    ends = {"low": value - 0.1, "high": value + 0.1} if seeds > 1 else {}
                    near = {"low": value - 0.05, "high": value + 0.05}
                    row = {"arm": arm, "title": arms.title(arm), "rule": rule, "calculations": length, "seed": seed}
                    row |= {"n": 200 if np.isnan(length) else 100, "seeds": max(1, len(students)), "accuracy": value}
                    alone = {f"problems_{end}": share for end, share in near.items()}
                    rows.append(row | near | ends | alone)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Writes a page with nothing but the figure, by its policy."""

    def written(seeds, script=True):
        file = tmp_path_factory.mktemp("lead") / "index.html"
        markdown = cells.raw(lead.html(slices(seeds), "hash"))
        folder = paths.REPORT
        preview.pandoc(markdown, "markdown", folder, file, scripts=style.allowed(lead.script()) if script else "'none'")
        return file

    return written


def rows(opened):
    """Of each arm: accuracy and interval as they are written, and where dot, line and rings are, in per cent."""
    return opened.evaluate(
        """() => [...document.querySelectorAll("#lead tbody tr")].map(row => {
            const at = mark => parseFloat(mark.style.left), [line] = row.querySelectorAll(".interval");
            return [row.cells[1].textContent, row.cells[2].textContent, at(row.querySelector(".dot")),
                    at(line), parseFloat(line.style.width), [...row.querySelectorAll(".student")].map(at)];
        })"""
    )


def close(found):
    return [[*row[:2], *(pytest.approx(part, abs=0.11) for part in row[2:])] for row in found]


BY_HASH = [
    ["10.0\u00a0%", "0.0 to 20.0", 10, 0, 20, []],
    ["30.0\u00a0%", "20.0 to 40.0", 30, 20, 20, [28, 30, 32]],
    ["50.0\u00a0%", "40.0 to 60.0", 50, 40, 20, [48, 50, 52]],
]


def test_the_picture_is_there_without_its_script(page, new_page):
    with new_page() as opened:
        opened.goto(page(3, script=False).as_uri())  # which the policy forbids
        assert not opened.locator("#lead form").is_visible()
        assert rows(opened) == close(BY_HASH)
        assert "over problems and students" in opened.locator("#lead caption").inner_text()


def test_a_reader_chooses_rule_length_and_what_intervals_cover(page, open_page):
    opened = open_page(page(3))
    assert rows(opened) == close(BY_HASH)
    opened.get_by_label("last-number", exact=True).check()
    opened.get_by_label("2", exact=True).check()
    by = [*RULES].index("last-number") + 6
    assert [row[2] for row in rows(opened)] == pytest.approx([10 + by, 30 + by, 50 + by], abs=0.11)
    assert "100 test problems that take 2 calculations by the rule last-number" in opened.inner_text("#lead caption")
    opened.get_by_label("problems alone").check()
    assert [row[4] for row in rows(opened)] == pytest.approx([10, 10, 10], abs=0.11)
    assert "over problems alone; rings: single students" in opened.inner_text("#lead caption")


def test_the_keyboard_chooses(page, open_page):
    opened = open_page(page(3))
    opened.get_by_label("hash", exact=True).focus()
    opened.keyboard.press("ArrowDown")
    assert [row[2] for row in rows(opened)] == pytest.approx([11, 31, 51], abs=0.11)


def test_one_student_an_arm_offers_no_other_draw(page, open_page):
    opened = open_page(page(1))
    assert opened.get_by_label("problems alone").count() == 0
    assert [row[5] for row in rows(opened)] == [[], [], []]
    assert "over problems." in opened.inner_text("#lead caption")


def test_the_data_end_no_script_and_begin_no_shortcode():
    table = slices(1).assign(title="</script><b>{{< var seed >}}")
    shown = lead.html(table, "hash")
    assert shown.count("</script>") == 2
    assert "{{<" not in shown
    assert "<b>" not in shown
