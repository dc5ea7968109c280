from itertools import pairwise

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from response_priming import figures, params

ARMS = [params.UNDISTILLED, params.FINE_TUNED, *params.strategies(), params.SHUFFLED, "published-teacher"]


@pytest.mark.parametrize("look", [figures.color, figures.marker])
def test_every_arm_looks_different(look):
    assert len({look(arm, ARMS) for arm in ARMS}) == len(ARMS)


def test_more_arms_than_colours_still_have_one():
    arms = [str(number) for number in range(40)]
    assert figures.color("39", arms) in {figures.color(arm, arms) for arm in arms[:39]}
    assert figures.marker("39", arms) in {figures.marker(arm, arms) for arm in arms[:39]}


def test_every_arm_has_a_title_of_its_own():
    assert figures.title("undistilled") == "Undistilled"
    assert figures.title("teacher") == "KD, Teacher"
    assert figures.title("published-teacher") == "KD, Teacher, as released"
    assert len({figures.title(arm) for arm in ARMS}) == len(ARMS)


def test_the_style_makes_figures_reproducible_and_their_text_selectable():
    figures.apply_style()
    assert mpl.rcParams["svg.hashsalt"]
    assert mpl.rcParams["svg.fonttype"] == "none"


def test_places_keep_their_order_and_distance_and_stay_above_the_axis():
    assert figures.apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert figures.apart([0.1, 0.9], 0.1) == [0.1, 0.9]
    assert figures.apart([0.0, 0.0, 0.0], 0.1) == pytest.approx([0.0, 0.1, 0.2])


def test_names_beside_equal_points_do_not_overlap_and_have_their_arms_colours():
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figures.name_points(axes, dict.fromkeys(ARMS[:4], (0.5, 0.5)), ARMS, gap=0.1)
    figure.canvas.draw()
    places = sorted(name.get_position()[1] for name in axes.texts)
    height = max(Text.get_window_extent(name).height for name in axes.texts)
    assert all(high - low >= height / axes.bbox.height for low, high in pairwise(places))
    assert {name.get_text(): name.get_color() for name in axes.texts} == {
        figures.title(arm): figures.color(arm, ARMS) for arm in ARMS[:4]
    }


def test_a_printed_table_aligns_numbers_right_and_words_left():
    columns = {"arm": ("student", None), "share": ("accuracy", "{:.0%}")}
    page = figures.printed(pd.DataFrame({"share": [0.5], "arm": ["<none>"], "other": [1]}), "x", columns).to_html()
    assert "50%" in page
    assert "&lt;none&gt;" in page
    assert "other" not in page
    left, right = page.index(".col0 {\n  text-align: left"), page.index(".col1 {\n  text-align: right")
    assert left < right
