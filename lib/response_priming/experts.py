"""Experts: a gated feed-forward layer (SwiGLU) cut into narrow ones, one of which reads a token, by the token's id.

As in MoEBERT (Zuo et al. 2022, arXiv 2204.07675): an expert is the dense layer with some of its hidden units, and where
several have a unit, each has a copy of its own. Which expert reads a token is a table, one a layer, which is saved with
the weights (as the released code's is not). What a token's expert is does not depend on its neighbours, so a batch may
be padded, packed or read by a cache. The model's configuration has `experts`, their number and width, by which
`models.load` makes the layers again.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from response_priming.errors import InputError

GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"


class Experts(nn.Module):
    """Experts in place of a dense layer.

    Args:
        units: the dense layer's hidden units that each has, [experts, width].
        table: which of them reads each token id, [vocabulary].
    """

    def __init__(self, dense: nn.Module, units: Tensor, table: Tensor) -> None:
        super().__init__()
        self.experts = nn.ModuleList(narrowed(dense, own) for own in units)
        self.register_buffer("table", table.to(torch.uint8))
        self.tokens = torch.empty(0, dtype=torch.long)

    def forward(self, hidden: Tensor) -> Tensor:
        """Each token's own expert's output for hidden states [batch, tokens, width] of the tokens `self.tokens`."""
        chosen = cast("Tensor", self.table)[self.tokens.flatten()].long()
        order = chosen.argsort(stable=True)
        parts = torch.split(hidden.flatten(0, 1)[order], chosen.bincount(minlength=len(self.experts)).tolist())
        read = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        return read[order.argsort()].view_as(hidden)


def narrowed(dense: nn.Module, units: Tensor) -> nn.Module:
    """A copy of a gated layer that has these of its hidden units alone."""
    made = copy.deepcopy(dense)
    for name, axis in ((GATE, 0), (UP, 0), (DOWN, 1)):
        linear = cast("nn.Linear", getattr(made, name))
        linear.weight = nn.Parameter(linear.weight.detach().index_select(axis, units))
        if linear.bias is not None and axis == 0:
            linear.bias = nn.Parameter(linear.bias.detach()[units])
        linear.out_features, linear.in_features = linear.weight.shape
    return made


def gated(model: PreTrainedModel) -> dict[str, nn.Module]:
    """A model's gated feed-forward layers, by their names in its decoder; `InputError` where it has none to cut."""
    found = {
        name: module
        for name, module in model.get_decoder().named_modules()
        if all(isinstance(getattr(module, part, None), nn.Linear) for part in (GATE, UP, DOWN))
    }
    if not found or any(isinstance(module, Experts) for module in model.modules()):
        raise InputError(
            f"model.student: {type(model).__name__} has no dense gated feed-forward layers; allowed: a model that has "
            f"{GATE}, {UP} and {DOWN} in each, and is not cut into experts yet"
        )
    return found


def shape(config: PretrainedConfig) -> Mapping[str, int]:
    """`count` and `width` of the experts that a model of this configuration is cut into; empty where it is dense."""
    found: Mapping[str, int] = getattr(config, "experts", None) or {}
    return found


def cut(model: PreTrainedModel, units: Sequence[Tensor], tables: Sequence[Tensor]) -> None:
    """Put experts in place of each gated layer, in place.

    Args:
        units: of each layer, [experts, width] (see `Experts`).
        tables: of each layer, [vocabulary].
    """
    decoder = model.get_decoder()
    for (name, dense), own, table in zip(gated(model).items(), units, tables, strict=True):
        decoder.set_submodule(name, Experts(dense, own, table))
    decoder.register_forward_pre_hook(_tell, with_kwargs=True)
    model.config.experts = dict(zip(("count", "width"), units[0].shape, strict=True))


def _tell(decoder: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Let the layers know which tokens are read: a decoder's layers get hidden states alone."""
    tokens = named.get("input_ids", arguments[0] if arguments else None)
    if tokens is None:
        raise InputError("a model with experts reads token ids, and was given embeddings")
    for module in decoder.modules():
        if isinstance(module, Experts):
            module.tokens = tokens


def expand(model: PreTrainedModel) -> PreTrainedModel:
    """The model, made as dense as its library knows it, with experts where its configuration has some; they are empty.

    In place.
    """
    if wanted := shape(model.config):
        layers = len(gated(model))
        units = torch.zeros(wanted["count"], wanted["width"], dtype=torch.long)
        cut(model, [units] * layers, [torch.zeros(model.config.get_text_config().vocab_size)] * layers)
    return model


def loader(config: PretrainedConfig) -> Any:
    """What `from_pretrained` is asked of for a model of this configuration: the library, or a class that expands it."""
    if not shape(config):
        return AutoModelForCausalLM
    dense: Any = AutoModelForCausalLM._model_mapping[type(config)]

    def begin(model: Any, *arguments: Any, **named: Any) -> None:
        dense.__init__(model, *arguments, **named)
        expand(model)

    return type(dense.__name__, (dense,), {"__init__": begin, "__module__": dense.__module__})
