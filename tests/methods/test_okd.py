import pytest
import torch

from response_priming.methods.losses import IGNORED
from response_priming.methods.okd import OKD, teacher_parts
from response_priming.params.divergences import kl

PRIMED = {"strategy": "ground-truth", "worked_examples": 1}


def trained(model):
    return [weight for weight in model.parameters() if weight.requires_grad]


@pytest.fixture
def started(make_method):
    """A method and its student, the same ones each time."""

    def start(**parameters):
        method = make_method(OKD, PRIMED, **parameters)
        torch.manual_seed(0)
        model, _ = method.student()
        return method, model

    return start


def test_before_the_first_step_the_teacher_is_what_it_was(started, batch):
    teacher = started()[0].teacher
    asked = batch["problem_ids"], batch["labels"]
    with torch.no_grad():
        now = teacher.read(*asked).logprobs
        with teacher.model.disable_adapter():
            assert torch.equal(teacher.read(*asked).logprobs, now)


def test_a_teacher_that_is_trained_changes_no_bit_of_its_students_step(started, batch):
    made = []
    for parameters in ({}, OKD.controls["teacher-frozen"]):
        method, model = started(**parameters)
        loss = method.loss(model, batch, hard_tokens=15, soft_tokens=15)
        loss.total.backward()
        made.append([*loss[:3], *(weight.grad for weight in trained(model))])
        assert bool(trained(method.beside())) == (not parameters)
    assert all(torch.equal(*pair) for pair in zip(*made, strict=True))


def test_each_gets_the_gradient_of_its_own_loss_alone(started, batch):
    method, model = started()
    student = method._student(model, super(OKD, method).loss(model, batch, layers=(-1,)))
    method.loss(model, batch, hard_tokens=15, soft_tokens=15).total.backward()
    found = [weight.grad for weight in trained(method.beside())]
    hard, soft = teacher_parts(
        method.teacher.read(batch["problem_ids"], batch["labels"]).logprobs, student, batch["labels"]
    )
    own = hard.sum() / 15 + method.beta * soft.sum() / 15
    for weight, expected in zip(found, torch.autograd.grad(own, trained(method.beside())), strict=True):
        assert torch.allclose(weight, expected, atol=1e-6)
    assert any(weight.abs().max() > 0 for weight in found)
    both = [torch.randn(1, 2, 5).log_softmax(-1).requires_grad_() for _ in range(2)]
    parts = teacher_parts(*both, torch.tensor([[3, IGNORED]]))
    sum(part.sum() for part in parts).backward()
    assert both[1].grad is None
    assert not both[0].grad[0, 1].any()
    assert parts[1][0, 0].item() == pytest.approx(kl(both[1], both[0])[0, 0].item())


def test_a_step_of_the_teacher_brings_it_closer_to_the_student(started, batch):
    method, model = started()
    weights, gaps = trained(method.beside()), []
    with torch.no_grad():
        student = method._student(model, super(OKD, method).loss(model, batch, layers=(-1,)))
    for _ in range(2):
        reading = method.teacher.read(batch["problem_ids"], batch["labels"])
        gap = teacher_parts(reading.logprobs, student, batch["labels"])[1].sum()
        gaps.append(gap.item())
        for weight, grad in zip(weights, torch.autograd.grad(gap, weights), strict=True):
            weight.data -= 1e-4 * grad
    assert gaps[1] < gaps[0]


def test_the_mechanism_is_drift_from_where_it_began_and_gap_to_the_student(started, batch):
    method, model = started()
    with torch.no_grad():
        before = method.mechanism(model.eval(), [batch])
        for weight in trained(method.beside()):
            weight += 0.05
        after = method.mechanism(model, [batch])
    assert before["drift of teacher"] == 0 < after["drift of teacher"]
    assert before["gap"] != after["gap"] > 0
    assert method.spent == {}
