"""What the figures show: every arm, its colour and name; heads, tokens and differences."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from tests.attention.test_differences import ARMS, some_metrics
from tests.attention.test_metrics import causal_maps

from response_priming import arms, params, style
from response_priming.attention import figures as drawn
from response_priming.attention.results import EVERY, PAPER, Analysis, Example
from response_priming.errors import InputError

DIVERGENT = pd.DataFrame(
    {"layer": [2, 1, 0], "head": [0, 3, 1], "variance": [3.0, 2.0, 1.0]}
    | {"prompt": [1.0, 2.0, 3.0], "solution": [4.0, 2.0, np.nan], "seeds": [np.nan] * 3}
)


def example(tokens=9):
    maps = {arm: causal_maps(number, tokens=tokens) for number, arm in enumerate(ARMS)}
    quantised = {arm: np.round(255 * np.sqrt(one)).astype(np.uint8) for arm, one in maps.items()}
    return Example("test-0", ["$a$\n"] * tokens, np.arange(tokens), tokens - 3, quantised)


def named(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def analysis():
    return Analysis(some_metrics(), DIVERGENT, pd.DataFrame(), [example()])


@pytest.mark.parametrize(("prompts", "bands"), [(1, False), (3, True)])
def test_each_panel_has_every_arms_line_and_a_band_where_prompts_vary(prompts, bands):
    metrics = some_metrics(prompts=prompts)
    figure = drawn.layers_figure(metrics, ARMS)
    assert len(figure.axes) == 2 * len(PAPER)
    entropy = metrics.query("region == 'prompt'").groupby(["arm", "layer"])["entropy"].mean()
    for arm, line in zip(ARMS, figure.axes[0].lines, strict=True):
        assert mpl.colors.to_rgb(line.get_color()) == pytest.approx(style.color(arm))
        assert line.get_ydata() == pytest.approx(entropy[arm].to_numpy())
    drawn_bands = [
        np.isfinite(band.get_paths()[0].vertices).all() for band in figure.axes[0].collections if band.get_paths()
    ]
    assert any(drawn_bands) == bands


def test_lines_are_named_above_the_panels():
    assert named(drawn.layers_figure(some_metrics(), ARMS)) == list(map(arms.title, ARMS))


def test_other_numbers_can_be_drawn_and_arms_that_lack_are_left_out():
    figure = drawn.layers_figure(some_metrics(["none"]), ARMS, ["sink"])
    assert figure.axes[0].get_title().replace("\n", " ") == EVERY["sink"]
    assert named(figure) == [arms.title("none")]
    assert len(figure.axes[0].lines) == 1


def test_of_a_single_layer_what_compares_layers_stays_empty():
    metrics = some_metrics(["none"]).query("layer == 0").assign(similarity=np.nan)
    figure = drawn.layers_figure(metrics, ARMS, ["sink", "similarity"])
    figure.draw_without_rendering()
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 0, 0]


@pytest.mark.parametrize(("chosen", "heads"), [([], [(2, 0), (1, 3)]), ([[0, 1]], [(0, 1)])])
def test_heads_are_the_chosen_ones_else_the_most_divergent(chosen, heads):
    run = params.AttentionRun(chosen_heads=chosen, heatmaps=2)
    assert drawn.shown_heads(run.chosen_heads, run.heatmaps, analysis()) == heads


@pytest.mark.parametrize(
    ("pair", "named"), [([3, 0], "layer 3 is not there; allowed: 0 to 2"), ([0, 4], "head 4 .* 0 to 3")]
)
def test_a_head_that_is_not_there_is_refused(pair, named):
    with pytest.raises(InputError, match=named):
        drawn.shown_heads([pair], 2, analysis())


@pytest.mark.parametrize(
    ("arms", "pair"),
    [
        (ARMS, ("none", "teacher")),
        (["undistilled", "teacher"], ("undistilled", "teacher")),
        (["none"], ("none", "none")),
    ],
)
def test_a_student_is_held_against_the_unprimed_one(arms, pair):
    assert drawn.shown_pair(arms) == pair


def test_heatmaps_are_two_students_and_their_difference():
    one = example()
    figure = drawn.heatmaps_figure(one, [(2, 0), (1, 3)], ("none", "teacher"), 24)
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape == (9, 9)]
    images = [axes.images[0].get_array() for axes in panels]
    assert len(images) == 6
    future = np.triu(np.ones((9, 9), dtype=bool), 1)
    for image in images:
        assert np.ma.masked_invalid(image).mask[future].all()
    difference = one.weights("teacher", 2, 0) - one.weights("none", 2, 0)
    assert np.allclose(images[2][~future], difference[~future])
    assert [label.get_text() for label in panels[2].get_yticklabels()] == ["$a$\\n"] * 9


def test_a_long_text_is_shown_by_its_first_token_and_its_end():
    long = example(40)
    figure = drawn.heatmaps_figure(long, [(0, 0)], ("none", "teacher"), 10)
    shown = np.ma.masked_invalid(figure.axes[0].images[0].get_array())
    weights = long.weights("none", 0, 0)
    assert shown.shape == (10, 10)
    assert shown[-1, 0] == weights[-1, 0]
    assert np.allclose(shown[-1, 1:], weights[-1, -9:])


@pytest.mark.parametrize("seeds", [np.nan, 0.5])
def test_the_ranking_names_heads_from_the_most_divergent(seeds):
    figure = drawn.ranking_figure(DIVERGENT.assign(seeds=seeds), heads=2)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layer 2, head 0", "layer 1, head 3"]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 2.0]
    assert ("Between seeds" in named(figure)) == (seeds == 0.5)


def test_every_student_is_a_point_of_its_accuracy():
    rows = [
        {"arm": arm, "seed": seed, "accuracy": 0.1 * (seed + 1), "layer": layer} | dict.fromkeys(EVERY, change)
        for arm in ARMS[1:]
        for seed in (0, 1)
        for layer, change in enumerate((-2.0, 4.0))
    ]
    figure = drawn.accuracy_figure(pd.DataFrame(rows))
    points = [line.get_xydata() for line in figure.axes[0].lines]
    assert [tuple(point) for one in points for point in one] == [(3.0, 10.0), (3.0, 20.0)] * 3
    assert named(figure) == list(map(arms.title, ARMS[1:]))
