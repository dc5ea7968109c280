"""The student in training: what of it is trained, and a forward pass that returns the objective."""

import functools
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from response_priming import models
from response_priming.errors import InputError
from response_priming.methods.losses import IGNORED, Loss, Targets, distillation
from response_priming.methods.packing import can_pack, pack, read_packed

if TYPE_CHECKING:
    from response_priming import params


def load(run: "params.DistillRun") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The student with what is to be trained (`adapter`), and its tokenizer. Its forward pass can return the objective.

    All weights are trained in fp32 (`Trainer` computes in `dtype`): bf16 would round small updates away.
    """
    base, tokenizer = models.load(
        run.student,
        revision=run.student_revision,
        dtype="float32" if run.adapter == "full" else run.dtype,
        device=run.device,
        quantization="nf4" if run.adapter == "qlora" else "none",
    )
    teach(base, models.vocabulary(tokenizer, base.config))
    if run.adapter == "full":
        return base, tokenizer
    return cast("PreTrainedModel", get_peft_model(base, lora_config(run, base))), tokenizer


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
    the head is called. `hard` and `soft` come as [batch, n], like the labels.

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
    hard_tokens: Tensor | float = 1,
    soft_tokens: Tensor | float = 1,
    **batch: Any,
) -> Loss:
    if packed:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        layout = pack(input_ids, mask)
        hidden, places = read_packed(model.get_decoder(), input_ids, layout), layout.places
    else:
        # Padding is on the right, where a causal model's other tokens do not see it: no mask is needed.
        hidden = model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state.flatten(0, 1)
        places = torch.arange(len(hidden), device=hidden.device).view_as(input_ids)
    wanted = Targets(**{key: batch[key] for key in Targets._fields if key in batch})
    counts = wanted.labels != IGNORED
    counts = counts if wanted.scored is None else counts | wanted.scored
    loss: Loss = model.get_output_embeddings()(
        hidden[places.gather(1, positions)[counts]],
        wanted.part(counts),
        objective,
        hard_tokens=hard_tokens,
        soft_tokens=soft_tokens,
    )
    spread = (torch.zeros_like(positions, dtype=part.dtype).masked_scatter_(counts, part) for part in loss[1:])
    return Loss(loss.total, *spread)
