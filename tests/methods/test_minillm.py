import itertools
import math

import pytest
import tiny
import torch

from response_priming import prompts
from response_priming.methods import rollouts
from response_priming.methods.losses import IGNORED, Targets, distillation
from response_priming.methods.minillm import MiniLLM, to_come
from response_priming.methods.on_policy_priming import OnPolicyPriming
from response_priming.params.sections import Distill

# --- the estimator, against all texts that there are ---

TOKENS, LENGTH, END = 3, 3, 0
TEXTS = [
    text
    for length in range(1, LENGTH + 1)
    for text in itertools.product(range(TOKENS), repeat=length)
    if END not in text[:-1] and (text[-1] == END or length == LENGTH)
]
CONTEXTS = {text: place for place, text in enumerate(sorted({text[:n] for text in TEXTS for n in range(len(text))}))}
OBJECTIVE = Distill(alpha=0.5, divergence="reverse-kl")


def some_logits(seed):
    """One distribution over the next token for each beginning of a text."""
    return torch.randn(len(CONTEXTS), TOKENS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def contexts(text):
    return torch.tensor([CONTEXTS[text[:place]] for place in range(len(text))])


def logprob(logits, text):
    """Of each token of a text, [tokens]."""
    return logits.log_softmax(-1)[contexts(text), torch.tensor(text)]


def estimate(student, teacher, *, share=0.0):
    """The gradient that all texts give together, each weighed by how probable it is to be drawn."""
    p, q = teacher.log_softmax(-1), student.detach().log_softmax(-1)
    drawn = (share * p.exp() + (1 - share) * q.exp()).log()
    total = 0.0
    for text in TEXTS:
        padding = LENGTH - len(text)
        labels = torch.tensor([*text, *[IGNORED] * padding])
        said, given = (
            torch.nn.functional.pad(logprob(logits, text), (0, padding))[None] for logits in (teacher, student.detach())
        )
        weights = to_come(said - given, (labels != IGNORED)[None], normalised=False)
        soft_weights = torch.ones_like(weights)
        if share:
            soft_weights, whole = rollouts.importance(said, given, share)
            weights = weights * whole
        places = torch.nn.functional.pad(contexts(text), (0, padding))
        targets = Targets(labels, labels != IGNORED, p[places], weights=weights[0], soft_weights=soft_weights[0])
        loss = distillation(student[places], torch.eye(TOKENS, dtype=torch.float64), targets, OBJECTIVE)
        total = total + logprob(drawn, text).sum().exp() * loss.total / OBJECTIVE.alpha
    return torch.autograd.grad(total, student)[0]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_over_all_texts_the_gradient_is_that_of_reverse_kl_over_texts(seed, share):
    student, teacher = some_logits(seed).requires_grad_(), some_logits(seed + 100)
    own, other = (torch.stack([logprob(logits, text).sum() for text in TEXTS]) for logits in (student, teacher))
    wanted = torch.autograd.grad((own.exp() * (own - other)).sum(), student)[0]
    assert own.exp().sum().item() == pytest.approx(1)
    assert (estimate(student, teacher, share=share) - wanted).abs().max() < 1e-10


def test_a_text_of_one_token_has_reverse_kl_alone():
    rewards, counted = torch.tensor([[-0.7, 0.0, 0.0]]), torch.tensor([[True, False, False]])
    for normalised in (True, False):
        assert not to_come(rewards, counted, normalised=normalised).any()


def test_what_is_to_come_is_of_later_tokens_alone_and_normalised_their_mean():
    rewards = torch.tensor([[1.0, 2.0, 4.0, 0.0], [8.0, 16.0, 32.0, 64.0]])
    counted = torch.tensor([[True, True, True, False], [True] * 4])
    assert to_come(rewards, counted, normalised=False).tolist() == [[6, 4, 0, 0], [112, 96, 64, 0]]
    means = to_come(rewards, counted, normalised=True)
    assert torch.allclose(means, torch.tensor([[3.0, 4, 0, 0], [112 / 3, 48, 64, 0]]))


def test_weights_of_importance_are_products_over_the_answer():
    p, q, share = torch.tensor([[0.5, 0.1]]), torch.tensor([[0.25, 0.4]]), 0.2
    first, second = (0.25 / (0.2 * 0.5 + 0.8 * 0.25)), (0.4 / (0.2 * 0.1 + 0.8 * 0.4))
    step, whole = rollouts.importance(p.log(), q.log(), share)
    assert step.tolist()[0] == pytest.approx([1, first])
    assert whole.item() == pytest.approx(first * second)
    assert max(step.max().item(), whole.max().item()) < math.pow(1 / (1 - share), 2)


# --- on the tiny model ---


def trained(model):
    return [weight for weight in model.parameters() if weight.requires_grad]


def row_of(batch, row):
    return {key: value[row : row + 1] for key, value in batch.items()}


@pytest.fixture
def started(make_method):
    """A method and its student in training."""

    def start(live=None, kind=MiniLLM, **parameters):
        method = make_method(kind, live, **parameters)
        torch.manual_seed(0)
        return method, method.student()[0].train()

    return start


@torch.no_grad()
def sampled(method, model, batch, **at):
    return method.batch(model, batch, **{"seed": 0, "step": 0, "item": 0} | at)


@pytest.mark.parametrize("mix", [0.0, 0.2])
def test_a_student_like_its_teacher_gets_no_gradient_from_any_sample(started, batch, mix):
    method, model = started(data=0.0, mix=mix)
    model.double()
    method.teacher.model.double()
    made = sampled(method, model, batch)
    assert made["sampled"].all()
    for row in range(3):
        loss = method.loss(model, row_of(made, row))
        assert not loss.hard.abs().max() > 1e-12
        gradients = torch.autograd.grad(loss.total, trained(model))
        assert max(gradient.abs().max().item() for gradient in gradients) < 1e-12


def test_samples_take_every_other_place_of_a_step_whatever_its_micro_batches(started, batch):
    method, model = started()
    whole = sampled(method, model, batch, step=3)
    assert whole["sampled"].tolist() == [True, False, True]
    for row in range(3):
        alone = sampled(method, model, row_of(batch, row), step=3, item=row)
        n = (alone["labels"] != IGNORED).sum()
        assert alone["sampled"].item() == whole["sampled"][row]
        assert torch.equal(alone["labels"][0, :n], whole["labels"][row, :n])
        assert torch.allclose(alone["given"][0, :n], whole["given"][row, :n], atol=1e-5)
    assert model.training
    other = sampled(method, model, batch, step=4)
    assert other["labels"].shape != whole["labels"].shape or not torch.equal(other["labels"], whole["labels"])


def test_what_is_given_is_the_students_log_probability_of_each_token(started, batch):
    method, model = started(data=0.0)
    made = sampled(method, model, batch)
    for row in range(3):
        ids, n = made["input_ids"][row : row + 1], (made["labels"][row] != IGNORED).sum()
        with torch.no_grad():
            logprobs = tiny.llama()(ids).logits[0].log_softmax(-1)
        expected = logprobs[made["positions"][row, :n], made["labels"][row, :n]]
        assert torch.allclose(made["given"][row, :n], expected, atol=1e-4)
        assert not made["given"][row, n:].any()


def test_the_loss_is_reverse_kl_and_the_weighted_surprise(started, batch):
    live = {"strategy": "ground-truth", "worked_examples": 1}
    method, model = started(live, data=0.0, mix=0.0)
    made = sampled(method, model, batch)
    loss = method.loss(model, made, hard_tokens=7, soft_tokens=7)
    teacher, labels = method.teacher.read(made["problem_ids"], made["labels"]).logprobs, made["labels"]
    real = labels != IGNORED
    said = torch.where(real, teacher.gather(-1, labels.clamp(min=0)[..., None])[..., 0], 0)
    weights = to_come(said - made["given"], real, normalised=True)
    assert torch.allclose(loss.hard, torch.where(real, -weights * made["given"], 0), atol=1e-3)
    assert loss.total.item() == pytest.approx(0.5 * (loss.hard.sum() + loss.soft.sum()).item() / 7, rel=1e-5)
    # Without the long part, and with its sign reversed.
    found = [
        started(live, data=0.0, mix=0.0, **MiniLLM.controls[name])[0].loss(model, made)
        for name in ("no-long-part", "reversed-reward")
    ]
    assert not found[0].hard.any()
    assert torch.allclose(found[1].hard, -loss.hard, atol=1e-5)
    assert all(torch.allclose(one.soft, loss.soft, atol=1e-5) for one in found)


def test_the_teachers_texts_are_those_of_the_store(started, batch):
    method, model = started(**MiniLLM.controls["teacher-texts"])
    made = sampled(method, model, batch)
    assert torch.equal(made["labels"], batch["labels"])
    assert torch.equal(made["input_ids"], batch["input_ids"])
    loss = method.loss(model, made)
    assert torch.allclose(loss.hard, super(MiniLLM, method).loss(model, batch).hard, atol=1e-5)


def test_weights_of_importance_are_clipped_and_counted(started, batch):
    live = {"strategy": "ground-truth", "worked_examples": 1}
    method, model = started(live, data=0.0, mix=0.9, clip=1.0)
    made = sampled(method, model, batch)
    method.loss(model, made)
    teacher, labels = method.teacher.read(made["problem_ids"], made["labels"]).logprobs, made["labels"]
    real = labels != IGNORED
    said = torch.where(real, teacher.gather(-1, labels.clamp(min=0)[..., None])[..., 0], 0)
    step, _ = rollouts.importance(said, made["given"], 0.9)
    assert method.spent["clipped_weights"] == ((step > 1) & real).sum()


def test_the_mechanism_is_of_own_samples(started, batch):
    method, model = started({"strategy": "ground-truth"}, data=0.0)
    with torch.no_grad():
        found = method.mechanism(model, [batch])
    assert found["KL to teacher"] > 0
    assert 1 <= found["tokens"] <= 6
    assert 0 <= found["repeated pairs"] < 1
    assert found == method.mechanism(model, [batch])


# --- on-policy priming ---


def test_the_student_reads_the_bare_question_and_the_teacher_the_primed_one(started, batch):
    method, model = started(kind=OnPolicyPriming)
    texts = [tiny.tokenizer().decode(prompt) for prompt in method.teacher.prompts(batch["problem_ids"])]
    assert all(prompts.prefix_of("ground-truth") in text for text in texts)
    made = sampled(method, model, batch)
    for row in range(3):
        assert rollouts.question(made, row) == rollouts.question(batch, row)


@pytest.mark.parametrize("control", OnPolicyPriming.controls)
def test_controls_change_what_the_teacher_reads_and_not_the_texts(started, batch, control):
    made, read = [], []
    for changed in ({}, OnPolicyPriming.controls[control]):
        method, model = started(kind=OnPolicyPriming, **changed)
        made.append(sampled(method, model, batch)["labels"])
        read.append(method.teacher.prompts(batch["problem_ids"]))
    assert torch.equal(*made)
    assert read[0] != read[1]
