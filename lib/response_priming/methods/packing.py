"""A batch read as one row without padding, in which the beginning that its sequences share stands once.

All layers but attention treat tokens one by one, so they compute nothing twice and nothing for padding. Attention takes
the row apart again into sequences, so the result is that of the padded batch (cf. the shared prefixes of Juravsky et
al. 2024, arXiv 2402.05099). Importing this module registers it in transformers as the attention implementation
`packed`, which without a `packing` is sdpa.
"""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed"


class Packing(NamedTuple):
    """Where the tokens of a padded batch [rows, width] stand in the packed row, and the other way round.

    `places` [rows, width]: of each token in the packed row; padding has any. `kept` [packed]: of each packed token in
    the flattened batch.
    """

    places: Tensor
    kept: Tensor


def pack(input_ids: Tensor, attention_mask: Tensor) -> Packing:
    """The packing of a batch that is padded on the right, [rows, width] both."""
    real = attention_mask.bool()
    shared = ((input_ids == input_ids[:1]) & real).all(0).cumprod(0).sum()
    column = torch.arange(input_ids.shape[1], device=input_ids.device)
    first = torch.arange(len(input_ids), device=input_ids.device)[:, None] == 0
    kept = real & (first | (column >= shared))
    count = kept.flatten().cumsum(0).view_as(kept) - 1
    return Packing(torch.where(kept, count, column.clamp(max=shared - 1).clamp(min=0)), kept.flatten().nonzero()[:, 0])


def packed_inputs(input_ids: Tensor, packing: Packing) -> dict[str, Any]:
    """What a decoder is given to read the packed row; its output is [1, packed, width of the model]."""
    columns = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    return {
        "input_ids": input_ids.flatten()[packing.kept][None],
        "position_ids": columns.flatten()[packing.kept][None],
        # Attention of one sequence at a time needs no mask; four dimensions keep transformers from making one.
        "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device),
        "packing": packing,
    }


def read_packed(decoder: torch.nn.Module, input_ids: Tensor, packing: Packing) -> Tensor:
    """The last hidden states of the packed tokens, [packed, width of the model]."""
    hidden: Tensor = decoder(**packed_inputs(input_ids, packing), use_cache=False).last_hidden_state[0]
    return hidden


@torch.no_grad()
def can_pack(model: PreTrainedModel) -> bool:
    """Whether a model can read packed rows: sdpa over all tokens in every layer, and positions that can be given.

    If so, its attention becomes `packed`; else it stays as it is, and batches are read padded.
    """
    decoder, config = model.get_decoder(), model.config.get_text_config()
    # Some configurations say it layer by layer, the others that all have a window or none.
    kinds = getattr(config, "layer_types", None) or [getattr(config, "sliding_window", None) or "full_attention"]
    taken = inspect.signature(decoder.forward).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    plain = config._attn_implementation == "sdpa" and {*kinds} == {"full_attention"}
    if not (plain and passes_on and "position_ids" in taken):
        return False
    model.set_attn_implementation(NAME)
    ids = torch.tensor([[1, 2, 0, 3], [1, 2, 3, 0]], device=model.device)
    packing = pack(ids, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], device=model.device))
    padded = decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[packing.kept]
    alike = torch.nn.functional.cosine_similarity(read_packed(decoder, ids, packing).float(), padded.float())
    if (alike > 0.99).all():
        return True
    model.set_attn_implementation("sdpa")
    return False


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention in transformers' calling convention; [1, heads, packed, size] each, where there is a packing."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    places, shape = packing.places.flatten(), packing.places.shape
    query, key, value = (
        states.index_select(2, places)[0].view(states.shape[1], *shape, -1).transpose(0, 1)
        for states in (query, key, value)
    )
    # Padding is on the right, where a sequence's own tokens do not see it.
    options["is_causal"] = True
    output, _ = sdpa_attention_forward(module, query, key, value, None, **options)
    return output.flatten(0, 1).index_select(0, packing.kept)[None], None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
