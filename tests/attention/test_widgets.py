"""The widgets, without a browser: what they show follows their controls."""

import ipywidgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from tests.attention.test_explorer import ARMS, HEADS, LAYERS, analysis, made_up

from response_priming.attention import results, widgets
from response_priming.errors import InputError

mpl.use("Agg")

ANALYSIS = analysis(made_up(["<s>", "$x", " has"], seed=0), made_up(["<s>", "b"], seed=1))
CHOSEN = {"arm": "teacher", "against": "none", "layer": 1, "head": 0, "problem": "test-0"}


def controls(widget, kind):
    found = [widget] if isinstance(widget, kind) else []
    return found + [one for child in getattr(widget, "children", ()) for one in controls(child, kind)]


def test_the_figure_holds_the_map_and_the_difference():
    left, right = (axis.images[0].get_array() for axis in widgets.maps_figure(ANALYSIS, **CHOSEN).axes[:2])
    example, lower = ANALYSIS.examples[0], np.tril_indices(3)
    weights = example.weights("teacher", 1, 0)
    np.testing.assert_allclose(left[lower], weights[lower])
    np.testing.assert_allclose(right[lower], (weights - example.weights("none", 1, 0))[lower])
    assert np.isnan(np.ma.filled(left, np.nan)[0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": LAYERS}, "^layer = 3: must be 0 to 2$"),
        ({"head": -1}, "^head = -1: must be 0 to 1$"),
        ({"arm": "nobody"}, "^arm = 'nobody': allowed: undistilled, none, teacher$"),
        ({"against": "nobody"}, "^against = 'nobody': allowed: "),
        ({"problem": "test-9"}, "^problem = 'test-9': allowed: test-0, test-1$"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(change, message):
    with pytest.raises(InputError, match=message):
        widgets.maps_figure(ANALYSIS, **CHOSEN | change)


def test_no_maps_is_one_line():
    nothing = results.Analysis(pd.DataFrame(), ANALYSIS.divergent, pd.DataFrame(), [])
    with pytest.raises(InputError, match=r"^attention: no maps are kept"):
        widgets.explore(nothing)


def test_the_explorers_controls_cover_every_map_and_start_at_the_most_divergent_head():
    widget = widgets.explore(ANALYSIS)
    layer, head = controls(widget, ipywidgets.IntSlider)
    assert (layer.max, head.max) == (LAYERS - 1, HEADS - 1)
    assert (layer.value, head.value) == tuple(ANALYSIS.divergent.iloc[0][["layer", "head"]])
    arm, _, problem = controls(widget, ipywidgets.Dropdown)
    assert [value for _, value in arm.options] == ARMS
    (picture,) = controls(widget, ipywidgets.Image)
    before = picture.value
    head.value, problem.value = 0, "test-1"
    assert picture.value != before


def test_the_explorer_has_no_output_area_which_hangs_where_there_is_no_browser():
    assert controls(widgets.explore(ANALYSIS), ipywidgets.Output) == []
