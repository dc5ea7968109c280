"""The student in training: what of it is trained, and a forward pass that returns the objective."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from response_priming import models
from response_priming.errors import InputError
from response_priming.methods.losses import IGNORED, Loss, Targets, distillation
from response_priming.methods.packing import can_pack, pack, packed_inputs

if TYPE_CHECKING:
    from response_priming import params


def load(run: "params.DistillRun", *, attention: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The student with what is to be trained (`adapter`), and its tokenizer. Its forward pass can return the objective.

    All weights are trained in fp32 (`Trainer` computes in `dtype`): bf16 would round small updates away.

    Args:
        attention: its implementation; None: the fastest one.
    """
    base, tokenizer = models.load(
        run.student,
        revision=run.student_revision,
        dtype="float32" if run.adapter == "full" else run.dtype,
        device=run.device,
        quantization="nf4" if run.adapter == "qlora" else "none",
    )
    if attention:
        base.set_attn_implementation(attention)
    return trained(run, base, models.vocabulary(tokenizer, base.config)), tokenizer


def trained(run: "params.DistillRun", base: PreTrainedModel, vocabulary: int) -> PreTrainedModel:
    """A model with what is to be trained of it, which can return the objective (see `teach`)."""
    teach(base, vocabulary)
    if run.adapter == "full":
        return base
    return cast("PreTrainedModel", get_peft_model(base, lora_config(run, base)))


def lora_config(run: "params.DistillRun", base: PreTrainedModel) -> LoraConfig:
    """The adapter's configuration; `InputError` where the model lacks a target."""
    head = base.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    if missing := set(run.lora_targets) - linear:
        raise InputError(
            f"distill.lora_targets = {sorted(missing)}: {run.student} has no such layers; it has {sorted(linear)}"
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=run.lora_r,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=run.lora_targets,
    )


def teach(model: PreTrainedModel, vocabulary: int | None = None) -> None:
    """Make the forward pass return `losses.Loss` where it is given an `objective` and a batch (see `examples`).

    It is the model's own forward pass, and its head's, so that whatever wraps a model in training (PEFT, data
    parallelism, sharding, checkpointing) finds what it expects: where weights are sharded, the head's are gathered when
    the head is called. `hard` and `soft` come as [batch, n], like the labels. Given `layers`, `states` are the hidden
    states there, [layers, batch, n, width]: 0 is the embeddings, and -1 what the head reads. With `maps` they are the
    layers' attention, too, mean over heads, [layers, batch, n, tokens]; its implementation must be eager.

    Args:
        vocabulary: outputs that have a token (see `models.vocabulary`); the objective is of these alone, as if the
            model had no others. None: all.

    Raises:
        InputError: the model does more to its last hidden states than multiply them with its head.
    """
    head, plain = model.get_output_embeddings(), model.forward
    with torch.no_grad():
        tokens = torch.tensor([[0, 1]], device=model.device)
        hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        if not torch.equal(model(input_ids=tokens).logits, F.linear(hidden, head.weight)):
            name = type(model).__name__
            raise InputError(
                f"model.student: {name} scales, caps or shifts its logits; allowed: a model with a plain head"
            )
    packed, project = can_pack(model), head.forward
    padded = vocabulary is not None and vocabulary < len(head.weight)

    @functools.wraps(plain)
    def forward(*arguments: Any, objective: "params.Distill | None" = None, **batch: Any) -> Any:
        return plain(*arguments, **batch) if objective is None else _loss(model, objective, packed=packed, **batch)

    @functools.wraps(project)
    def score(hidden: Tensor, *wanted: Any, **counts: Any) -> Any:
        weight = head.weight[:vocabulary] if padded else head.weight
        return distillation(hidden, weight, *wanted, **counts) if wanted else project(hidden)

    model.forward, head.forward = forward, score


def _loss(
    model: PreTrainedModel,
    objective: "params.Distill",
    *,
    packed: bool,
    input_ids: Tensor,
    positions: Tensor,
    attention_mask: Tensor | None = None,
    layers: Sequence[int] = (),
    maps: bool = False,
    hard_tokens: Tensor | float = 1,
    soft_tokens: Tensor | float = 1,
    **batch: Any,
) -> Loss:
    if packed:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        layout = pack(input_ids, mask)
        inputs, places = packed_inputs(input_ids, layout), layout.places
    else:
        # Padding is on the right, where a causal model's other tokens do not see it: no mask is needed.
        inputs = {"input_ids": input_ids}
        places = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids)
    inputs |= {"output_hidden_states": True} if layers else {}
    inputs |= {"output_attentions": True} if maps else {}
    output, at = model.get_decoder()(**inputs, use_cache=False), places.gather(1, positions)
    wanted = Targets(**{key: batch[key] for key in Targets._fields if key in batch})
    counts = wanted.labels != IGNORED
    counts = counts if wanted.scored is None else counts | wanted.scored
    loss: Loss = model.get_output_embeddings()(
        output.last_hidden_state.flatten(0, 1)[at[counts]],
        wanted.part(counts),
        objective,
        hard_tokens=hard_tokens,
        soft_tokens=soft_tokens,
    )
    hard, soft = (torch.zeros_like(positions, dtype=part.dtype).masked_scatter_(counts, part) for part in loss[1:3])
    states = torch.stack([output.hidden_states[layer].flatten(0, 1)[at] for layer in layers]) if layers else None
    rows = positions[..., None].expand(-1, -1, input_ids.shape[1])
    heads = [output.attentions[layer - 1].mean(1).gather(1, rows) for layer in layers if maps]
    return Loss(loss.total, hard, soft, states, torch.stack(heads) if heads else None)
