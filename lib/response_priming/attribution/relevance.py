"""Layer-wise relevance propagation (LRP) through a Llama-kind model: a logit, split among the input tokens.

Relevance starts as the logit and is handed down layer by layer, each layer's outputs passing theirs on to its inputs.
With rules of LRP-0 this is input times gradient, after local changes of what takes part in the gradient, and so it is
computed here. Two sets of rules, with A the attention weights, v the values, and gate and up the halves of SwiGLU:

    conservative (CP-LRP, Ali et al. 2022, arXiv 2202.07304): A and silu(gate) are constants, so v and up take all
    attention-aware (AttnLRP, Achtibat et al. 2024, arXiv 2402.05602): each factor of a product takes half, of the
        scores' query and key as well; softmax is differentiated, silu hands its relevance to its input

and in both RMSNorm's factor is a constant. The first adds up to the logit where no layer has a bias; the second does
not, as softmax has a constant part. The library lxt (by the authors of AttnLRP) changes attention for a whole process;
here hooks on the modules of one model, which compute what they did, so that attention keeps its mask.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from response_priming.errors import InputError

ATTENTION, GATED = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj", "act_fn")


class Rules(NamedTuple):
    """Shares of their gradient that queries and keys, values, silu's input, and the gated product keep."""

    scores: float
    values: float
    gate: float
    product: float


# Plain gradient x input, which follows no rules, is what they are compared with.
RULES = {
    "relevance": Rules(scores=0.25, values=0.5, gate=1.0, product=0.5),
    "relevance-cp": Rules(scores=0.0, values=1.0, gate=0.0, product=1.0),
    "input-gradient": None,
}


@contextlib.contextmanager
def following(model: Any, rules: Rules | None) -> Iterator[None]:
    """Gradients of this one model follow the rules during the block; what it computes is the same, but in float32.

    In lower precision relevance does not add up. Weights get their own storage back, so nothing of the model is changed
    afterwards; quantised ones stay as they are.

    Raises:
        InputError: the model is none of attention with separate projections, SwiGLU and RMSNorm, as Llama.
    """
    modules = list(model.modules())
    attention = [one for one in modules if all(hasattr(one, name) for name in ATTENTION)]
    gated = [one for one in modules if all(hasattr(one, name) for name in GATED)]
    norms = [one for one in modules if type(one).__name__.endswith("RMSNorm")]
    layers = model.config.get_text_config().num_hidden_layers
    if len(attention) != layers or len(gated) != layers or len(norms) <= 2 * layers:
        raise InputError(
            f"model {type(model).__name__}: {layers} layers with {len(attention)} attentions of {'/'.join(ATTENTION)}, "
            f"{len(gated)} SwiGLU and {len(norms)} RMSNorm; relevance knows models that have them all, as Llama"
        )
    weights = [one for one in [*model.parameters(), *model.buffers()] if one.is_floating_point()]
    stored, handles = [one.data for one in weights], []
    try:
        for one in weights:
            one.data = one.data.float()
        if rules is not None:
            for one in attention:
                for name, share in zip(ATTENTION, (rules.scores, rules.scores, rules.values), strict=True):
                    hook = getattr(one, name).register_forward_hook
                    handles.append(hook(lambda _, __, out, share=share: _keeping(out, out, share)))
            for one in gated:
                hook = one.act_fn.register_forward_hook
                handles.append(hook(lambda _, given, out: _keeping(out, _proportional(given[0], out), rules.gate)))
                hook = one.down_proj.register_forward_pre_hook
                handles.append(hook(lambda _, given: _keeping(given[0], given[0], rules.product)))
            for one in norms:
                hook = one.register_forward_hook
                handles.append(hook(lambda _, given, out: _keeping(out, _proportional(given[0], out), 1.0)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for one, data in zip(weights, stored, strict=True):
            one.data = data


def _keeping(value: Tensor, like: Tensor, share: float) -> Tensor:
    """The value to the bit, with a share of the gradient of another tensor."""
    return value.detach() + share * (like - like.detach())


def _proportional(given: Tensor, out: Tensor) -> Tensor:
    """An elementwise function's output as its input times a constant."""
    return given * torch.where(given == 0, 0, out / given).detach()


def propagate(model: Any, ids: Tensor, response: Tensor, method: str) -> tuple[NDArray[np.float64], float]:
    """What each token contributes to the logits of a response, summed, by one of `RULES`.

    Args:
        ids: of the prompt, [1, tokens].
        response: what is explained, [1, tokens].

    Returns:
        of each token of the prompt and then of the response; and what these leave unexplained, a share of the logits.
    """
    with following(model, RULES[method]):
        inputs = model.get_input_embeddings()(torch.cat([ids, response], dim=1)).detach().requires_grad_()
        output = model(inputs_embeds=inputs, use_cache=False, logits_to_keep=response.shape[1] + 1)
        explained = output.logits[:, :-1].gather(-1, response[..., None]).double().sum()
        (gradient,) = torch.autograd.grad(explained, inputs)
    found = (inputs.detach() * gradient).double().sum(-1)[0].numpy(force=True)
    return found, float(abs(found.sum() - explained.item()) / abs(explained.item()))
