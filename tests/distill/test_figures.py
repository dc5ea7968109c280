import numpy as np
import pandas as pd

from response_priming.distill import figures


def test_the_figure_has_a_line_for_before_and_after_as_means_over_seeds():
    table = pd.DataFrame({"position": [0, 1, 0, 1], "before": [1.0, 2.0, 3.0, 4.0], "after": [0.0, 1.0, 1.0, 1.0]})
    (axes,) = figures.divergence_figure(table).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert lines.keys() == {"before", "after"}
    assert np.allclose(lines["before"], [2, 3])
    assert np.allclose(lines["after"], [0.5, 1])


CURVE = pd.DataFrame({"step": [1, 2], "hard": [2.0, 1.0], "soft": [1.0, 0.5]}).assign(
    grad_norm=1.0, tokens_per_second=[100.0, 200.0], peak_mib=300.0
)
VALIDATED = pd.DataFrame({"step": [0, 2], "gold_hard": [3.0, 2.0], "response_hard": [2.0, 1.0], "response_soft": 1.0})


def labels(axes):
    return [line.get_label() for line in axes.lines]


def test_losses_of_training_and_held_out_problems_share_an_axis():
    training, held_out = figures.losses_figure(CURVE, VALIDATED).axes
    assert (labels(training), labels(held_out)) == (list(figures.TRAINED.values()), list(figures.HELD_OUT.values()))
    assert held_out.lines[0].get_ydata().tolist() == [3, 2]
    assert training.get_ylim() == held_out.get_ylim()


def test_losses_that_an_arm_has_not_are_left_out():
    nothing = pd.DataFrame(columns=["step", *figures.HELD_OUT], dtype=float)
    training, held_out = figures.losses_figure(CURVE.assign(soft=np.nan), nothing).axes
    assert labels(training) == ["hard: cross-entropy"]
    assert held_out.get_title() == "No held-out problems"


def test_costs_are_means_over_seeds():
    both = pd.concat([CURVE, CURVE.assign(tokens_per_second=400.0)])
    speed = figures.cost_figure(both).axes[1]
    assert speed.get_title() == "Tokens per second"
    assert speed.lines[0].get_ydata().tolist() == [250, 300]


def test_without_held_out_responses_the_figure_says_so():
    nothing = pd.DataFrame({"position": [], "before": [], "after": []})
    assert figures.divergence_figure(nothing).axes[0].get_title() == "No held-out response: nothing to compare"
