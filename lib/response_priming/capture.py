"""The students side by side, and their attention maps layer by layer.

The base model is loaded once. All students read a text in one batch, each row with its own adapter, and a hook hands
every layer's maps on as they are made. So what is compared meets in one place, and no more than one layer's maps exist
at a time, where `output_attentions=True` holds those of all layers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from response_priming import manifest, models, params, paths
from response_priming.errors import InputError

Student = tuple[str, int]  # an arm, and the seed of its training
BASE = "__base__"  # peft's name for a row without adapter


def students(run: params.AttentionRun) -> list[Student]:
    """Every student of the run, arm by arm."""
    return [(arm, seed) for arm in run.arms for seed in run.seeds_of(arm)]


def adapters(run: params.AttentionRun) -> dict[Student, Path]:
    """The adapter of each trained student; `InputError` where one is missing or was trained on another model."""
    found = {(arm, seed): run.adapter_of(arm, seed) for arm, seed in students(run) if arm != params.UNDISTILLED}
    for folder in found.values():
        trained = manifest.read(folder)["recipe"]["parameters"]
        for key in ("student", "student_revision"):
            wanted = getattr(run, key)
            if trained.get(key, wanted) != wanted:
                raise InputError(
                    f"{paths.shown(folder)}: trained with {key} = {trained[key]!r}, must be this run's {wanted!r}"
                )
    return found


def load(run: params.AttentionRun) -> tuple[Any, PreTrainedTokenizerBase]:
    """The base model with every student's adapter attached, and its tokenizer.

    Attention is set to eager, the only implementation that forms maps.

    Raises:
        InputError: an adapter is missing, or does not fit the model.
    """
    model: Any
    folders = adapters(run)
    model, tokenizer = models.load(run.student, revision=run.student_revision, dtype=run.dtype, device=run.device)
    if model.config._attn_implementation != "eager":
        print(f"attention: {model.config._attn_implementation} forms no maps; switched to eager")
        model.set_attn_implementation("eager")
    for student, folder in folders.items():
        model = _attach(model, student, folder)
    return model.eval(), tokenizer


def _attach(model: Any, student: Student, folder: Path) -> Any:
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=_row(student))
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=_row(student))
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{paths.shown(folder)}: no adapter that fits this run's student: {reason}") from error


def _row(student: Student) -> str:
    """The adapter of a student's row in the batch."""
    arm, seed = student
    return BASE if arm == params.UNDISTILLED else f"{arm}-{seed}"


def visit_layers(
    model: Any, who: Sequence[Student], tokens: Sequence[int], visit: Callable[[Tensor], None], *, skip: int = 0
) -> None:
    """Let all of `who` read one text, and call `visit` with each layer's maps, lowest layer first.

    The maps are [students, heads, tokens, tokens], rows are queries, in the model's precision and on its device; they
    are dropped once `visit` returns. The last `skip` layers are left out.

    Raises:
        InputError: the model's attention layers return no maps, or `skip` leaves none.
    """
    layers = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    if skip >= len(layers):
        raise InputError(f"attention.skip_layers = {skip}: the student has {len(layers)} layers; allowed: fewer")

    def hand_on(module: Any, _arguments: Any, output: Any) -> Any:
        if output[1] is None:
            raise InputError(f"{type(module).__name__}: returns no attention maps; needs attention set to eager")
        visit(output[1])
        return (output[0], None, *output[2:])

    rows = {"adapter_names": [_row(student) for student in who]} if isinstance(model, PeftModel) else {}
    hooks = [layer.register_forward_hook(hand_on) for layer in layers[: len(layers) - skip]]
    try:
        with torch.inference_mode():
            batch = torch.tensor([list(tokens)] * len(who), device=model.device)
            model(input_ids=batch, use_cache=False, logits_to_keep=1, **rows)
    finally:
        for hook in hooks:
            hook.remove()
