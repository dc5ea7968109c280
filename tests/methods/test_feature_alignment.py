import math

import pytest
import torch
from tests.methods.conftest import other_teacher

from response_priming.errors import InputError
from response_priming.methods import feature_alignment
from response_priming.methods.base import Method
from response_priming.methods.feature_alignment import FeatureAlignment, paired


def trained(model):
    return [weight for weight in model.parameters() if weight.requires_grad]


def test_a_student_like_its_teacher_has_no_terms_and_no_gradient(make_method, batch):
    method = make_method(FeatureAlignment)
    model, _ = method.student()
    model.double()
    method.teacher.model.double()
    parts = method._parts(*method._both(model, batch), batch)
    assert {name: part.abs().max().item() < 1e-6 for name, part in parts.items()} == {"hidden": True, "attention": True}
    gradients = torch.autograd.grad(sum(part.sum() for part in parts.values()), trained(model), allow_unused=True)
    assert max(gradient.abs().max().item() for gradient in gradients if gradient is not None) < 1e-6


def test_a_primed_teacher_is_met_with_a_gradient_and_gets_none(make_method, batch):
    method = make_method(FeatureAlignment, {"strategy": "ground-truth", "worked_examples": 1})
    model, _ = method.student()
    plain, whole = (kind.loss(method, model, batch, hard_tokens=12) for kind in (Method, FeatureAlignment))
    parts = method._parts(*method._both(model, batch), batch)
    assert all(part.sum() > 1e-3 for part in parts.values())
    expected = plain.total + sum(part.sum() for part in parts.values()) / 12
    assert whole.total.item() == pytest.approx(expected.item(), rel=1e-6)
    whole.total.backward()
    assert all(weight.grad is None for weight in method.teacher.model.parameters())
    assert any(weight.grad.abs().max() > 0 for weight in trained(model))


def test_without_terms_it_is_kd_bitwise(make_method, batch):
    made = []
    for kind in (Method, FeatureAlignment):
        method = make_method(FeatureAlignment, **FeatureAlignment.controls["no-terms"])
        torch.manual_seed(0)
        model, _ = method.student()
        loss = kind.loss(method, model, batch)
        loss.total.backward()
        made.append([*loss[:3], *(weight.grad for weight in trained(model))])
    assert all(torch.equal(*pair) for pair in zip(*made, strict=True))
    assert "teacher" not in vars(method)


def test_the_size_of_hidden_states_does_not_matter_but_their_direction():
    one, other = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    found = feature_alignment.distance(one, other)
    assert torch.allclose(feature_alignment.distance(3 * one, other), found, atol=1e-6)
    assert torch.allclose(found, 1 - (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1)), atol=1e-6)


def test_attention_diverges_as_by_hand_and_a_key_that_neither_sees_counts_nothing():
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.75, 0.0]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert feature_alignment.divergence(p, q).item() == pytest.approx(expected, rel=1e-5)


def test_layers_meet_at_the_same_depth():
    assert paired(30, 30, 3) == [(layer, layer) for layer in range(3, 31, 3)]
    assert paired(16, 32, 5) == [(1, 2), (6, 12), (11, 22), (16, 32)]
    assert paired(2, 2, 3) == [(1, 1), (2, 2)]
    assert paired(1, 4, 3) == [(1, 4)]


def test_shuffled_none_meets_its_own(make_method):
    by_depth, shuffled = (make_method(FeatureAlignment, layers=how).pairs for how in ("by-depth", "shuffled"))
    assert by_depth == [(1, 1), (2, 2)]
    assert shuffled == [(1, 2), (2, 1)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_widths_differ_a_projection_is_trained_beside_the_student(make_method, batch, tmp_path, dtype):
    precision = {"dtype": dtype}
    method = make_method(FeatureAlignment, other_teacher(tmp_path / "wide") | precision, precision)
    model, _ = method.student()
    assert [project.weight.shape for project in method.beside()] == [(48, 32)] * 2
    method.loss(model, batch).total.backward()
    assert all(project.weight.grad.abs().max() > 0 for project in method.beside())
    assert not {id(weight) for weight in method.beside().parameters()} & {id(weight) for weight in model.parameters()}


def test_a_teacher_with_fewer_layers_than_are_to_meet_is_one_line(make_method, tmp_path):
    method = make_method(FeatureAlignment, other_teacher(tmp_path / "flat", num_hidden_layers=1))
    with pytest.raises(
        InputError, match=r"flat': has 1 layers, and 2 of the student's are each to meet one of its own"
    ):
        _ = method.pairs


def test_the_mechanism_is_a_mean_over_held_out_tokens_in_every_control(make_method, batch):
    found = [make_method(FeatureAlignment, {"strategy": "ground-truth"}, **changed) for changed in ({}, {"terms": {}})]
    model, _ = found[0].student()
    with torch.no_grad():
        first, second = (method.mechanism(model.eval(), [batch, batch]) for method in found)
        parts = found[0]._parts(*found[0]._both(model, batch), batch)
    assert first == second
    tokens = 2 * 15  # pairs of layers times tokens
    wanted = [part.sum().item() / tokens for part in parts.values()]
    assert [first["hidden distance"], first["attention KL"]] == pytest.approx(wanted, rel=1e-5)
    assert found[0].spent == {}
