"""What every method is held to that asks a teacher while its student is trained, a live one or the student's parent."""

import pytest
import torch
from safetensors.torch import load_file
from tests.distill.test_training import write_store
from tests.methods.conftest import other_teacher
from transformers import TrainerCallback

from response_priming import distill, paths
from response_priming.distill.beside import FILE
from response_priming.methods import base, examples
from response_priming.methods.losses import IGNORED

LIVE = ["feature-alignment", "minillm", "okd", "on-policy-priming"]
TAUGHT = [*LIVE, "moebert"]
PRIMED = {"strategy": "ground-truth", "worked_examples": 1}
PADDING = {"labels": IGNORED}
COUNTS = {"hard_tokens": 15, "soft_tokens": 15}


@pytest.fixture(params=TAUGHT)
def started(request, make_method, batch):
    """A method, its student, and the batch that it reads."""
    method = make_method(base.find(request.param), PRIMED)
    torch.manual_seed(0)
    model = method.student()[0].train()
    with torch.no_grad():
        return method, model, dict(method.batch(model, batch, seed=0, step=0, item=0))


def gradients(model, loss):
    model.zero_grad()
    loss.total.backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]


def row_of(batch, row):
    return {key: value[row : row + 1] for key, value in batch.items()}


def wider(batch, more=7):
    """The batch with so much more padding on the right."""
    flat = {"problem_ids", "sampled"}
    return {
        key: value
        if key in flat
        else torch.cat([value, value.new_full((len(value), more, *value.shape[2:]), PADDING.get(key, 0))], 1)
        for key, value in batch.items()
    }


def test_padding_changes_nothing(started):
    method, model, batch = started
    loss, padded = (method.loss(model, one, **COUNTS) for one in (batch, wider(batch)))
    assert padded.total.item() == pytest.approx(loss.total.item(), abs=1e-6, rel=1e-6)
    assert torch.allclose(padded.hard[:, : loss.hard.shape[1]], loss.hard, atol=1e-5)
    assert not padded.hard[:, loss.hard.shape[1] :].any()


def test_the_end_counts_though_it_is_what_pads(started):
    method, model, batch = started
    loss, real = method.loss(model, batch, **COUNTS), batch["labels"] != IGNORED
    ended = [(row, int(count) - 1) for row, count in enumerate(real.sum(-1)) if batch["labels"][row, count - 1] == 0]
    assert ended
    assert all(loss.soft[place] > 0 for place in ended)
    assert [examples.targets(batch)[kind][place] for kind in (0, 1) for place in ended] == [True] * 2 * len(ended)


def test_the_gradient_does_not_depend_on_the_micro_batch(started):
    method, model, batch = started
    whole = gradients(model, method.loss(model, batch, **COUNTS))
    parts = [gradients(model, method.loss(model, row_of(batch, row), **COUNTS)) for row in range(3)]
    for expected, *found in zip(whole, *parts, strict=True):
        assert torch.allclose(sum(found), expected, atol=1e-5)


def test_the_teacher_is_in_evaluation_mode_and_only_what_it_learns_has_a_gradient(started):
    method, model, batch = started
    method.loss(model, batch, **COUNTS).total.backward()
    live = getattr(method, "teacher", None)
    teacher, trained = (live.model, live.trained) if live else (method._parent, False)
    assert not any(module.training for module in teacher.modules())
    assert all(weight.grad is None or "lora_" in name for name, weight in teacher.named_parameters())
    assert any(weight.grad is not None for weight in teacher.parameters()) == trained
    assert any(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("name", [*TAUGHT, "elad", "retrikt"])
def test_a_method_is_named_in_the_schema_and_else_found_by_its_file(name):
    lib = paths.ROOT / "lib" / "response_priming"
    named = [file.relative_to(lib).as_posix() for file in lib.rglob("*.py") if f'"{name}"' in file.read_text()]
    assert named == ["params/sections.py"]
    assert base.find(name).__module__.endswith(f".{name.replace('-', '_')}")


class Watched(TrainerCallback):
    """Keeps what the last checkpoint has beside the student; or ends the training after its third step."""

    def __init__(self, *, killed=False):
        self.killed = killed

    def on_save(self, args, state, *_, **__):
        path = f"{args.output_dir}/checkpoint-{state.global_step}/{FILE}"
        self.beside = torch.load(path, weights_only=True)["weights"]

    def on_step_end(self, _, state, *__, **___):
        if self.killed and state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", TAUGHT)
def test_a_training_that_was_killed_ends_with_the_same_weights(make_run, name, tmp_path, monkeypatch):
    sizes = {"n_train": 6, "train_batch": 4, "train_steps": 4, "save_every": 2, "train_tokens": 400, "held_out": 0.34}
    # A teacher of another width, where that takes something to be trained beside the student.
    other = other_teacher(tmp_path / "wide") if name == "feature-alignment" else {}
    live = make_run("generate", **PRIMED | other, n_train=6, response_tokens=5)
    kind = base.find(name)
    run = make_run("distill", arm=kind.arm or "none", micro_batch=2, **dict(kind.base) | sizes)
    run = run.by(base.described(name)).asking(live)
    file = "model" if run.adapter == "full" else "adapter_model"
    made, watched = [], []
    for place in ("whole", "killed"):
        monkeypatch.setattr(paths, "BUILD", tmp_path / place)
        write_store(run)
        if place == "killed":
            with pytest.raises(KeyboardInterrupt):
                distill.train_one(run, 0, [Watched(killed=True)])
        watched.append(Watched())
        distill.train_one(run, 0, watched[-1:])
        made.append(load_file(run.folders[0].path / f"{file}.safetensors"))
    for one, other in (made, [each.beside for each in watched]):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert bool(watched[0].beside) == (name in ("feature-alignment", "okd"))
    if file == "model":
        return
    # What is trained beside the student is not saved with it.
    assert all(weight.shape[-1] in (32, 8) and ".layers." in key for key, weight in made[0].items())
    assert len(made[0]) == 2 * len(run.lora_targets) * 2
