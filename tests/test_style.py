import re
from html import escape, unescape
from io import StringIO
from itertools import combinations

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis.strategies import text
from matplotlib.figure import Figure

from response_priming import arms, params, paths, style

ARMS = arms.known()
# Colour blindness in linear RGB (Machado, Oliveira and Fernandes 2009, doi 10.1109/TVCG.2009.113, severity 1.0).
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(axis=1)


def test_every_arm_that_a_profile_may_name_looks_different():
    assert len({(style.color(arm), style.marker(arm)) for arm in ARMS}) == len(ARMS)


def test_the_papers_arms_and_two_more_strategies_differ_in_colour_and_in_marker():
    paper, looks = params.load("laptop").arms, (style.color, style.marker)
    assert all(len({look(arm) for arm in ARMS[: len(paper) + 2]}) == len(paper) + 2 for look in looks)


def test_forty_strategies_still_look_different(monkeypatch):
    many = {f"strategy-{number}": arms.Strategy(title="", prefix="", source="") for number in range(40)}
    monkeypatch.setattr(arms, "strategies", lambda: many)
    assert len({(style.color(arm), style.marker(arm)) for arm in arms.known()}) == len(arms.known())


def seen(color, sight):
    """CIELAB of a colour as somebody with this sight sees it."""
    linear = np.array([part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color])
    ratio = TO_XYZ @ np.clip(np.array(SIGHT[sight]) @ linear, 0, 1) / WHITE
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_the_colour_blind(sight):
    colors = {style.color(arm) for arm in ARMS}
    assert len(colors) > 8
    apart = [np.linalg.norm(seen(one, sight) - seen(other, sight)) for one, other in combinations(colors, 2)]
    assert min(apart) > 10  # CIELAB units; 2.3 is a just noticeable difference


def test_the_style_makes_figures_reproducible_and_their_text_selectable():
    style.apply_style()
    assert mpl.rcParams["svg.hashsalt"]
    assert mpl.rcParams["svg.fonttype"] == "none"


def svg_of(figure):
    drawn = StringIO()
    figure.savefig(drawn, format="svg", bbox_inches=None)
    return drawn.getvalue()


def test_text_is_nine_points_high_where_a_phone_shows_a_figure_340_pixels_wide():
    style.apply_style()
    figure, (upper, lower) = style.panels(3, 2)
    table = pd.DataFrame({"x": [0.5], "low": [0.4], "high": [0.6], "title": ["a student with a rather long title"]})
    style.dots(upper, table, [{}], value="x")
    lower.set(title="title", xlabel="label")
    figure.supxlabel("below")
    figure.supylabel("left")
    figure.suptitle("above")
    style.arms_legend(figure, ARMS)
    drawn = svg_of(figure)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', drawn)[1])
    sizes = {float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )?([\d.]+)px", drawn)}
    assert sizes
    assert min(sizes) * 340 / width >= 12


@pytest.mark.parametrize("file", [*paths.NOTEBOOKS.glob("*.ipynb"), *paths.ROOT.glob("lib/**/figures.py")], ids=str)
def test_no_figure_has_a_size_of_its_own(file):
    assert not re.findall(r"fontsize|labelsize|figsize|set_size_inches|text\.size", file.read_text())


def test_a_legend_stands_above_the_panels_which_keep_their_height():
    style.apply_style()
    (figure, axes), (plain, alone) = style.panels(3), style.panels(3)
    style.arms_legend(figure, ARMS)
    figure.draw_without_rendering()
    plain.draw_without_rendering()
    inches = (axes.get_window_extent().height / figure.dpi, alone.get_window_extent().height / plain.dpi)
    assert inches[0] == pytest.approx(inches[1], abs=0.15)
    legend = figure.legends[0].get_window_extent()
    assert axes.get_window_extent().y1 <= legend.y0
    assert legend.x1 <= figure.bbox.x1
    assert [name.get_text().replace("\n", " ") for name in figure.legends[0].get_texts()] == list(map(arms.title, ARMS))


def test_a_printed_table_aligns_numbers_right_and_words_left():
    columns = {"arm": ("student", None), "share": ("accuracy", "{:.0%}")}
    page = style.printed(pd.DataFrame({"share": [0.5], "arm": ["<none>"], "other": [1]}), "x", columns).to_html()
    assert "50\u00a0%" in page
    assert "&lt;none&gt;" in page
    assert "other" not in page
    left, right = page.index(".col0 {\n  text-align: left"), page.index(".col1 {\n  text-align: right")
    assert left < right


def test_a_table_has_the_headings_of_the_report_and_what_it_lacks_is_left_out():
    found = pd.DataFrame({"title": ["A", "B"], "low": [0.1, np.nan], "high": [0.25, 0.5], "p": [0.0001, np.nan]})
    lines = style.printed(found, "calibration").to_string(delimiter="|").splitlines()
    assert lines == ["student|p", "A|< 0.001", "B|"]
    lines = style.printed(found, "gains").to_string(delimiter="|").splitlines()
    assert lines == ["student|95 % interval, corrected|p, corrected", "A|0.1 to 0.2|< 0.001", "B||"]


FOREIGN = "<script>1</script> costs $5 and $6, {{< var x >}}\n`|` *b*"


@pytest.mark.parametrize("columns", [None, {"a": (FOREIGN, None)}, {"a": (FOREIGN, "{}")}])
@pytest.mark.parametrize("value", [FOREIGN, [FOREIGN], {FOREIGN: 1}])
def test_a_printed_table_shows_foreign_text_as_text_and_no_mathematics(columns, value):
    table = pd.DataFrame({"a": pd.Series([str(value) if columns and columns["a"][1] else value])})
    page = style.printed(table, "x", columns).to_html()
    assert "<script" not in page
    assert FOREIGN.split("\n")[0] in unescape(page)
    assert re.search('<table id="T_x" class="[^"]*tex2jax_ignore mathjax_ignore', page)


def test_data_frames_shown_as_they_are_hold_no_mathematics_either():
    with pd.option_context("display.html.use_mathjax", True):
        style.apply_style()
        assert "mathjax_ignore" in pd.DataFrame({"a": ["$5 or $6"]})._repr_html_()


@pytest.mark.parametrize("title", ["between $5 and $6", "one $ alone", r"$\frac{1}$", "$$", r"\$5 $x^2$"])
def test_dollars_in_a_title_are_dollars_in_a_figure(title, monkeypatch):
    style.apply_style()
    monkeypatch.setattr(arms, "title", lambda _: title)
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], label=title)
    axes.legend()
    style.dots(axes, pd.DataFrame({"x": [0.5], "low": [0.4], "high": [0.6], "title": [title]}), [{}], value="x")
    axes.set(title=title, xlabel=title)
    style.arms_legend(figure, ["none"])
    assert len(re.findall(f">{re.escape(escape(title, quote=False))}<", svg_of(figure))) == 5


@given(text())
def test_verbatim_text_is_the_text_that_it_was_made_from(written):
    shown = style.verbatim(written)
    assert not set(re.sub(r"&#\d+;", "", shown)) & set("<>&`*_{}[]()#+-.!|$@~^:'\"\\=\n\r")
    assert "".join(chr(int(one[2:-1])) if len(one) > 1 else one for one in re.findall(r"&#\d+;|.", shown)) == written


def test_a_range_of_equal_numbers_is_one_number():
    assert style.span([9, 2, 5]) == "2 to 9"
    assert style.span([97.81, 97.79], ".1f") == "97.8"


def test_words_are_filled_with_numbers_in_the_formats_of_the_style():
    template = (
        "{{ arm | title }}: {{ share | percent }} ({{ low | interval(9) }}), p {{ p | p_value }}, {{ n | number(',') }}"
    )
    values = {"arm": "none", "share": 0.185, "low": 1.25, "p": 0.0001, "n": 1319}
    assert style.filled(template, values) == "KD, no prompt: 18.5 % (1.2 to 9.0), p < 0.001, 1,319"
    with pytest.raises(jinja2.UndefinedError, match="'arm' is undefined"):
        style.filled(template, {})
