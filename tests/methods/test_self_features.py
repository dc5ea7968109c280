import itertools

import numpy as np
import pytest
import torch

from response_priming.distill import trainer
from response_priming.methods import base, examples, self_features
from response_priming.methods.losses import IGNORED, Loss
from response_priming.methods.self_features import SelfFeatures

SIZES = {"n_train": 4, "train_steps": 3, "train_batch": 4, "micro_batch": 4, "held_out": 0, "train_tokens": 400}


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="fine-tuned", **SIZES)


def some(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the distance ---


def test_a_set_of_features_has_no_distance_to_itself_in_any_order():
    features, order = some(0, 6, 5), torch.tensor([3, 0, 5, 1, 4, 2])
    for other in (features, features[order]):
        costs = self_features.distances(features, other)
        assert abs(costs[torch.arange(6), self_features.assignment(costs)].mean().item()) < 1e-12


def test_two_tokens_are_assigned_by_hand():
    # Both are nearest to the first: 1 + 7 against 2 + 5, and 1 + 5.5 against 2 + 5.
    assert self_features.assignment(torch.tensor([[1.0, 2.0], [5.0, 7.0]])).tolist() == [1, 0]
    assert self_features.assignment(torch.tensor([[1.0, 2.0], [5.0, 5.5]])).tolist() == [0, 1]


def test_the_effective_rank_counts_equal_directions():
    assert self_features.effective_rank(torch.eye(5)[:3]) == pytest.approx(3)
    assert self_features.effective_rank(torch.ones(4, 5)) == pytest.approx(1)


@pytest.mark.parametrize(("channels", "width"), [(1, 8), (4, 2), (3, 2)])
def test_channels_are_averaged_in_groups_to_unit_size(run, channels, width):
    states, batch = some(0, 3, 2, 4, 8), {"labels": torch.tensor([[1, 2, IGNORED, IGNORED], [1, 2, 3, 4]])}
    (shallow, deep), (_, longer) = SelfFeatures(run, channels=channels).features(states, batch)
    assert shallow.shape == (2, 2, width)
    assert longer.shape == (4, width)
    wanted = states[2, 0, :2, : channels * width].unflatten(-1, (width, channels)).mean(-1).float()
    wanted = wanted / wanted.square().mean(-1, keepdim=True).sqrt()
    assert torch.allclose(deep, wanted, atol=1e-5)


# --- the loss ---


@pytest.fixture
def at_work(run):
    """A method with its student and a batch, and what it says of that batch."""
    torch.manual_seed(0)
    model, tokenizer = base.Method(run).student()
    items = examples.prepare(run, tokenizer).items
    pad = int(tokenizer.pad_token_id)

    def loss(places=range(4), *, smoothing=None, more=0, item=0, hard_tokens=1, **parameters):
        method = SelfFeatures(run, **parameters)
        batch = examples.collate(list(itertools.chain(*(items[place] for place in places))), pad)
        for key, fill in (("input_ids", pad), ("attention_mask", 0), ("positions", 0), ("labels", IGNORED)):
            batch[key] = torch.nn.functional.pad(batch[key], (0, more), value=fill)
        batch = method.batch(model, batch, seed=0, step=2, item=item)
        batch = batch if smoothing is None else {**batch, "smoothing": smoothing}
        model.zero_grad()
        found = method.loss(model, batch, hard_tokens=hard_tokens)
        found.total.backward()
        gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
        return found, gradient, batch

    loss.model = model
    return loss


def test_without_a_term_and_smoothing_it_is_the_cross_entropy_bit_for_bit(at_work, run):
    found, gradient, batch = at_work(weight=0.0, smoothing=0.0)
    at_work.model.zero_grad()
    plain = base.Method(run).loss(at_work.model, batch)
    plain.total.backward()
    grads = [weight.grad.flatten() for weight in at_work.model.parameters() if weight.grad is not None]
    assert torch.equal(found.total, plain.total)
    assert torch.equal(gradient, torch.cat(grads))


@pytest.mark.parametrize("smoothing", [0.05, 0.5])
def test_smoothing_shares_out_the_labels_probability(at_work, smoothing):
    found, _, batch = at_work(weight=0.0, smoothing=smoothing)
    with torch.no_grad():
        logprobs = at_work.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logprobs = logprobs.log_softmax(-1).gather(1, batch["positions"][..., None].expand(-1, -1, logprobs.shape[-1]))
    kept = batch["labels"] != IGNORED
    own = logprobs[kept].gather(-1, batch["labels"][kept][:, None]).sum()
    wanted = -(1 - smoothing) * own - smoothing * logprobs[kept].mean(-1).sum()
    assert found.total.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_smoothing_rises_to_its_share_over_the_steps(run):
    method = SelfFeatures(run, smoothing=0.4)
    shares = [method.batch(None, {}, seed=0, step=step, item=0)["smoothing"] for step in range(3)]
    assert shares == pytest.approx([0, 0.2, 0.4])


def test_the_deep_features_get_no_gradient_through_the_term(run, monkeypatch):
    states = some(0, 3, 1, 4, 32).requires_grad_()
    given = Loss(torch.zeros(()), torch.zeros(1), torch.zeros(1), states)
    monkeypatch.setattr(base.Method, "loss", lambda *_, **__: given)
    monkeypatch.setattr(SelfFeatures, "layers", lambda *_: [1, 2, -1])
    monkeypatch.setattr(SelfFeatures, "smoothed", lambda *_: 0.0)
    batch = {"labels": torch.tensor([[1, 2, 3, 4]]), "smoothing": 0.0, "drawn_from": (0, 0, 0)}
    SelfFeatures(run).loss(None, batch, hard_tokens=4).total.backward()
    assert not states.grad[2].any()
    assert states.grad[:2].any(-1).all()


def test_padding_and_the_micro_batch_change_nothing(at_work):
    whole, gradient, _ = at_work(target="another", hard_tokens=50)
    longer, padded, _ = at_work(target="another", hard_tokens=50, more=7)
    assert longer.total.item() == pytest.approx(whole.total.item(), rel=1e-6)
    assert torch.allclose(padded, gradient, atol=1e-6)
    parts = [at_work([place], target="another", hard_tokens=50, item=place) for place in range(4)]
    assert sum(part.total.item() for part, _, _ in parts) == pytest.approx(whole.total.item(), rel=1e-5)
    assert torch.allclose(sum(part for _, part, _ in parts), gradient, atol=1e-5)


def test_the_control_draws_every_token_to_another_ones_deep_feature(at_work):
    own, other = (at_work(smoothing=0.0, target=target)[0].total.item() for target in ("assigned", "another"))
    plain = at_work(smoothing=0.0, weight=0.0)[0].total.item()
    assert plain < own < other


# --- in training ---


def test_the_mechanisms_numbers_are_of_held_out_solutions(run):
    method = SelfFeatures(run)
    model, tokenizer = method.student()
    data = examples.prepare(run, tokenizer)
    made = trainer.DistillTrainer(
        method, data, model=model, tokenizer=tokenizer, seed=0, micro_batch=2, folder=run.build / "here"
    )
    found = made.mechanism(data.items.examples)
    assert set(found) == {"effective rank", "distance to deep"}
    assert 1 < found["effective rank"] <= 8
    assert np.isfinite(found["distance to deep"])
    assert made.mechanism([]) == {}
