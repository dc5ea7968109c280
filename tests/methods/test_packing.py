"""A packed batch gives what the padded one gives, with fewer tokens."""

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from response_priming.methods import losses, packing, student
from response_priming.params import sections

OBJECTIVE = sections.Distill()
BATCHES = {
    "a shared beginning": [[5, 6, 7, 8, 9], [5, 6, 1], [5, 6, 3, 2]],
    "nothing shared": [[5, 6, 7], [8, 6, 7], [9, 1]],
    "one inside the other": [[5, 6, 7], [5, 6, 7, 8], [5]],
    "twice the same": [[5, 6, 7], [5, 6, 7]],
    "one sequence": [[5, 6, 7, 8]],
}


def padded(rows):
    """Tokens and mask; padding is the token that the rows begin with, which must not count as shared."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [rows[0][0]] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


@pytest.fixture(params=BATCHES, ids=BATCHES)
def batch(request):
    return padded(BATCHES[request.param])


def test_shared_tokens_stand_once_and_padding_nowhere(batch):
    ids, mask = batch
    layout = packing.pack(ids, mask)
    packed = ids.flatten()[layout.kept]
    assert torch.equal(packed[layout.places][mask.bool()], ids[mask.bool()])
    rows = [tuple(row[real.bool()].tolist()) for row, real in zip(ids, mask, strict=True)]
    shared = next((n for n in range(min(map(len, rows)), 0, -1) if len({row[:n] for row in rows}) == 1), 0)
    assert len(packed) == sum(map(len, rows)) - shared * (len(rows) - 1)


def test_hidden_states_and_gradients_are_those_of_the_padded_batch(batch):
    ids, mask = batch
    plain, packs = tiny.llama(), tiny.llama()
    assert packing.can_pack(packs)
    expected = plain.model(input_ids=ids, attention_mask=mask).last_hidden_state
    layout = packing.pack(ids, mask)
    found = packing.read_packed(packs.model, ids, layout)[layout.places]
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], atol=1e-5)
    for hidden in (expected, found):
        hidden[mask.bool()].pow(2).sum().backward()
    for (name, one), other in zip(plain.model.named_parameters(), packs.model.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-4), name


def test_the_objective_is_the_same_packed_and_padded(batch, monkeypatch):
    ids, mask = batch
    wanted = {"positions": mask.cumsum(1) - 1, "labels": torch.where(mask.bool(), ids, losses.IGNORED)}
    parts = []
    for packed in (True, False):
        model = tiny.llama()
        if not packed:
            monkeypatch.setattr(student, "can_pack", lambda _: False)
        student.teach(model)
        parts.append(model(input_ids=ids, attention_mask=mask, **wanted, objective=OBJECTIVE).hard)
    assert torch.allclose(*parts, atol=1e-5)
    assert (parts[0][mask.bool()] > 0).all()


def mistral(window):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    return MistralForCausalLM(MistralConfig(vocab_size=32, num_hidden_layers=1, sliding_window=window, **sizes)).eval()


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)).eval()


def test_a_model_that_attends_through_a_window_or_not_by_sdpa_is_left_as_it_is():
    for model in (mistral(4), tiny.llama()):
        if model.config.model_type == "llama":
            model.set_attn_implementation("eager")
        before = model.config._attn_implementation
        assert not packing.can_pack(model)
        assert model.config._attn_implementation == before
    assert packing.can_pack(mistral(None))


@pytest.mark.parametrize("make", [mistral, gpt2], ids=["windowed", "learned positions"])
def test_whatever_a_model_is_its_objective_is_right(make):
    model = make(2) if make is mistral else make()
    ids, mask = padded(BATCHES["a shared beginning"])
    logprobs = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    positions = mask.cumsum(1) - 1
    expected = -logprobs.gather(1, positions[..., None].expand(-1, -1, 32)).gather(-1, ids[..., None])[..., 0]
    student.teach(model)
    labels = torch.where(mask.bool(), ids, losses.IGNORED)
    found = model(input_ids=ids, attention_mask=mask, positions=positions, labels=labels, objective=OBJECTIVE).hard
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], atol=1e-4)
