"""A training step on the device beside float32's: LoRA on bfloat16 weights, on 4-bit ones, and a model in full size."""

import importlib.util
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from response_priming import params
from response_priming.distill.trainer import forget_peak, optimizer_of, peak_mib
from response_priming.machines import stand_ins
from response_priming.machines.check import Failed, NotRun, Sizes
from response_priming.machines.check_objective import plain
from response_priming.methods import student
from response_priming.methods.base import Method
from response_priming.methods.losses import IGNORED, Targets

COSINE, SAME = 0.99, 1e-2
STEPS, K = 6, 16
SPREAD = 0.02  # standard deviation of weights, as models of this size begin with


def bf16(sizes: Sizes) -> Iterator[str]:
    """Training steps of LoRA on weights of the working precision, a few layers in the student's width.

    Loss and gradient are compared with float32's of the same weights, by autograd through all logits: a cosine of 0.99
    at least over all LoRA matrices, as every product is rounded to 8 bits; no matrix's gradient may be zero. After an
    evaluation the gradient must be the same to 1 %, as kernels may add in no fixed order, and the loss must fall within
    six steps of AdamW.
    """
    yield from steps(sizes, "lora")


def nf4(sizes: Sizes) -> Iterator[str]:
    """The same as bf16 on weights of 4 bits (NF4); float32's are the same 4-bit weights, multiplied in float32.

    On CPUs with AVX-512 bitsandbytes once gave gradients of zero after an evaluation, without a word.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise NotRun("bitsandbytes is not installed")
    yield from steps(sizes, "qlora")


def whole(sizes: Sizes) -> Iterator[str]:
    """Training steps of LoRA on the whole student, in the working precision: loss and gradient are finite and not zero,
    and the loss falls."""
    model = sizes.model
    weights, free = model.weights("none", sizes.precision), _free()
    if 2 * weights > free:
        raise NotRun(f"{2 * weights / 2**30:.0f} GiB are wanted, {free / 2**30:.0f} are free")
    run = run_of(sizes, "random", "lora", sizes.precision)
    with torch.device(sizes.device):
        base = stand_ins.llama(model, SPREAD, getattr(torch, sizes.precision))
    taught = drawn(student.trained(run, base, model.vocab_size)).train()
    yield f"{model.parameters / 1e9:.2f} G parameters in {model.num_hidden_layers} layers"
    yield from trained(run, taught, batch(sizes))


def steps(sizes: Sizes, adapter: str) -> Iterator[str]:
    """Both losses and gradients, then steps; see `bf16`."""
    about = sizes.model.model_copy(update={"num_hidden_layers": sizes.layers})
    one = batch(sizes)
    with tempfile.TemporaryDirectory() as scratch:
        with torch.device(sizes.device):
            model = stand_ins.llama(about, SPREAD, getattr(torch, sizes.precision))
        folder = stand_ins.save(Path(scratch), model, about.vocab_size)
        del model
        exact = run_of(sizes, str(folder), adapter, "float32")
        wanted = gradient(drawn(student.load(exact)[0]).train(), exact, one, plainly=True)
        run = run_of(sizes, str(folder), adapter, sizes.precision)
        model = drawn(student.load(run)[0]).train()
    found = gradient(model, run, one)
    yield f"loss {found[0]:.4f} nats, float32's {wanted[0]:.4f}"
    cosine = float(F.cosine_similarity(torch.cat([*found[1].values()]), torch.cat([*wanted[1].values()]), dim=0))
    yield f"gradient of {len(found[1])} LoRA matrices: cosine {cosine:.5f}, at least {COSINE}"
    _require_gradients(found[1])
    with torch.no_grad():
        model.eval()(input_ids=one["input_ids"])
    again = gradient(model.train(), run, one)
    change = float((torch.cat([*again[1].values()]) - torch.cat([*found[1].values()])).norm())
    change /= float(torch.cat([*found[1].values()]).norm())
    yield f"after an evaluation the gradient is another by {100 * change:.3g} %, at most {100 * SAME:g} %"
    if not (cosine >= COSINE and change <= SAME and math.isclose(found[0], wanted[0], rel_tol=0.01)):
        raise Failed("loss or gradient is not float32's, or changes with an evaluation")
    yield from trained(run, model, one)


def run_of(sizes: Sizes, folder: str, adapter: str, dtype: str) -> params.DistillRun:
    """A training as the profile `laptop` has it, on a student in a folder."""
    run = params.load("laptop").run("distill", arm="none")
    changed = {"student": folder, "device": sizes.device, "dtype": dtype, "adapter": adapter}
    return params.DistillRun.model_validate(run.model_dump() | changed)


def drawn(model: Any) -> Any:
    """The model with LoRA matrices that are the same on every device and in every precision, none of them zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in _trained(model).values():
            weight.copy_(SPREAD * torch.randn(weight.shape, generator=generator))
    return model


def batch(sizes: Sizes) -> dict[str, Tensor]:
    """Random sequences, every second one shorter by a quarter; their second halves are scored, with a signal of K."""
    generator, vocabulary = torch.Generator().manual_seed(3), sizes.model.vocab_size
    shape, half = (sizes.rows, sizes.tokens), sizes.tokens // 2
    ids = torch.randint(0, vocabulary, shape, generator=generator)
    ends = torch.tensor([sizes.tokens - (row % 2) * (sizes.tokens // 4) for row in range(sizes.rows)])
    there = torch.arange(sizes.tokens) < ends[:, None]
    positions = torch.arange(half - 1, sizes.tokens - 1).expand(sizes.rows, -1)
    labels, scored = ids[:, half:], there[:, half:]
    others = torch.randint(0, vocabulary - K, labels.shape, generator=generator)
    top = torch.randn(*labels.shape, K, generator=generator).log_softmax(-1) + math.log(0.9)
    made = {
        "input_ids": ids.where(there, 0),
        "attention_mask": there.long(),
        "positions": positions.where(scored, 0),
        "labels": labels.where(scored, IGNORED),
        "scored": scored,
        "top_logprobs": top.sort(-1, descending=True).values,
        "top_ids": others[..., None] + torch.arange(K),
        "tail_logprobs": torch.full(labels.shape, math.log(0.1)),
    }
    return {key: values.to(sizes.device) for key, values in made.items()}


def gradient(
    model: Any, run: params.DistillRun, one: dict[str, Tensor], *, plainly: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """The mean loss of a batch and its gradient by LoRA matrix, flat, in float32; `plainly`: by autograd alone."""
    model.zero_grad()
    counted = one["scored"]
    if plainly:
        inner = model.get_base_model()
        states = inner.get_decoder()(input_ids=one["input_ids"], use_cache=False).last_hidden_state
        rows = torch.arange(len(states), device=states.device)[:, None]
        wanted = Targets(**{key: one[key][counted] for key in Targets._fields if key in one})
        loss = plain(states[rows, one["positions"]][counted], inner.get_output_embeddings().weight, wanted, run)
    else:
        loss = _loss(model, run, one)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), {
        name: weight.grad.detach().float().flatten()
        for name, weight in _trained(model).items()
        if weight.grad is not None
    }


def _loss(model: Any, run: params.DistillRun, one: dict[str, Tensor]) -> Tensor:
    count = one["scored"].sum()
    return Method(run).loss(model, one, hard_tokens=count, soft_tokens=count).total


def trained(run: params.DistillRun, model: Any, one: dict[str, Tensor]) -> Iterator[str]:
    """Steps of the run's optimiser on one batch: what they take, and that the loss falls."""
    kind, options = optimizer_of(run)
    optimizer = cast("Any", kind)([*_trained(model).values()], **options)
    forget_peak()
    losses, took = [], []
    for _ in range(STEPS):
        begun = time.monotonic()
        optimizer.zero_grad()
        loss = _loss(model, run, one)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))  # waits for the device
        took.append(time.monotonic() - begun)
    tokens = int(one["attention_mask"].sum())
    _require_gradients({name: weight.grad for name, weight in _trained(model).items() if weight.grad is not None})
    speed = tokens * (STEPS - 1) / sum(took[1:])
    yield f"{STEPS} steps of {tokens:,} tokens: {speed:,.0f} tokens/s, at most {peak_mib():,.0f} MiB"
    yield f"loss from {losses[0]:.4f} to {losses[-1]:.4f} nats"
    if not (math.isfinite(losses[-1]) and losses[-1] < losses[0]):
        raise Failed(f"the loss does not fall: {losses}")


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _require_gradients(grads: dict[str, Tensor]) -> None:
    wrong = [name for name, grad in grads.items() if not (grad.isfinite().all() and grad.any())]
    if wrong or not grads:
        raise Failed(f"gradient zero or not finite: {', '.join(wrong[:3]) or 'there is none'}")


def _free() -> float:
    """Bytes of free memory, of the GPU where there is one."""
    import psutil

    return float(torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available)
