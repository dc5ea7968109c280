"""Knowledge tracing: learners by their generator, and LRP through the LSTM by its own sums."""

import numpy as np
import pytest
import torch

from response_priming.attribution import tracing


@pytest.fixture
def learners():
    return tracing.make_learners(40, np.random.default_rng(0))


def test_learners_are_those_of_bayesian_knowledge_tracing(monkeypatch):
    many = tracing.make_learners(20_000, np.random.default_rng(1))
    first = tracing.KNOWN * (1 - tracing.SLIP) + (1 - tracing.KNOWN) * tracing.GUESS
    assert many.right[:, 0].mean() == pytest.approx(first, abs=0.02)
    assert many.best[:, 0] == pytest.approx(first)
    # Whoever knows the generator is right as often as it says.
    for low in (0.3, 0.5, 0.7):
        likely = (many.best > low) & (many.best < low + 0.1)
        assert many.right[likely].mean() == pytest.approx(many.best[likely].mean(), abs=0.02)
    monkeypatch.setattr(tracing, "KNOWN", 1.0)
    assert tracing.make_learners(5000, np.random.default_rng(2)).right.mean() == pytest.approx(0.9, abs=0.02)


def test_relevance_with_biases_handed_down_adds_up_to_the_probability(learners):
    model = tracing.Tracer(3)
    given, of_states = model.relevance(learners, delta=1.0)
    assert given.shape == (40, tracing.STEPS, 2 * tracing.SKILLS)
    total = given.sum((1, 2)) + of_states
    torch.testing.assert_close(total, model(learners)[:, -1].sigmoid().detach(), rtol=0, atol=1e-6)
    assert of_states.abs().max() > 0
    given, of_states = model.relevance(learners)
    assert not of_states.any()  # which are zero
    assert not given[learners.seen == 0].any()


def test_of_a_linear_layer_each_input_has_its_weight_times_itself(monkeypatch):
    monkeypatch.setattr(tracing, "EPSILON", 0.0)
    inputs, weight = torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([[0.5, 0.25, 2.0]])
    out = inputs @ weight.T
    found = tracing._handed_down(inputs, weight, 0.0, out, out, 3, delta=0.0)
    assert torch.equal(found, inputs * weight)


def test_an_untrained_model_attributes_to_no_skill_more_than_chance():
    learners = tracing.make_learners(200, np.random.default_rng(0))
    shares = [tracing._shares(tracing.Tracer(seed), learners, np.random.default_rng(seed))[0] for seed in range(5)]
    assert np.mean(shares) == pytest.approx(1 / tracing.SKILLS, abs=0.1)


def test_tracing_is_decided_by_its_seed_and_learns(monkeypatch):
    monkeypatch.setattr(tracing, "TAUGHT", 100)
    monkeypatch.setattr(tracing, "UPDATES", 40)
    table, state = tracing.trace(0), torch.get_rng_state()
    torch.rand(3)
    assert tracing.trace(0).equals(table)
    torch.set_rng_state(state)
    untrained, trained = table.to_dict("records")
    assert untrained["auc"] < trained["auc"] < trained["best"] == untrained["best"]
    assert trained["low"] < trained["points"] < trained["high"]
    assert abs(untrained["share"] - 1 / tracing.SKILLS) < 0.1
