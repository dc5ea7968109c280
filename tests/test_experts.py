"""Layers cut into experts, and the models that have them."""

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from response_priming import experts, models
from response_priming.engines.transformers import TransformersEngine
from response_priming.errors import InputError
from response_priming.methods import packing

UNITS, COUNT, WIDTH = 64, 4, 20
TEXTS = torch.tensor([[5, 6, 7, 8, 9, 20], [5, 6, 1, 7, 30, 40], [5, 6, 9, 8, 7, 1]])


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def cut(model, count=COUNT):
    """The model with random units in random experts, other ones in each layer."""
    units = [
        torch.stack([torch.randperm(UNITS, generator=drawn(10 * layer + e))[:WIDTH] for e in range(count)])
        for layer in range(tiny.LAYERS)
    ]
    tables = [torch.randint(count, (len(tiny.VOCABULARY),), generator=drawn(layer)) for layer in range(tiny.LAYERS)]
    experts.cut(model, units, tables)
    return model


@pytest.fixture
def model():
    return cut(tiny.llama())


@pytest.fixture
def dense():
    """A layer in double precision, and hidden states that it reads."""
    return tiny.llama().double().model.layers[0].mlp, torch.randn(3, 6, 32, generator=drawn(0), dtype=torch.float64)


def test_one_expert_of_all_units_in_any_order_is_the_dense_layer(dense):
    layer, hidden = dense
    made = experts.Experts(layer, torch.randperm(UNITS, generator=drawn(1))[None], torch.zeros(300))
    made.tokens = TEXTS
    assert torch.allclose(made(hidden), layer(hidden), rtol=0, atol=1e-12)


def test_experts_that_share_out_the_units_sum_up_to_the_dense_layer(dense):
    layer, hidden = dense
    parts = torch.randperm(UNITS, generator=drawn(1)).view(4, 16)
    summed = sum(expert(hidden) for expert in experts.Experts(layer, parts, torch.zeros(300)).experts)
    assert torch.allclose(summed, layer(hidden), rtol=0, atol=1e-12)


def test_a_tokens_expert_is_that_of_its_id_whatever_stands_beside_it(dense):
    layer, hidden = dense
    table = torch.randint(COUNT, (300,), generator=drawn(2))
    made = experts.Experts(layer, torch.randperm(UNITS, generator=drawn(1))[: 4 * 12].view(4, 12), table)
    made.tokens = TEXTS
    found = made(hidden)
    for row, column in ((0, 0), (1, 4), (2, 5)):
        own = made.experts[int(table[TEXTS[row, column]])]
        assert torch.allclose(found[row, column], own(hidden[row, column]), rtol=0, atol=1e-12)
    order = torch.randperm(TEXTS.numel(), generator=drawn(3))
    made.tokens = TEXTS.flatten()[order].view_as(TEXTS)
    mixed = made(hidden.flatten(0, 1)[order].view_as(hidden))
    assert torch.allclose(mixed.flatten(0, 1), found.flatten(0, 1)[order], rtol=0, atol=1e-12)
    made.tokens = TEXTS[:, :1]  # one token alone, with experts that read none
    assert torch.allclose(made(hidden[:, :1]), found[:, :1], rtol=0, atol=1e-12)


def test_a_batch_in_another_order_gives_the_same_logits(model):
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        assert torch.allclose(model(TEXTS[order]).logits, model(TEXTS).logits[order], atol=1e-4)


def test_experts_learn_apart_and_units_that_they_share_are_copies(dense):
    layer, hidden = dense
    made = experts.Experts(layer, torch.arange(8)[None].repeat(2, 1), torch.arange(300) % 2)
    made.tokens = torch.full_like(TEXTS, 6)
    made(hidden).square().sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in made.experts[0].parameters())
    assert not any(weight.grad.any() for weight in made.experts[1].parameters())
    assert layer.gate_proj.weight.grad is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_model_is_loaded_again_with_the_same_logits(model, tmp_path, dtype):
    folder = str(tiny.save_model(tmp_path, model))
    loaded, _ = models.load(folder, dtype=dtype, device="cpu")
    kept = {name: value.to(loaded.state_dict()[name].dtype) for name, value in model.state_dict().items()}
    assert kept.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in kept.items())
    assert {value.dtype for name, value in kept.items()} == {getattr(torch, dtype), torch.uint8}
    again, _ = models.load(str(tiny.save_model(tmp_path / "again", loaded)), dtype=dtype, device="cpu")
    with torch.no_grad():
        assert torch.equal(again(TEXTS).logits, loaded(TEXTS).logits)
        assert dtype != "float32" or torch.equal(loaded(TEXTS).logits, model(TEXTS).logits)
    assert experts.shape(again.config) == {"count": COUNT, "width": WIDTH}
    assert models.skeleton(folder).num_parameters() == model.num_parameters()


def test_it_decodes_with_a_cache_as_without(model):
    cached, anew = (model.generate(TEXTS, max_new_tokens=8, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, anew)
    engine = TransformersEngine(model, tiny.tokenizer(), batch=2)
    prompts = [row.tolist() for row in TEXTS]
    given = dict(engine.respond(prompts, max_tokens=8))
    for row, wanted in enumerate(anew[:, TEXTS.shape[1] :].tolist()):
        assert given[row].tokens == wanted[: len(given[row].tokens)]
        assert len(given[row].tokens) == 8 or given[row].finished


def test_it_is_read_packed_as_padded(model):
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]])
    with torch.no_grad():
        expected = model.model(input_ids=TEXTS, attention_mask=mask).last_hidden_state
        assert packing.can_pack(model)
        layout = packing.pack(TEXTS, mask)
        found = packing.read_packed(model.model, TEXTS, layout)[layout.places]
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], atol=1e-4)


def test_embeddings_without_their_tokens_are_refused(model):
    with pytest.raises(InputError, match=r"^a model with experts reads token ids, and was given embeddings"):
        model(inputs_embeds=torch.zeros(1, 2, 32))


@pytest.mark.parametrize("make", [lambda: cut(tiny.llama()), lambda: GPT2LMHeadModel(GPT2Config(n_layer=1))])
def test_a_model_without_dense_gated_layers_is_refused_in_one_line(make):
    problem = "^model.student: .*LMHeadModel|LlamaForCausalLM has no dense gated feed-forward layers; allowed: a model"
    with pytest.raises(InputError, match=problem):
        experts.gated(make())
