import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from response_priming import losses

VOCABULARY = 11
NAMES = list(losses.DIVERGENCES)
TEMPERATURES = [0.5, 1.0, 5.942267335064758, 10.0]


def some_logits(seed, scale=2.0, shape=(2, 3, VOCABULARY)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signal(teacher, k):
    """The k most likely tokens of dense logits, as the response store holds them, but in fp32."""
    top = teacher.log_softmax(-1).topk(k)
    return top.indices, top.values.float()


def soft(teacher, student, k=VOCABULARY, *, divergence="forward-kl", temperature=1.0, mask=None):
    mask = torch.ones(student.shape[:2], dtype=torch.bool) if mask is None else mask
    ids, logprobs = signal(teacher, k)
    return losses.soft_loss(student.float(), ids, logprobs, mask, divergence=divergence, temperature=temperature)


def reference(p, q, divergence):
    """Divergences of probabilities in float64, term by term."""
    mixture = (p + q) / 2
    terms = {
        "forward-kl": p * (p / q).log(),
        "reverse-kl": q * (q / p).log(),
        "jsd": (p * (p / mixture).log() + q * (q / mixture).log()) / 2,
    }
    return terms[divergence].sum().item()


def dense(teacher, student, divergence, temperature):
    p, q = ((logits / temperature).softmax(-1) for logits in (teacher, student))
    return temperature**2 * reference(p, q, divergence)


# --- divergences ---


@pytest.mark.parametrize("divergence", NAMES)
def test_identical_distributions_do_not_diverge(divergence):
    logprobs = some_logits(0).log_softmax(-1)
    assert losses.DIVERGENCES[divergence](logprobs, logprobs).abs().max() < 1e-12


@pytest.mark.parametrize("divergence", NAMES)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 30))
@settings(max_examples=20, deadline=None)
def test_divergences_agree_with_their_definitions(divergence, seed, scale):
    p, q = (some_logits(number, scale).softmax(-1) for number in (seed, seed + 1000))
    found = losses.DIVERGENCES[divergence](p.log(), q.log()).sum().item()
    assert found == pytest.approx(reference(p, q, divergence), rel=1e-5, abs=1e-9)
    assert found > 0


def test_reverse_is_forward_with_its_arguments_swapped():
    teacher, student = (some_logits(seed).log_softmax(-1) for seed in (0, 1))
    assert torch.equal(losses.reverse_kl(teacher, student), losses.forward_kl(student, teacher))
    assert not torch.allclose(losses.reverse_kl(teacher, student), losses.forward_kl(teacher, student), rtol=0.01)


@given(seed=st.integers(0, 999), scale=st.floats(0.1, 100))
@settings(max_examples=20, deadline=None)
def test_jsd_is_symmetric_and_at_most_log_two(seed, scale):
    teacher, student = (some_logits(number, scale).log_softmax(-1) for number in (seed, seed + 1000))
    found = losses.jsd(teacher, student)
    assert torch.allclose(found, losses.jsd(student, teacher), rtol=1e-9, atol=1e-12)
    assert found.max() <= math.log(2) + 1e-6


# --- the soft loss ---


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("divergence", NAMES)
def test_the_whole_vocabulary_is_the_dense_loss(divergence, temperature):
    teacher, student = some_logits(0), some_logits(1)
    found = soft(teacher, student, divergence=divergence, temperature=temperature).item()
    assert found == pytest.approx(dense(teacher, student, divergence, temperature), rel=1e-5)


@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1])
def test_the_rest_of_the_vocabulary_is_one_bucket(divergence, k):
    teacher, student = some_logits(0), some_logits(1)
    ids = signal(teacher, k)[0]
    lumped = []
    for logits in (teacher, student):
        kept = logits.softmax(-1).gather(-1, ids)
        lumped.append(torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1))
    found = soft(teacher, student, k, divergence=divergence).item()
    assert found == pytest.approx(reference(*lumped, divergence), rel=1e-5)


@pytest.mark.parametrize("k", [3, VOCABULARY])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("divergence", NAMES)
def test_a_student_like_its_teacher_has_no_soft_loss(divergence, temperature, k):
    teacher = some_logits(0)
    found = soft(teacher, teacher, k, divergence=divergence, temperature=temperature).item()
    assert abs(found) < 1e-5 * temperature**2


def test_lumping_tokens_together_never_raises_the_divergence():
    teacher, student = some_logits(0), some_logits(1)
    found = [soft(teacher, student, k).item() for k in range(1, VOCABULARY + 1)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_temperature_keeps_the_gradients_size():
    teacher, student = some_logits(0, 0.1), some_logits(1, 0.1)
    found = [soft(teacher, student, temperature=temperature).item() for temperature in (1, 10, 100)]
    assert found[1:] == pytest.approx([found[0]] * 2, rel=0.1)


def test_positions_outside_the_mask_do_not_count():
    teacher, student = some_logits(0), some_logits(1)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    parts = [soft(teacher[r : r + 1, c : c + 1], student[r : r + 1, c : c + 1]) for r, c in mask.nonzero().tolist()]
    assert soft(teacher, student, mask=mask).item() == pytest.approx(sum(parts).item(), rel=1e-5)


@pytest.mark.parametrize("k", [4, VOCABULARY])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("certain", ["teacher", "student", "both"])
def test_gradients_are_finite_where_all_probability_is_on_one_token(certain, divergence, temperature, k):
    teacher = some_logits(0, 1000 if certain in ("teacher", "both") else 1)
    student = some_logits(1, 1000 if certain in ("student", "both") else 1).float().requires_grad_()
    loss = soft(teacher, student, k, divergence=divergence, temperature=temperature)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("divergence", NAMES)
def test_a_step_against_the_gradient_brings_the_student_closer(divergence):
    teacher, student = some_logits(0), some_logits(1).float().requires_grad_()
    loss = soft(teacher, student, 4, divergence=divergence)
    loss.backward()
    assert soft(teacher, (student - 0.1 * student.grad).detach(), 4, divergence=divergence) < loss


# --- the hard loss ---


def test_the_hard_loss_is_the_labels_surprise_and_leaves_ignored_ones_out():
    logits = some_logits(0)
    labels = torch.tensor([[3, losses.IGNORED, 5], [losses.IGNORED, 0, losses.IGNORED]])
    surprise = -logits.log_softmax(-1)
    expected = surprise[0, 0, 3] + surprise[0, 2, 5] + surprise[1, 1, 0]
    assert losses.hard_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_to_score_is_zero():
    assert losses.hard_loss(some_logits(0), torch.full((2, 3), losses.IGNORED)) == 0
