import pytest
import tiny
import torch
from transformers import DynamicCache

from response_priming.engines import cascade
from response_priming.errors import InputError


def states(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shared", [0, 7])
@pytest.mark.parametrize("tokens", [1, 3])
def test_shared_and_own_keys_together_are_plain_attention(shared, tokens):
    rows, heads, groups, size, own = 3, 2, 2, 8, 5
    query = states(rows, heads * groups, tokens, size)
    keys, values = ([states(1, heads, shared, size), states(rows, heads, own + n, size)[:, :, :own]] for n in (0, 1))
    mask = torch.zeros(rows, 1, tokens, own).masked_fill(torch.rand(rows, 1, tokens, own) < 0.4, -1e30)
    mask[..., 0] = 0
    pair = (keys[0] if shared else None, keys[1]), (values[0] if shared else None, values[1])
    found, maps = cascade.attend(torch.nn.Module(), query, *pair, mask)
    everywhere = (rows, -1, -1, -1)
    whole = [
        torch.cat([part[0].expand(everywhere), part[1]], 2).repeat_interleave(groups, 1) for part in (keys, values)
    ]
    bias = torch.cat([torch.zeros(rows, 1, tokens, shared), mask], -1)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, *whole, attn_mask=bias).transpose(1, 2)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose((maps @ whole[1]).transpose(1, 2), wanted, atol=1e-5)


def test_attention_that_is_not_plain_softmax_is_refused():
    keys = None, states(1, 2, 4, 8)
    with pytest.raises(InputError, match=r"^engine transformers: the attention of Module is not plain softmax"):
        cascade.attend(torch.nn.Module(), states(1, 2, 1, 8), keys, keys, torch.zeros(1, 1, 1, 4), softcap=50.0)


def test_a_model_with_it_computes_what_it_did_before():
    model, ids = tiny.llama(), torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.inference_mode():
        before = model(ids, attention_mask=mask).logits
        model.set_attn_implementation(cascade.CASCADE)
        after = model(ids, attention_mask=mask).logits
    assert torch.equal(before[mask.bool()], after[mask.bool()])


def test_a_moved_slot_answers_as_before():
    slots = cascade.Slots(DynamicCache(config=tiny.llama().config), 4, 6)
    slots.at(torch.arange(3), torch.arange(2).expand(3, -1))
    slots.update(states(3, 2, 2, 8), states(3, 2, 2, 8), 0)
    slots.move(2, 0)
    assert all(torch.equal(store[0], store[2]) for store in slots.own[0])
    assert not torch.equal(slots.own[0][0][0], slots.own[0][0][1])
