"""What is kept of one text while its layers pass, against the public functions on whole maps."""

import numpy as np
import pytest
import torch
from tests.attention.test_metrics import causal_maps

from response_priming.attention import metrics
from response_priming.attention.metrics import PAPER
from response_priming.attention.reading import Reading, Text

TOKENS, PROMPT = 9, 5
WHO = [("undistilled", 0), ("none", 0), ("none", 1), ("teacher", 0), ("teacher", 1)]
TEXT = Text("p", list(range(TOKENS)), PROMPT)


def take(who=WHO, text=TEXT, kept=None):
    """A reading of random maps, and the maps [students, layers, heads, tokens, tokens]."""
    maps = np.stack([causal_maps(index, tokens=len(text.tokens)) for index in range(len(who))])
    reading = Reading(who, text, kept)
    for layer in range(maps.shape[1]):
        reading.take(torch.from_numpy(maps[:, layer]))
    return reading, maps


@pytest.mark.parametrize("student", range(len(WHO)))
def test_the_prompts_numbers_are_those_of_the_prompt_alone(student):
    reading, maps = take()
    table = reading.metrics().set_index(["arm", "seed", "region"])
    found = table.loc[(*WHO[student], "prompt")]
    expected = metrics.head_metrics(maps[student][..., :PROMPT, :PROMPT])
    np.testing.assert_allclose(found[list(PAPER)], expected[list(PAPER)], rtol=1e-10)
    assert found[["layer", "head"]].to_numpy().tolist() == expected[["layer", "head"]].to_numpy().tolist()


def test_the_responses_rows_see_the_whole_text():
    reading, maps = take()
    found = reading.metrics().query("arm == 'none' and seed == 1 and region == 'response'")
    rows = maps[2][..., PROMPT:, :].astype(float)
    rows /= rows.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["density"], (rows > 0.1).mean((-2, -1)).ravel())
    np.testing.assert_allclose(found["sink"], rows[..., 0].mean(-1).ravel())
    np.testing.assert_allclose(found["diagonal"], np.diagonal(rows, PROMPT, -2, -1).mean(-1).ravel())


def test_a_text_without_response_has_one_region():
    reading, _ = take(text=Text("p", list(range(TOKENS)), TOKENS))
    assert set(reading.metrics()["region"]) == {"prompt"}
    assert reading.divergent()["response"].isna().all()


def test_with_one_seed_the_divergence_is_that_of_the_public_function():
    who = [("undistilled", 0), ("none", 0), ("teacher", 0)]
    reading, maps = take(who)
    found = reading.divergent()
    for column, part in (("variance", maps), ("prompt", maps[..., :PROMPT, :PROMPT])):
        expected = metrics.divergent_heads(dict(zip("abc", part, strict=True))).sort_values(["layer", "head"])
        np.testing.assert_allclose(found[column], expected["variance"], rtol=1e-10)
    assert found["seeds"].isna().all()


def test_arms_are_means_over_seeds_and_seeds_are_compared_within_arms():
    reading, maps = take()
    maps = maps.astype(float)
    arms = np.stack([maps[0], maps[1:3].mean(0), maps[3:].mean(0)])
    np.testing.assert_allclose(reading.divergent()["variance"], arms.var(0).mean((-2, -1)).ravel(), rtol=1e-10)
    within = (maps[1:3].var(0) + maps[3:].var(0)).mean((-2, -1)) / 2
    np.testing.assert_allclose(reading.divergent()["seeds"], within.ravel(), rtol=1e-10)


def test_kept_maps_are_the_first_seeds_at_the_positions_kept():
    kept = [0, 4, 8]
    reading, maps = take(kept=kept)
    found = (torch.stack(reading.maps, dim=1).numpy() / 255.0) ** 2
    expected = maps[[0, 1, 3]][..., kept, :][..., kept]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.004
