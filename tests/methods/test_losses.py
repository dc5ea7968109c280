import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from response_priming.methods import losses
from response_priming.methods.losses import IGNORED, Targets
from response_priming.params.divergences import DIVERGENCES, jsd, kl
from response_priming.params.sections import Distill

VOCABULARY, WIDTH, POSITIONS = 13, 7, 6
NAMES = list(DIVERGENCES)
TEMPERATURES = [0.5, 1.0, 5.942267335064758, 10.0]
KS = [1, 4, VOCABULARY - 1, VOCABULARY, "dense"]


def some(seed, *shape, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_logits(seed, scale=2.0):
    return some(seed, POSITIONS, VOCABULARY, scale=scale)


def targets_of(teacher, k, labels=None, scored=None):
    """What a teacher with these logits gives, by its k most likely tokens, or dense."""
    labels = torch.full((len(teacher),), IGNORED) if labels is None else labels
    scored = torch.ones(len(teacher), dtype=torch.bool) if scored is None else scored
    logprobs = teacher.log_softmax(-1)
    if k == "dense":
        return Targets(labels, scored, logprobs)
    top = logprobs.topk(k)
    tail = logprobs.scatter(-1, top.indices, -math.inf).logsumexp(-1)
    return Targets(labels, scored, top.values, top.indices, tail)


SOFT = Distill(alpha=0)


def loss_of(logits, targets, objective=SOFT, dtype=torch.float64, **how):
    """The loss of a student whose hidden states are these logits."""
    return losses.distillation(logits.to(dtype), torch.eye(logits.shape[-1], dtype=dtype), targets, objective, **how)


def lumped(logits, ids):
    """Probabilities of the k tokens and of the rest."""
    p = logits.softmax(-1)
    return torch.cat([p.gather(-1, ids), p.scatter(-1, ids, 0).sum(-1, keepdim=True)], -1)


def softened(p, temperature):
    powers = p ** (1 / temperature)
    return powers / powers.sum(-1, keepdim=True)


def reference(p, q, divergence, share):
    """Divergences of probabilities in float64, as the papers write them."""

    def kl(a, b):
        return torch.where(a > 0, a * (a / b).log(), 0).sum(-1)

    m = share * p + (1 - share) * q
    return {
        "forward-kl": lambda: kl(p, q),
        "reverse-kl": lambda: kl(q, p),
        "symmetric-kl": lambda: (kl(p, q) + kl(q, p)) / 2,
        "jsd": lambda: share * kl(p, m) + (1 - share) * kl(q, m),
        "skew-kl": lambda: kl(p, m),
        "skew-reverse-kl": lambda: kl(q, (1 - share) * p + share * q),
    }[divergence]()


def dense_objective(hidden, head, teacher, targets, objective, hard_tokens, soft_tokens):
    """The whole objective from dense float64 logits, by autograd."""
    logits = hidden @ head.T
    surprise = -logits.log_softmax(-1).gather(-1, targets.labels.clamp(min=0)[:, None])[:, 0]
    hard = surprise[targets.labels != IGNORED].sum() / hard_tokens
    k = targets.top_logprobs.shape[-1]
    ids = torch.arange(VOCABULARY).expand(len(hidden), -1) if targets.top_ids is None else targets.top_ids
    p, q = (softened(lumped(z, ids)[:, : k + (k < VOCABULARY)], objective.kd_temperature) for z in (teacher, logits))
    soft = reference(p, q, objective.divergence, objective.divergence_share)[targets.scored].sum() / soft_tokens
    return objective.alpha * hard + (1 - objective.alpha) * objective.kd_temperature**2 * soft


# --- divergences ---


@pytest.mark.parametrize("divergence", NAMES)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 30), share=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_divergences_agree_with_their_definitions(divergence, seed, scale, share):
    p, q = (some_logits(number, scale).softmax(-1) for number in (seed, seed + 1000))
    found = DIVERGENCES[divergence].between(p.log(), q.log(), share)
    assert torch.allclose(found, reference(p, q, divergence, share), rtol=1e-5, atol=1e-9)
    assert (found > 0).all()


@pytest.mark.parametrize("divergence", NAMES)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 100), share=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_identical_distributions_do_not_diverge(divergence, seed, scale, share):
    logprobs = some_logits(seed, scale).log_softmax(-1)
    assert DIVERGENCES[divergence].between(logprobs, logprobs, share).abs().max() < 1e-12


@given(seed=st.integers(0, 999), share=st.sampled_from([1e-4, 1e-5, 1e-6]))
@settings(max_examples=20, deadline=None)
def test_the_limits_of_jsd_are_both_kls(seed, share):
    teacher, student = (some_logits(number, 1.0).log_softmax(-1) for number in (seed, seed + 1000))
    forward, reverse = kl(teacher, student), kl(student, teacher)
    assert torch.allclose(jsd(teacher, student, share) / share, forward, rtol=300 * share, atol=300 * share)
    assert torch.allclose(jsd(teacher, student, 1 - share) / share, reverse, rtol=300 * share, atol=300 * share)


@given(seed=st.integers(0, 999), share=st.sampled_from([1e-4, 1e-6, 1e-8]))
@settings(max_examples=20, deadline=None)
def test_without_skew_a_skewed_divergence_is_the_plain_one_and_wholly_skewed_it_is_zero(seed, share):
    teacher, student = (some_logits(number, 1.0).log_softmax(-1) for number in (seed, seed + 1000))
    for name in ("skew-kl", "skew-reverse-kl"):
        plain = DIVERGENCES["reverse-kl" if "reverse" in name else "forward-kl"].between(teacher, student, 0.5)
        found = DIVERGENCES[name].between(teacher, student, share)
        assert torch.allclose(found, plain, rtol=300 * share, atol=300 * share)
        assert DIVERGENCES[name].between(teacher, student, 1 - share).max() < 300 * share


@given(seed=st.integers(0, 999), scale=st.floats(0.1, 100))
@settings(max_examples=20, deadline=None)
def test_the_even_jsd_is_symmetric_and_at_most_log_two(seed, scale):
    teacher, student = (some_logits(number, scale).log_softmax(-1) for number in (seed, seed + 1000))
    found = jsd(teacher, student, 0.5)
    assert torch.allclose(found, jsd(student, teacher, 0.5), rtol=1e-9, atol=1e-12)
    assert found.max() <= math.log(2) + 1e-6


# --- the fused objective ---


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("divergence", NAMES)
@given(
    seed=st.integers(0, 999),
    temperature=st.sampled_from(TEMPERATURES),
    alpha=st.floats(0, 1),
    share=st.floats(0.05, 0.95),
    rows=st.integers(1, POSITIONS),
)
@settings(max_examples=8, deadline=None)
def test_value_and_gradients_are_the_dense_ones_however_it_is_cut(k, divergence, seed, temperature, alpha, share, rows):
    hidden, head = some(seed, POSITIONS, WIDTH), some(seed + 1, VOCABULARY, WIDTH)
    teacher = some_logits(seed + 2)
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, VOCABULARY, (POSITIONS,), generator=random)
    labels[seed % POSITIONS] = IGNORED
    targets = targets_of(teacher, k, labels, torch.rand(POSITIONS, generator=random) < 0.7)
    objective = Distill(alpha=alpha, kd_temperature=temperature, divergence=divergence, divergence_share=share)
    leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    wanted = dense_objective(*leaves, teacher, targets, objective, 5, 4)
    wanted_grads = torch.autograd.grad(3 * wanted, leaves)
    width = 12 * VOCABULARY + 40 * (VOCABULARY if k == "dense" else k)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        own = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
        found = losses.distillation(*own, targets, objective, hard_tokens=5, soft_tokens=4, chunk_bytes=rows * width)
        assert found.total.item() == pytest.approx(wanted.item(), rel=tolerance, abs=tolerance * temperature**2)
        for grad, expected in zip(torch.autograd.grad(3 * found.total, own), wanted_grads, strict=True):
            assert (grad - expected).norm() <= 10 * tolerance * (expected.norm() + temperature**2)


@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_whole_vocabulary_by_token_or_in_order_of_probability_is_the_same(divergence, temperature):
    teacher, student = some_logits(0), some_logits(1)
    objective = Distill(alpha=0, kd_temperature=temperature, divergence=divergence)
    found = [loss_of(student, targets_of(teacher, k), objective).total.item() for k in (VOCABULARY, "dense")]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("divergence", NAMES)
def test_a_student_like_its_teacher_has_no_soft_loss(divergence, temperature, k):
    teacher = some_logits(0)
    found = loss_of(
        teacher,
        targets_of(teacher, k),
        Distill(alpha=0, kd_temperature=temperature, divergence=divergence),
        torch.float32,
    )
    assert found.soft.abs().max() < 1e-6 * temperature**2


def test_a_rest_of_a_millionth_is_as_exact_as_any_other():
    teacher = some_logits(0, 1.0)
    teacher[:, 0] += 25
    for shift in (0.0, 2.0):
        student = teacher.clone()
        student[:, 0] += shift
        objective = Distill(alpha=0, kd_temperature=10.0)
        found = loss_of(student, targets_of(teacher, 1), objective, torch.float32).soft
        ids = targets_of(teacher, 1).top_ids
        p, q = (softened(lumped(logits, ids), 10.0) for logits in (teacher, student))
        rounding = 100 * torch.finfo(torch.float32).eps  # T^2 times that of the probabilities
        assert torch.allclose(found.double(), 100 * reference(p, q, "forward-kl", 0.5), rtol=1e-4, atol=rounding)


def test_lumping_tokens_together_never_raises_the_divergence():
    teacher, student = some_logits(0), some_logits(1)
    found = [loss_of(student, targets_of(teacher, k)).total.item() for k in range(1, VOCABULARY + 1)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_temperature_keeps_the_gradients_size():
    teacher, student = some_logits(0, 0.1), some_logits(1, 0.1)
    targets = targets_of(teacher, "dense")
    found = [
        loss_of(student, targets, Distill(alpha=0, kd_temperature=temperature)).total.item()
        for temperature in (1, 10, 100)
    ]
    assert found[1:] == pytest.approx([found[0]] * 2, rel=0.1)


@given(seed=st.integers(0, 999), cut=st.integers(1, POSITIONS - 1))
@settings(max_examples=20, deadline=None)
def test_micro_batches_add_up_to_the_whole(seed, cut):
    hidden, head = some(seed, POSITIONS, WIDTH).requires_grad_(), some(seed + 1, VOCABULARY, WIDTH)
    labels = torch.arange(POSITIONS)
    targets = targets_of(some_logits(seed), 4, labels)

    def loss(rows):
        tokens = {"hard_tokens": POSITIONS, "soft_tokens": POSITIONS}
        return losses.distillation(hidden[rows], head, targets.part(rows), Distill(alpha=0.3), **tokens).total

    parts = [slice(0, cut), slice(cut, None)]
    whole, grad = loss(slice(None)), torch.autograd.grad(loss(slice(None)), hidden)[0]
    assert sum(loss(rows).item() for rows in parts) == pytest.approx(whole.item(), rel=1e-12)
    assert torch.allclose(sum(torch.autograd.grad(loss(rows), hidden)[0] for rows in parts), grad, rtol=1e-12)


@pytest.mark.parametrize("k", [4, VOCABULARY, "dense"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("certain", ["teacher", "student", "both"])
def test_gradients_are_finite_where_all_probability_is_on_one_token(certain, divergence, temperature, k):
    teacher = some_logits(0, 1000 if certain in ("teacher", "both") else 1)
    student = some_logits(1, 1000 if certain in ("student", "both") else 1).float().requires_grad_()
    objective = Distill(alpha=0, kd_temperature=temperature, divergence=divergence)
    loss = loss_of(student, targets_of(teacher, k), objective, torch.float32).total
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("divergence", NAMES)
def test_a_step_against_the_gradient_brings_the_student_closer(divergence):
    student, targets = some_logits(1).requires_grad_(), targets_of(some_logits(0), 4)
    loss = loss_of(student, targets, Distill(alpha=0, divergence=divergence)).total
    loss.backward()
    closer = (student - 0.1 * student.grad).detach()
    assert loss_of(closer, targets, Distill(alpha=0, divergence=divergence)).total < loss


# --- weights of positions ---


@pytest.mark.parametrize("k", KS)
@given(seed=st.integers(0, 999), rows=st.integers(1, POSITIONS))
@settings(max_examples=8, deadline=None)
def test_weights_scale_the_parts_of_their_positions_and_the_gradients(k, seed, rows):
    hidden, head, teacher = some(seed, POSITIONS, WIDTH), some(seed + 1, VOCABULARY, WIDTH), some_logits(seed + 2)
    labels = torch.tensor([3, IGNORED, 5, 1, 0, 12])
    weights, soft_weights = some(seed + 3, POSITIONS), some(seed + 4, POSITIONS).abs()
    plain = targets_of(teacher, k, labels)
    weighted = plain._replace(weights=weights, soft_weights=soft_weights)
    objective = Distill(alpha=0.3, divergence="reverse-kl")
    leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    logits = leaves[0] @ leaves[1].T
    # The bare terms, which autograd goes through.
    ids = torch.arange(VOCABULARY).expand(POSITIONS, -1) if k == "dense" else plain.top_ids
    p, q = (lumped(part, ids)[:, : VOCABULARY if k in ("dense", VOCABULARY) else k + 1] for part in (teacher, logits))
    surprise = -logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[:, None])[:, 0]
    hard = torch.where(labels == IGNORED, 0, surprise)
    wanted = 0.3 * (weights * hard).sum() / 5 + 0.7 * (soft_weights * reference(p, q, "reverse-kl", 0)).sum() / 4
    width = 12 * VOCABULARY + 40 * (VOCABULARY if k == "dense" else k)
    own = [leaf.detach().requires_grad_() for leaf in leaves]
    found = losses.distillation(*own, weighted, objective, hard_tokens=5, soft_tokens=4, chunk_bytes=rows * width)
    assert found.total.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert torch.allclose(found.hard, weights * hard.detach(), rtol=1e-9)
    for grad, expected in zip(torch.autograd.grad(found.total, own), torch.autograd.grad(wanted, leaves), strict=True):
        assert torch.allclose(grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [None, 4, "dense"])
def test_weights_of_one_change_no_bit(k):
    labels, ones = torch.tensor([3, IGNORED, 5, 1, 0, 12]), torch.ones(POSITIONS)
    plain = Targets(labels) if k is None else targets_of(some_logits(2), k, labels)
    made = []
    for targets in (plain, plain._replace(weights=ones, soft_weights=ones)):
        hidden = some(0, POSITIONS, WIDTH).float().requires_grad_()
        loss = losses.distillation(hidden, some(1, VOCABULARY, WIDTH).float(), targets, Distill(alpha=0.3))
        loss.total.backward()
        made.append((*loss[:3], hidden.grad))
    assert all(torch.equal(*pair) for pair in zip(*made, strict=True))


# --- its parts ---


def test_without_a_teacher_it_is_the_labels_surprise_whatever_alpha_is():
    logits, labels = some_logits(0), torch.tensor([3, IGNORED, 5, IGNORED, 0, IGNORED])
    surprise = -logits.log_softmax(-1)[torch.arange(POSITIONS), labels.clamp(min=0)]
    expected = torch.where(labels == IGNORED, 0, surprise)
    found = loss_of(logits, Targets(labels), Distill(alpha=0.2), hard_tokens=3)
    assert torch.allclose(found.hard, expected)
    assert found.total.item() == pytest.approx(expected.sum().item() / 3)
    assert not found.soft.any()


def test_the_parts_are_those_of_each_position_and_carry_no_gradient():
    student = some_logits(1).requires_grad_()
    labels = torch.tensor([3, IGNORED, 5, IGNORED, 0, IGNORED])
    scored = torch.tensor([True, True, False, False, True, True])
    found = loss_of(student, targets_of(some_logits(0), 4, labels, scored), Distill(alpha=0.3))
    assert found.total.item() == pytest.approx((0.3 * found.hard + 0.7 * found.soft).sum().item())
    assert ((found.hard > 0) == (labels != IGNORED)).all()
    assert ((found.soft > 0) == scored).all()
    assert not found.hard.requires_grad
    assert not found.soft.requires_grad


@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
def test_positions_without_a_signal_need_no_ids_of_one(k):
    hidden, head, labels = some(0, POSITIONS, WIDTH), some(1, VOCABULARY, WIDTH), torch.arange(POSITIONS)
    scored = torch.tensor([True, False] * (POSITIONS // 2))
    whole = targets_of(some_logits(2), k, labels, scored)
    blank = whole._replace(top_ids=whole.top_ids * scored[:, None], top_logprobs=whole.top_logprobs * scored[:, None])
    found = [losses.distillation(hidden, head, targets, Distill(alpha=0.3)) for targets in (whole, blank)]
    assert all(torch.allclose(*pair, rtol=1e-12) for pair in zip(*(loss[:3] for loss in found), strict=True))


def test_nothing_to_score_is_zero_with_zero_gradients():
    hidden = some(0, 0, WIDTH).requires_grad_()
    loss = losses.distillation(hidden, some(1, VOCABULARY, WIDTH), Targets(torch.zeros(0, dtype=torch.long)), Distill())
    loss.total.backward()
    assert loss.total == 0
    assert hidden.grad.shape == (0, WIDTH)
