"""The tables that are made for download."""

import pandas as pd
import pytest

from response_priming.attention.results import EVERY
from response_priming.report import downloads


def test_layers_are_means_over_heads_and_seeds_with_an_interval_over_prompts():
    rows = [
        {"region": "prompt", "arm": "none", "layer": 0, "head": head, "seed": seed, "prompt": prompt}
        | dict.fromkeys(EVERY, 10.0 * prompt + head)
        for head in (0, 1)
        for seed in (0, 1)
        for prompt in (0, 1, 2)
    ]
    table = downloads.by_layer(pd.DataFrame(rows))
    assert list(table["number"]) == list(EVERY)
    assert (table["mean"] == 10.5).all()
    assert (table[["n", "seeds"]] == [3, 2]).all(axis=None)
    # 95 % of Student's t with two degrees of freedom: 4.303 standard errors of 10 / sqrt(3).
    assert list(table["high"] - table["mean"]) == pytest.approx([4.303 * 10 / 3**0.5] * len(EVERY), rel=1e-3)


def test_a_number_that_a_layer_lacks_has_no_row():
    row = {"region": "prompt", "arm": "none", "layer": 0, "head": 0, "seed": 0, "prompt": 0} | dict.fromkeys(EVERY, 1.0)
    table = downloads.by_layer(pd.DataFrame([row | {"similarity": None}]))
    assert "similarity" not in set(table["number"])
