"""Numbers of a head, against plain loops in float64 and against what is known of special maps."""

import math

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from response_priming.attention import metrics as numbers
from response_priming.errors import InputError

HEADS, TOKENS = 4, 9


def causal_maps(seed, layers=3, heads=HEADS, tokens=TOKENS):
    scores = np.random.default_rng(seed).exponential(size=(layers, heads, tokens, tokens)) ** 3
    maps = np.tril(scores)
    return (maps / maps.sum(axis=-1, keepdims=True)).astype(np.float32)


def by_hand(maps):
    """The four numbers with plain loops."""
    rows = []
    for layer, layer_maps in enumerate(maps.astype(np.float64)):
        for head, raw in enumerate(layer_maps):
            entropy = diagonal = dense = 0.0
            for query, row in enumerate(raw):
                weights = [weight / sum(row) for weight in row]
                entropy -= sum(weight * math.log(weight) for weight in weights if weight > 0)
                diagonal += weights[query]
                dense += sum(weight > 0.1 for weight in weights)
            n, similarity = len(raw), math.nan
            if layer:
                here, below = raw.ravel(), maps[layer - 1, head].astype(np.float64).ravel()
                similarity = here @ below / math.sqrt((here @ here) * (below @ below))
            rows.append((layer, head, entropy / n, diagonal / n, dense / n**2, similarity))
    return pd.DataFrame(rows, columns=["layer", "head", *numbers.PAPER])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 3))
def test_random_causal_maps_agree_with_plain_loops(seed, tokens, layers):
    maps = causal_maps(seed, layers, heads=2, tokens=tokens)
    pd.testing.assert_frame_equal(numbers.head_metrics(maps), by_hand(maps), rtol=1e-11, atol=1e-13)


def test_half_precision_arrays_agree_with_plain_loops():
    maps = causal_maps(1).astype(np.float16)
    assert not np.allclose(maps.astype(float).sum(-1), 1, atol=1e-5)
    pd.testing.assert_frame_equal(numbers.head_metrics(maps), by_hand(maps), rtol=1e-12)


def test_tensors_with_bf16_rows_agree_with_plain_loops():
    maps = torch.tensor(causal_maps(1)).bfloat16()
    assert not torch.allclose(maps.double().sum(-1), torch.ones(1, dtype=torch.float64), atol=1e-5)
    pd.testing.assert_frame_equal(numbers.head_metrics(maps), by_hand(maps.float().numpy()), rtol=1e-12)


def test_maps_of_a_model_agree_with_plain_loops():
    model = tiny.llama()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = torch.cat(model(torch.arange(20)[None], output_attentions=True).attentions)
    pd.testing.assert_frame_equal(numbers.head_metrics(maps), by_hand(maps.numpy()), rtol=1e-11)


def test_uniform_rows_have_the_entropy_of_their_length():
    maps = np.tril(np.ones((2, 1, TOKENS, TOKENS))) / np.arange(1, TOKENS + 1)[:, None]
    metrics = numbers.head_metrics(maps)
    assert np.allclose(metrics["entropy"], np.log(np.arange(1, TOKENS + 1)).mean())
    assert np.allclose(metrics["diagonal"], (1 / np.arange(1, TOKENS + 1)).mean())
    assert metrics["similarity"].iloc[1] == pytest.approx(1)


def test_attending_to_oneself_has_no_entropy_and_a_full_diagonal():
    metrics = numbers.head_metrics(np.tile(np.eye(TOKENS), (2, HEADS, 1, 1)))
    assert (metrics["entropy"] == 0).all()
    assert (metrics["diagonal"] == 1).all()
    assert np.allclose(metrics["density"], 1 / TOKENS)


def test_the_first_layer_alone_has_no_similarity():
    similarity = numbers.head_metrics(causal_maps(0)).groupby("layer")["similarity"]
    assert similarity.count().tolist() == [0, HEADS, HEADS]


def test_the_similarity_is_of_maps_as_they_are():
    raw = causal_maps(3)
    raw[:, :, 4] *= 0.5  # a row that does not sum to 1
    pd.testing.assert_frame_equal(numbers.head_metrics(raw), by_hand(raw), rtol=1e-11)


# --- the first token apart ---


def test_the_first_token_takes_all_or_nothing():
    sink = torch.zeros(1, TOKENS, TOKENS, dtype=torch.float64)
    sink[..., 0] = 1
    found = numbers.sink_numbers(sink)
    assert found["sink"].item() == 1
    assert found["entropy_rest"].item() == 0
    assert numbers.sink_numbers(torch.eye(TOKENS, dtype=torch.float64)[None])["sink"].item() == 0


def test_the_entropy_of_the_rest_ignores_how_much_the_first_token_takes():
    maps = torch.from_numpy(causal_maps(5).astype(np.float64))[0]
    less = maps.clone()
    less[..., 0] /= 7
    expected = numbers.sink_numbers(maps)["entropy_rest"]
    assert torch.allclose(numbers.sink_numbers(less)["entropy_rest"], expected)
    assert (numbers.sink_numbers(less)["sink"] < numbers.sink_numbers(maps)["sink"]).all()


def test_rows_of_the_second_region_count_their_own_token_as_diagonal():
    maps = torch.from_numpy(causal_maps(6).astype(np.float64))[0]
    own = numbers.paper_numbers(maps[:, 4:], None)["diagonal"]
    assert torch.allclose(own, torch.diagonal(maps, dim1=-2, dim2=-1)[:, 4:].mean(-1))


# --- divergent heads ---


def test_the_altered_head_diverges_most():
    arms = {arm: causal_maps(0) for arm in ("undistilled", "none", "teacher")}
    arms["teacher"][2, 1] = causal_maps(7)[2, 1]
    divergent = numbers.divergent_heads(arms)
    assert divergent.loc[0, ["layer", "head"]].tolist() == [2, 1]
    assert (divergent["variance"].iloc[1:] == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_variance_is_the_populations_in_float64(dtype):
    arms = {str(seed): causal_maps(seed).astype(dtype) for seed in range(5)}
    expected = np.stack([maps.astype(np.float64) for maps in arms.values()]).var(axis=0).mean(axis=(-2, -1))
    found = numbers.divergent_heads(arms).sort_values(["layer", "head"])["variance"].to_numpy()
    np.testing.assert_allclose(found, expected.ravel(), rtol=1e-10)


def test_maps_of_different_texts_are_refused():
    with pytest.raises(InputError, match=r"shapes .*9, 9\).*8, 8\).*must be the same"):
        numbers.divergent_heads({"none": causal_maps(0), "teacher": causal_maps(0, tokens=8)})
