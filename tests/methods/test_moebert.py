import itertools

import numpy as np
import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from response_priming import experts, params
from response_priming.errors import InputError
from response_priming.methods import base, moebert
from response_priming.methods.losses import IGNORED
from response_priming.methods.moebert import MoEBERT
from response_priming.params.divergences import kl
from response_priming.studies import related

COUNTS = {"hard_tokens": 12, "soft_tokens": 12}


# --- the split ---


def test_the_first_units_are_in_all_experts_and_the_others_dealt_by_rank():
    order = torch.randperm(1536, generator=torch.Generator().manual_seed(0))
    units = moebert.deal(order, 4, 0.25, 2 / 3)
    assert units.shape == (4, 384)
    assert (units[:, :256] == order[:256]).all()
    assert len(units.unique()) == 768
    for expert, own in enumerate(units[:, 256:]):
        assert own.tolist() == [int(order[256 + expert + 4 * i]) for i in range(128)]


@pytest.mark.parametrize("units", range(60, 80))
@pytest.mark.parametrize(("count", "width", "shared"), [(4, 0.25, 0.0), (2, 0.5, 2 / 3), (1, 0.4, 0.5), (3, 1.0, 1.0)])
def test_any_width_of_layer_can_be_dealt(units, count, width, shared):
    found = moebert.deal(torch.arange(units), count, width, shared)
    assert found.shape == (count, int(width * units + 1e-6))
    assert all(len(own.unique()) == len(own) for own in found)


def test_more_units_than_a_layer_has_are_one_line():
    problem = (
        r"^method moebert: experts = 4, width = 0.25, shared = -0.1|take 2.50 of a layer's units; allowed: up to 1"
    )
    with pytest.raises(InputError, match=problem):
        base.described("moebert", {"experts": 4, "width": 1.0, "shared": 0.5})


def test_experts_read_about_as_many_tokens_each_in_every_layer_other_ones():
    counts = np.random.default_rng(0).zipf(1.5, 300).clip(max=200) * (np.arange(300) % 3 > 0)
    one, other = (moebert.table(counts, 4, np.random.default_rng([0, layer])).numpy() for layer in (0, 1))
    load = np.bincount(one, counts)
    assert load.max() - load.min() <= counts.max()
    assert np.bincount(one[counts == 0], minlength=4).min() > 10
    assert 0.5 < (one != other).mean() < 0.95
    assert (moebert.table(counts, 4, np.random.default_rng([0, 0])).numpy() == one).all()


# --- importance ---


def by_weights(model, batch):
    """Importance by its definition: a backward pass an example, and the gradients of the weights."""
    found = 0
    for row in range(len(batch["labels"])):
        model.zero_grad()
        real = batch["attention_mask"][row].bool()
        kept = batch["labels"][row] != IGNORED
        logprobs = model(batch["input_ids"][row][real][None]).logits[0].log_softmax(-1)
        (-logprobs[batch["positions"][row][kept], batch["labels"][row][kept]]).sum().backward()
        layers = [layer.mlp for layer in model.model.layers]
        product = [[(part.weight * part.weight.grad) for part in (m.gate_proj, m.up_proj, m.down_proj)] for m in layers]
        found = found + torch.stack([(g.sum(1) + u.sum(1) + d.sum(0)).abs() for g, u, d in product])
    return found


def test_importance_is_that_of_the_weights_of_each_example(batch):
    model = tiny.llama().double()
    found = moebert.importance(model, [batch])
    assert torch.allclose(torch.stack(found), by_weights(model, batch), rtol=1e-9)
    rows = [{key: value[row : row + 1] for key, value in batch.items()} for row in range(3)]
    apart = moebert.importance(model, rows)
    assert torch.allclose(torch.stack(apart), torch.stack(found), rtol=1e-9)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_unit_that_does_nothing_has_no_importance_and_is_not_shared(batch):
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, 7] = 0
        model.model.layers[1].mlp.up_proj.weight[7] = 0
    first, second = moebert.importance(model, [batch])
    assert second[7] == 0
    assert (second[torch.arange(64) != 7] > 0).all()
    assert first[7] > 0
    order = second.argsort(stable=True, descending=True)
    units = moebert.deal(order, 2, 0.5, 2 / 3)
    assert 7 not in units


def test_a_model_without_gated_layers_is_one_line(batch):
    with pytest.raises(InputError, match=r"^model.student: GPT2LMHeadModel has no dense gated feed-forward layers"):
        moebert.importance(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1)), [batch])


# --- the student and its loss ---


@pytest.fixture
def made(make_method):
    """Makes a method with its student."""

    def make(**parameters):
        method = make_method(MoEBERT, **parameters)
        torch.manual_seed(0)
        return method, method.student()[0]

    return make


@pytest.mark.parametrize(("split", "count", "width"), [("importance", 2, 32), ("random", 2, 32), ("pruned", 1, 32)])
def test_the_student_is_cut_as_asked_and_all_of_it_is_trained(made, split, count, width):
    method, model = made(split=split)
    assert experts.shape(model.config) == {"count": count, "width": width}
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(weight.requires_grad for weight in method._parent.parameters())
    idle = (count - 1) * tiny.LAYERS * 3 * 32 * width
    assert method.active(model) == sum(weight.numel() for weight in model.parameters()) - idle
    plain = tiny.llama().num_parameters() - tiny.LAYERS * 3 * 32 * (64 - width)
    assert method.active(model) == plain


def test_splits_differ_in_their_units_alone(made):
    tables, weights = [], []
    for split in ("importance", "random", "inverse"):
        layer = made(split=split)[1].model.layers[0].mlp
        tables.append(layer.table)
        weights.append(layer.experts[0].gate_proj.weight)
    assert all(torch.equal(table, tables[0]) for table in tables)
    assert not any(torch.equal(*pair) for pair in itertools.combinations(weights, 2))


def test_a_student_like_its_parent_has_the_cross_entropy_alone(made, batch):
    method, model = made(split="dense")
    loss, apart = method.compared(model, batch)
    assert apart.abs().max() == 0
    assert loss.soft.abs().max() < 1e-9
    assert method.loss(model, batch, **COUNTS).total.item() == pytest.approx(loss.hard.sum().item() / 12, rel=1e-6)


def test_the_loss_is_the_papers_at_the_scored_tokens(made, batch):
    method, model = made(weight=0.7)
    found = method.loss(model, batch, **COUNTS).total.item()
    kept = batch["labels"] != IGNORED
    with torch.no_grad():
        read = []
        for one in (model, method._parent):
            output = one(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
            at = (torch.arange(3)[:, None], batch["positions"])
            read.append(
                ([states[at][kept] for states in output.hidden_states], output.logits[at][kept].log_softmax(-1))
            )
    (own, q), (parents, p) = read
    squares = sum(((a - b).norm(dim=-1) / b.norm(dim=-1)).square().sum() for a, b in zip(own, parents, strict=True))
    cross_entropy = -q.gather(-1, batch["labels"][kept][:, None]).sum()
    both = (kl(p, q) + kl(q, p)).sum() / 2
    assert len(own) == tiny.LAYERS + 1
    assert found == pytest.approx(((cross_entropy + 0.7 * (squares + both)) / 12).item(), rel=1e-5)


def test_without_weight_it_is_the_cross_entropy(made, batch):
    method, model = made(weight=0.0)
    plain = base.Method.loss(method, model, {k: batch[k] for k in ("input_ids", "positions", "labels")}, **COUNTS)
    assert method.loss(model, batch, **COUNTS).total.item() == pytest.approx(plain.total.item(), rel=1e-6)


def test_what_is_beside_its_tokens_does_not_change_an_examples_loss(made, batch):
    method, model = made()
    loss, apart = method.compared(model, batch)
    order = [2, 0, 1]
    mixed = {key: value[order] if torch.is_tensor(value) else value for key, value in batch.items()}
    again, other = method.compared(model, mixed)
    assert torch.allclose(again.hard, loss.hard[order], atol=1e-5)
    assert torch.allclose(other, apart[:, order], rtol=1e-4, atol=1e-5)


def test_the_mechanism_is_a_mean_over_held_out_tokens(made, batch):
    method, model = made()
    with torch.no_grad():
        loss, _ = method.compared(model, batch)
        found = method.mechanism(model, [batch, batch])
    tokens = int((batch["labels"] != IGNORED).sum())
    wanted = {"loss": loss.hard.sum().item() / tokens, "KL to parent": loss.soft.sum().item() / tokens}
    assert found == pytest.approx(wanted, rel=1e-6)
    assert method.mechanism(model, []) == {}
    assert method.spent == {}


def test_an_engine_that_cannot_run_experts_is_one_line(make_run):
    run = make_run("related", related_methods=["moebert"], evaluate_engine="vllm")
    problem = r"^evaluate.evaluate_engine = 'vllm': cannot run the students of moebert; allowed: 'transformers'$"
    with pytest.raises(InputError, match=problem):
        related.rows(run)
    assert "moebert" not in related.rows(params.RelatedRun.of(run.model_dump() | {"related_methods": ["okd"]}))
