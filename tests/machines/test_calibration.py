"""Calibration: the laws that scale a sample, what it gathers on a tiny model, and what it does without."""

import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
import torch

from response_priming import arms, cli, models, params, paths
from response_priming.engines.transformers import TransformersEngine
from response_priming.errors import InputError
from response_priming.machines import calibration, cost, measured
from response_priming.machines.measured import Answering, Measured, Training
from response_priming.machines.sizes import Architecture
from response_priming.machines.tokens import Texts

TEACHER = Answering(fixed=3.0, shared=0.01, read=0.02, step=0.1, row=0.01, lengths=(10, 12))
STUDENT = replace(TEACHER, lengths=(20, 30))
TRAINING = Training(step=2.0, example=0.5, fixed=7.0)


def injected(profile, **changed):
    students, trainings = {arms.UNDISTILLED: STUDENT, arms.SHOWN: TEACHER}, dict.fromkeys(profile.trained, TRAINING)
    values = {"spread": 0.0, "notebook": 1.0, "teacher": TEACHER, "students": students, "trainings": trainings}
    return Measured(on="a machine", when="today", gpu=None, **(values | changed))


def of(profile, stage, **changed):
    return injected(profile, **changed).seconds(profile, stage)


@pytest.fixture
def laptop():
    return params.load("laptop")


@pytest.fixture
def small(laptop, tiny_model, tmp_path, monkeypatch):
    """A profile on the tiny model, in a build folder of its own; a notebook imports nothing."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(calibration, "IMPORTS", "pass")
    values = {"model.student": str(tiny_model), "generate.teacher": str(tiny_model), "distill.train_tokens": 8192}
    values |= {"model.device": "cpu", "arms": ["undistilled", "fine-tuned", "none", "teacher"]}
    values |= {"evaluate.answer_tokens": 6, "generate.response_tokens": 6, "generate.worked_examples": 1}
    for key, value in values.items():
        laptop = laptop.changed(key, value)
    return laptop


# --- the laws ---


@pytest.mark.parametrize(("places", "lengths"), [(4, (3, 5, 2, 9, 1, 4, 4, 7, 2, 6)), (8, (2, 2)), (3, (1, 1, 6, 6))])
def test_steps_and_rows_are_those_of_the_engine(monkeypatch, places, lengths):
    engine = TransformersEngine(tiny.llama(), tiny.tokenizer(), batch=places)
    passes, plain = [], engine._forward

    def forward(request, slots, first, sequences, ids, columns):
        passes.append(tuple(ids.shape))
        plain(request, slots, first, sequences, ids, columns)
        for sequence in sequences:  # ends where it is said to, and nowhere else
            sequence.tokens[-1] = 0 if len(sequence.tokens) == lengths[sequence.index] else 5

    monkeypatch.setattr(engine, "_forward", forward)
    # All alike in length, so that they are let in in their order.
    assert len(list(engine.respond([[7, 8, 9 + i] for i in range(len(lengths))], max_tokens=50))) == len(lengths)
    decoding = [rows for rows, columns in passes if columns == 1]
    assert measured.decoded(lengths, places) == (len(decoding), sum(decoding))


def test_twice_the_problems_take_twice_as_long_but_for_what_is_done_once(laptop):
    once, twice = (of(laptop.changed("problems.n_train", n), "generate")[0] for n in (128, 256))
    texts = Texts.of(laptop)
    shared = sum(0.01 * texts.beginning(name, 8) for name in laptop.strategies)
    assert twice - once == pytest.approx(once - 4 * (1.0 + 3.0) - shared)


def test_training_is_steps_validations_and_students(laptop):
    held_out = 16
    arm = 1 + 7 + 40 * 2.0 + 3 * held_out * 0.5
    more = 4 * 3 * held_out * 0.5  # the taught ones are validated on their responses, too
    assert of(laptop, "distill") == (pytest.approx(5 * arm + more),) * 2
    assert of(laptop.changed("distill.train_steps", 80), "distill")[0] == pytest.approx(
        5 * (arm + 40 * 2 + 2 * held_out * 0.5) + 4 * 5 * held_out * 0.5
    )
    assert of(laptop.changed("seeds", [0, 1]), "distill")[0] == pytest.approx(2 * (5 * arm + more) - 5)


def test_trained_students_answer_as_long_as_they_were_taught(laptop):
    alone = laptop.changed("arms", ["undistilled"])
    both = laptop.changed("arms", ["undistilled", "none"])
    assert injected(alone).written(alone, "evaluate") == (200 * 25, 200 * 25)
    assert injected(both).written(both, "evaluate") == (200 * 25 + 200 * 11,) * 2
    cut = both.changed("evaluate.answer_tokens", 11)
    assert injected(cut).written(cut, "evaluate")[0] == 200 * 11 + 200 * 10.5


def test_a_larger_batch_takes_fewer_steps(laptop):
    small, large = (of(laptop.changed("evaluate.evaluate_batch", size), "evaluate")[0] for size in (8, 64))
    saved = measured.decoded([20, 30] * 100, 8)[0] - measured.decoded([20, 30] * 100, 64)[0]
    assert small - large > 0.1 * saved > 0


def test_unknown_lengths_are_a_range_and_what_was_not_measured_is_none(laptop):
    unknown = replace(TEACHER, lengths=None)
    low, high = of(laptop, "generate", teacher=unknown)
    assert low < high
    assert of(laptop, "generate", teacher=None) is of(laptop, "distill", trainings={}) is None
    assert of(laptop, "evaluate", students={}) is None


def test_layers_are_extrapolated_on_a_line_and_never_below():
    four = replace(STUDENT, fixed=2.0, step=0.3, lengths=None)
    whole = measured.extrapolated(replace(STUDENT, lengths=None), four, 14)
    assert (whole.step, whole.fixed, whole.lengths) == (pytest.approx(0.1 + 14 * 0.2), 2.0, None)


# --- the estimate ---


def test_measured_seconds_take_the_place_of_guessed_ones(laptop):
    found = cost.estimate(laptop, None, injected(laptop, spread=0.1, teacher=None))
    generate, distill, evaluate = found.stages
    assert not generate.measured
    assert distill.measured
    assert distill.seconds[1] / distill.seconds[0] == pytest.approx(1.1 / 0.9)
    assert evaluate.written[0] < evaluate.written[1]  # without a teacher's, students' lengths are not known
    said = cost.shown(found, 0)[-2]
    assert said == "Measured, but for generate, which did not run: a machine; today UTC; within 10 %."


def test_without_it_the_command_imports_no_torch():
    code = "import sys; from response_priming import cli; sys.argv = ['response-priming', 'cost', 'laptop']\n"
    code += "try: cli.main()\nexcept SystemExit: pass\nprint({'torch', 'pandas', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_auto_is_what_the_processor_is_fast_in(laptop, monkeypatch):
    monkeypatch.setattr(params, "cpu_flags", lambda: {"avx2": True})
    plain = cost.estimate(laptop, None).stages[0].weights
    monkeypatch.setattr(params, "cpu_flags", lambda: {"amx_bf16": True})
    assert cost.estimate(laptop, None).stages[0].weights == plain / 2


def test_a_processor_with_wide_vectors_is_twice_as_fast(laptop, monkeypatch):
    monkeypatch.setattr(params, "cpu_flags", lambda: {"avx2": True})
    plain = cost.estimate(laptop, None).stages[1].seconds
    monkeypatch.setattr(params, "cpu_flags", lambda: {"avx512f": True})
    assert cost.estimate(laptop, None).stages[1].seconds == (plain[0] / 2, plain[1] / 2)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems list no flags in /proc/cpuinfo")
def test_flags_say_of_bf16_what_torch_says():
    assert params.multiplies_bf16(params.cpu_flags()) == params.multiplies_bf16(torch.cpu.get_capabilities())


# --- the sample ---


def test_a_sample_runs_every_stage_and_leaves_nothing(small):
    found = calibration.measure(small)
    assert len(found.teacher.lengths) == 12
    assert max(found.teacher.lengths) <= 6
    assert {*found.students} == {arms.UNDISTILLED}
    assert {*found.trainings} == {"fine-tuned", "none", "teacher"}
    assert found.trainings["none"] is found.trainings["teacher"]
    assert found.trainings["none"] is not found.trainings["fine-tuned"]
    assert all(value > 0 for value in (found.teacher.read, found.teacher.shared, found.trainings["none"].step))
    assert list(paths.BUILD.glob("*")) == []
    assert all(stage.measured for stage in cost.estimate(small, None, found).stages)


def test_a_model_too_large_is_stood_in_for_by_layers_of_its_shape(small, monkeypatch):
    monkeypatch.setattr(calibration, "LARGE", 1000)
    shapes, plain = [], calibration._Sample._stand_in

    def stand_in(sample, role):
        folder = plain(sample, role)
        shapes.append((role, sample.layers, calibration.architecture(folder)))
        return folder

    monkeypatch.setattr(calibration._Sample, "_stand_in", stand_in)
    found = calibration.measure(small)
    assert {(role, layers) for role, layers, _ in shapes} == {
        (role, layers) for role in ("student", "teacher") for layers in (2, 4)
    }
    assert all(one.num_hidden_layers == layers and one.hidden_size == 32 for _, layers, one in shapes)
    assert found.teacher.lengths is None
    assert found.students[arms.UNDISTILLED].lengths is None


def test_a_model_of_the_hub_is_stood_in_for_without_it(small, tmp_path, monkeypatch):
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    about = Architecture(**shape, head_dim=8, num_hidden_layers=40, vocab_size=50_000)
    monkeypatch.setattr(calibration, "architecture", lambda *_: about)
    sample = calibration._Sample(small.changed("model.student", "no/such"), "cpu", 2)
    sample.folder = tmp_path
    model, reader = models.load(sample._stand_in("student"), dtype="float32", device="cpu")
    assert model.config.num_hidden_layers == 2
    assert models.vocabulary(reader, model.config) == 50_000


def test_what_another_engine_runs_is_not_measured(small):
    found = calibration.measure(small.changed("generate.engine", "vllm").changed("evaluate.evaluate_engine", "vllm"))
    assert (found.teacher, found.students) == (None, {})
    assert {*found.trainings} == {"fine-tuned", "none", "teacher"}
    said = cost.shown(cost.estimate(small, None, found), 0)[-2]
    assert said.startswith("Measured, but for generate and evaluate, which did not run: ")


def test_what_random_weights_cannot_stand_in_for_is_refused(small, tmp_path, tiny_model):
    folder = tmp_path / "quantised"
    folder.mkdir()
    config = (tiny_model / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(config + ', "quantization_config": {"quant_method": "awq"}}')
    with pytest.raises(InputError, match="weights are not at hand, and random ones cannot stand in for awq"):
        calibration.measure(small.changed("generate.teacher", str(folder)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_here_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["response-priming", "cost", "paper", "--calibrate"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "model.device = 'cuda': this machine has no usable CUDA device" in capsys.readouterr().err
