import matplotlib as mpl
import pytest

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
