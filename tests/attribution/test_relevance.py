"""Relevance on models whose answer is known by construction, and what its hooks leave of a model: nothing."""

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from response_priming.attribution import attributions, relevance
from response_priming.errors import InputError

IDS = torch.arange(1, 30)[None]
ANSWER = torch.tensor([[40, 50]])


@pytest.fixture
def model():
    return tiny.llama().requires_grad_(False)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def sum_of_logits(model):
    after = logits(model, torch.cat([IDS, ANSWER], dim=1))[:, -3:-1]
    return float(after.gather(-1, ANSWER[..., None]).sum())


def adapted(model):
    torch.manual_seed(1)
    found = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    return found.requires_grad_(False)


@pytest.mark.parametrize("made", [lambda model: model, adapted], ids=["plain", "adapted"])
def test_conservative_relevance_adds_up_to_the_logits_and_the_others_do_not(model, made):
    model = made(model)
    found, gap = relevance.propagate(model, IDS, ANSWER, "relevance-cp")
    assert found.shape == (31,)
    assert found.sum() == pytest.approx(sum_of_logits(model), abs=1e-5)
    assert gap < 1e-5
    for method in ("relevance", "input-gradient"):
        found, gap = relevance.propagate(model, IDS, ANSWER, method)
        assert gap == pytest.approx(abs(found.sum() / sum_of_logits(model) - 1), abs=1e-5)


@pytest.mark.parametrize("method", relevance.RULES)
def test_logits_are_the_same_inside_and_to_the_bit_afterwards(model, method):
    before, weights = logits(model), [weight.data_ptr() for weight in model.parameters()]
    with relevance.following(model, relevance.RULES[method]):
        torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    assert torch.equal(logits(model), before)
    assert [weight.data_ptr() for weight in model.parameters()] == weights
    assert not [one for module in model.modules() for one in (*module._forward_hooks, *module._forward_pre_hooks)]


def test_an_exception_inside_leaves_nothing_behind_and_no_other_model_is_touched(model):
    model.bfloat16()
    other, before = tiny.llama(), [weight.clone() for weight in model.parameters()]
    gradients = [other(IDS).logits.sum()]

    def fail():
        with relevance.following(model, relevance.RULES["relevance-cp"]):
            gradients.append(other(IDS).logits.sum())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    one, two = (torch.autograd.grad(value, other.model.embed_tokens.weight)[0] for value in gradients)
    assert torch.equal(one, two)
    # bf16 is not computed in: some CPUs emulate it.
    assert all(torch.equal(*both) for both in zip(model.parameters(), before, strict=True))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not [one for module in model.modules() for one in (*module._forward_hooks, *module._forward_pre_hooks)]


def test_a_model_in_bf16_is_computed_in_float32_so_that_relevance_adds_up(model):
    model.bfloat16()
    found, gap = relevance.propagate(model, IDS, ANSWER, "relevance-cp")
    assert gap < 1e-5
    assert np.array_equal(found, relevance.propagate(tiny.llama().bfloat16().float(), IDS, ANSWER, "relevance-cp")[0])
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("method", relevance.RULES)
def test_attention_keeps_its_mask_inside(model, method):
    later = torch.cat([IDS[:, :20], 100 + IDS[:, 20:]], dim=1)
    with relevance.following(model, relevance.RULES[method]):
        torch.testing.assert_close(logits(model)[:, :20], logits(model, later)[:, :20], rtol=0, atol=1e-5)
    # Nothing comes from the explained token itself, which is read after it was foretold.
    assert relevance.propagate(model, IDS, ANSWER, method)[0][-1] == 0


@pytest.mark.parametrize("method", ["relevance", "relevance-cp"])
def test_of_a_linear_model_relevance_is_weight_times_input(model, method):
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    found, _ = relevance.propagate(model, IDS, ANSWER[:, :1], method)
    inputs = model.get_input_embeddings()(IDS[0, -1])
    constant = torch.rsqrt(inputs.square().mean() + model.config.rms_norm_eps)
    parts = model.lm_head.weight[40] * constant * inputs
    assert found[28] == pytest.approx(float(parts.sum()), rel=1e-5)
    assert not found[:28].any()


def reader(place=5):
    """A model whose answer, token 40, hangs on one feature, and that only the token at one place has."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 60}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1)).eval()
    layer = model.model.layers[0]
    with torch.no_grad():
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.down_proj):
            part.weight.zero_()  # so attention is even
        torch.nn.init.eye_(layer.self_attn.v_proj.weight)
        torch.nn.init.eye_(layer.self_attn.o_proj.weight)
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[:, 1:].normal_(generator=torch.Generator().manual_seed(0))
        model.model.embed_tokens.weight[int(IDS[0, place]), 0] = 20.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[40, 0] = 30.0
    return model.requires_grad_(False)


@pytest.mark.parametrize("method", ["relevance", "relevance-cp"])
def test_what_a_planted_model_reads_is_first_and_deleting_it_hurts_more_than_chance(method):
    model = reader()
    explainer = attributions.Explainer(model, [40], 59)
    found = relevance.propagate(model, IDS, explainer.response, method)[0][:-1]
    assert found.argmax() == 5
    assert np.abs(np.delete(found, 5)).max() < 1e-3 * found[5]
    deletion = explainer.curves(IDS, {method: found}, 20, np.random.default_rng(0)).assign(problem="a")
    curves = deletion.pivot_table(index="fraction", columns="order", values="logprob").loc[0.05:0.4]
    assert (curves[method] < curves["random"]).all()
    assert attributions.areas(deletion, ["problem"])[method].item() > 0.1


def test_a_model_without_the_modules_is_refused_in_one_line():
    other = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=60))
    with (
        pytest.raises(InputError, match=r"^model GPT2LMHeadModel: 2 layers with 0 attentions of q_proj.* as Llama$"),
        relevance.following(other, relevance.RULES["relevance"]),
    ):
        pass
