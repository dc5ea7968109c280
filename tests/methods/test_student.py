import pytest
import tiny
import torch
from peft import PeftModel
from torch import nn

from response_priming.errors import InputError
from response_priming.methods import student
from response_priming.methods.losses import IGNORED
from response_priming.params import sections
from response_priming.params.divergences import DIVERGENCES


@pytest.fixture
def run(make_run):
    return make_run("distill", arm="none")


def changed(run, **values):
    return type(run).model_validate(run.model_dump() | values)


BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 1, 0, 0]]),
    "positions": torch.tensor([[2, 3], [1, 0]]),
    "labels": torch.tensor([[8, 0], [4, IGNORED]]),
    "objective": sections.Distill(),
}


def trained_weights(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_the_forward_pass_scores_the_positions_that_a_batch_names():
    model = tiny.llama()
    logprobs = model(BATCH["input_ids"]).logits.log_softmax(-1)
    expected = -torch.stack([logprobs[0, 2, 8], logprobs[0, 3, 0], logprobs[1, 1, 4], torch.tensor(0.0)])
    student.teach(model)
    found = model(**BATCH)
    assert torch.allclose(found.hard.flatten(), expected, atol=1e-5)
    assert found.total.item() == pytest.approx(expected.sum().item(), rel=1e-5)


@pytest.mark.parametrize("k", [1, 9, 257, "dense"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_outputs_without_a_token_are_in_no_loss(divergence, k):
    generator = torch.Generator().manual_seed(3)
    teacher = torch.randn(2, 2, 257, generator=generator).log_softmax(-1)
    signal = {"top_logprobs": teacher, "scored": torch.tensor([[True, True], [True, False]])}
    if k != "dense":
        top = teacher.topk(k)
        tail = teacher.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
        signal |= {"top_ids": top.indices, "top_logprobs": top.values, "tail_logprobs": tail}
    batch = BATCH | signal | {"objective": sections.Distill(alpha=0.4, divergence=divergence, kd_temperature=2)}
    found = []
    for model in (tiny.llama(), tiny.padded_llama()):
        student.teach(model, len(tiny.VOCABULARY))
        loss = model(**batch)
        loss.total.backward()
        found.append((loss, [weight.grad for weight in model.parameters()]))
    (wanted, grads), (loss, padded) = found
    assert all(torch.allclose(*both, atol=1e-6) for both in zip(loss[:3], wanted[:3], strict=True))
    for grad, wider in zip(grads, padded, strict=True):
        assert torch.allclose(wider[: len(grad)], grad, atol=1e-5)
        assert not wider[len(grad) :].any()


def test_without_an_objective_the_forward_pass_and_decoding_are_as_before():
    plain, taught = tiny.llama(), tiny.llama()
    student.teach(taught)
    tokens = BATCH["input_ids"][:1]
    assert torch.equal(taught(tokens).logits, plain(tokens).logits)
    assert torch.equal(taught.generate(tokens, max_new_tokens=4), plain.generate(tokens, max_new_tokens=4))


def test_padding_on_the_right_changes_nothing():
    model = tiny.llama()
    student.teach(model)
    row = {"input_ids": BATCH["input_ids"][1:, :2], "positions": torch.tensor([[1]]), "labels": torch.tensor([[4]])}
    alone = BATCH | row
    assert model(**alone).hard[0, 0].item() == pytest.approx(model(**BATCH).hard[1, 0].item(), rel=1e-5)


def test_a_model_that_caps_its_logits_is_refused():
    class Capped(nn.Linear):
        def forward(self, hidden):
            return 30 * torch.tanh(super().forward(hidden) / 30)

    model = tiny.llama()
    head = Capped(32, len(tiny.VOCABULARY), bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    with pytest.raises(InputError, match=r"^model.student: LlamaForCausalLM scales, caps or shifts its logits"):
        student.teach(model)


def test_lora_trains_the_adapter_alone(run):
    model, _ = student.load(run)
    assert isinstance(model, PeftModel)
    assert all("lora_" in name for name in trained_weights(model))
    assert {name.split(".")[-4] for name in trained_weights(model)} == set(run.lora_targets)


def test_full_trains_every_weight_in_fp32(run):
    model, _ = student.load(changed(run, adapter="full", dtype="bfloat16"))
    assert trained_weights(model) == {name for name, _ in tiny.llama().named_parameters()}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("target", ["query", "lm_head"])
def test_a_layer_that_the_model_lacks_is_refused_with_those_it_has(run, target):
    wanted = changed(run, lora_targets=["q_proj", target])
    problem = (
        rf"^distill.lora_targets = \['{target}'\]: {run.student} has no such layers; it has \['down_proj'.*'q_proj'"
    )
    with pytest.raises(InputError, match=problem):
        student.lora_config(wanted, tiny.llama())


def test_gradients_flow_through_quantised_weights_also_after_an_evaluation(run):
    pytest.importorskip("bitsandbytes")
    model, _ = student.load(changed(run, adapter="qlora"))
    assert "Linear4bit" in {type(module).__name__ for module in model.modules()}
    norms = []
    for _ in range(2):
        model.train()
        model(**BATCH).total.backward()
        norms.append(sum(weight.grad.norm().item() for name, weight in model.named_parameters() if "lora_B" in name))
        model.zero_grad()
        model.eval()
        with torch.no_grad():
            model(**BATCH)
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
