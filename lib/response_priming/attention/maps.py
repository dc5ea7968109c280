"""Attention maps of all students side by side, layer by layer.

Students are grouped by the weights that they run on (`models.Base`), which are loaded once; those of a group read a
text in one batch, each row with its own adapter. LoRA students are one group, QLoRA students another, on the 4-bit
weights they were trained on, and a student trained in all its weights is a group of its own. A hook hands every layer's
maps on as they are made. So what is compared meets in one place, and with one group no more than one layer's maps exist
at a time, where `output_attentions=True` holds those of all layers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from response_priming import arms, artifacts, models
from response_priming.errors import InputError

if TYPE_CHECKING:
    from response_priming import params

Student = tuple[str, int]  # an arm, and the seed of its training
BASE = "__base__"  # peft's name for a row without adapter


class Group(NamedTuple):
    """Students on the same weights: a model, and whose rows its batches have."""

    model: Any
    who: list[Student]


def folders_of(run: "params.AttentionRun") -> dict[Student, Path]:
    """The folder of each trained student; `InputError` where one is missing or was trained on another model."""
    found = {(arm, seed): run.student_of(arm, seed) for arm, seed in run.students if arm != arms.UNDISTILLED}
    for folder in found.values():
        trained = artifacts.read(folder)["recipe"]["parameters"]
        for key in ("student", "student_revision"):
            wanted = getattr(run, key)
            if trained.get(key, wanted) != wanted:
                raise InputError(f"{folder}: trained with {key} = {trained[key]!r}, must be this run's {wanted!r}")
    return found


def load(run: "params.AttentionRun") -> tuple[list[Group], PreTrainedTokenizerBase]:
    """The run's students in groups, the largest one last, and their tokenizer. All groups are in memory.

    Attention is set to eager, the only implementation that forms maps.

    Raises:
        InputError: a student is missing, or its adapter does not fit the model.
    """
    folders, bare = folders_of(run), models.Base(run.student, run.student_revision)
    members: dict[models.Base, list[Student]] = {}
    for student in run.students:
        members.setdefault(bare.of(folders.get(student)), []).append(student)
    groups = []
    for base, who in sorted(members.items(), key=lambda item: len(item[1])):
        model: Any = models.load(**base._asdict(), dtype=run.dtype, device=run.device)[0]
        model.set_attn_implementation("eager")
        for student in who:
            if student in folders and models.is_adapter(folders[student]):
                try:
                    if isinstance(model, PeftModel):
                        model.load_adapter(str(folders[student]), adapter_name=_row(student))
                    else:
                        model = PeftModel.from_pretrained(model, str(folders[student]), adapter_name=_row(student))
                except (OSError, RuntimeError, ValueError) as error:
                    reason = " ".join(str(error).split())[:120]
                    raise InputError(
                        f"{folders[student]}: no adapter that fits this run's student: {reason}"
                    ) from error
        groups.append(Group(model.eval(), who))
    return groups, models.tokenizer(run.student, run.student_revision)


def _row(student: Student) -> str:
    """The adapter of a student's row in the batch."""
    arm, seed = student
    return BASE if arm == arms.UNDISTILLED else f"{arm}-{seed}"


def visit_groups(
    groups: Sequence[Group],
    who: Sequence[Student],
    tokens: Sequence[int],
    visit: Callable[[Tensor], None],
    *,
    skip: int,
) -> None:
    """`visit_layers` for students of several groups; rows of the maps are in the order of `who`.

    Meanwhile all layers' maps of the groups but the last one are held.
    """
    *others, last = groups
    if not others:
        return visit_layers(last.model, who, tokens, visit, skip=skip)
    held: list[list[Tensor]] = [[] for _ in others]
    for group, layers in zip(others, held, strict=True):
        visit_layers(group.model, group.who, tokens, layers.append, skip=skip)
    rows = [student for group in groups for student in group.who]
    order = [rows.index(student) for student in who]

    def join(maps: Tensor) -> None:
        visit(torch.cat([*(layers.pop(0) for layers in held), maps])[order])

    return visit_layers(last.model, last.who, tokens, join, skip=skip)


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
