"""The model card: what it says of each kind of student, and that its code loads the student."""

import re
import shutil

import pandas as pd
import pytest
import tiny
import torch
import yaml
from peft import LoraConfig, get_peft_model

from response_priming import artifacts, experts, models, provenance
from response_priming.distill import training
from response_priming.methods.base import described

CURVE = pd.DataFrame({"loss": [2.0, 1.25]})
TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def run(make_run):
    """A run with values that the card prints."""

    def make(**changes):
        values = {"arm": "teacher", "alpha": 0.3, "kd_temperature": 2.0, "divergence": "reverse-kl", "held_out": 0.25}
        return make_run("distill", **values | changes)

    return make


def test_the_front_matter_names_the_base_and_the_library(run):
    for adapter, library in (("lora", "peft"), ("qlora", "peft"), ("full", "transformers")):
        made = run(adapter=adapter)
        _, front, _ = training.card(made, 3, CURVE).split("---\n", maxsplit=2)
        found = yaml.safe_load(front)
        assert (found["base_model"], found["library_name"]) == (made.student, library)


def test_the_embedded_model_is_named_by_the_package_that_ships_it(run):
    assert f"base_model: {models.PACKAGE}\n" in training.card(run(student="embedded"), 0, CURVE)


def test_it_says_from_what_how_and_how_well_the_student_learned(run):
    made = run(train_steps=7)
    text = training.card(made, 3, CURVE)
    for part in (
        "# Student `teacher`, seed 3",
        "a teacher (`responses/teacher`); 160 problems of `procedural`, 25% of them held out",
        "0.3 x cross-entropy + 0.7 x reverse-kl at temperature 2",
        "7 steps of 8 sequences, adamw, learning rate 0.001; last loss 1.2500",
        provenance.summary(made),
        f"package version is in `{artifacts.FILE}`",
        "`build/laptop/scores/teacher/seed-3/`",
        "'You solve word problems.'",
    ):
        assert part in text


def test_a_fine_tuned_student_has_no_teacher_and_one_loss(run):
    text = training.card(run(arm="fine-tuned"), 0, CURVE)
    assert "the data set's solutions, without a teacher" in text
    assert "**Objective:** cross-entropy\n" in text
    assert "reverse-kl" not in text


@pytest.mark.parametrize("adapter", ["lora", "qlora", "full"])
def test_its_code_loads_the_student_as_the_project_does(run, tiny_model, tmp_path, adapter):
    made = run(adapter=adapter)
    with artifacts.writing(tmp_path / "student", {"parameters": {"adapter": adapter}}) as aside:
        if adapter == "full":
            shutil.copytree(tiny_model, aside, dirs_exist_ok=True)
        else:
            base, _ = models.load(str(tiny_model), dtype="float32", device="cpu")
            config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
            get_peft_model(base, config).save_pretrained(str(aside))
    if adapter == "qlora":
        pytest.importorskip("bitsandbytes")
    code = re.search(r"```python\n(.*?)```", training.card(made, 0, CURVE), re.DOTALL)[1]
    names = {"FOLDER": str(tmp_path / "student")}
    exec(code, names)
    for module in names["model"].modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # repacks blocks of 64 weights, and the tiny model has rows of 32
    expected, _ = models.load_adapted(str(tiny_model), tmp_path / "student", dtype="float32", device="cpu")
    with torch.inference_mode():
        assert torch.allclose(names["model"].eval()(TOKENS).logits, expected(TOKENS).logits, atol=1e-5)
        assert torch.allclose(tiny.llama()(TOKENS).logits, expected(TOKENS).logits, atol=1e-5) == (adapter == "full")


def test_a_student_cut_into_experts_is_loaded_by_the_project(run, tmp_path):
    text = training.card(run(arm="fine-tuned", adapter="full").by(described("moebert")), 0, CURVE)
    assert "**Objective:** that of the related method `moebert`\n" in text
    model = tiny.llama()
    units = torch.arange(64).view(2, 32)
    experts.cut(model, [units] * tiny.LAYERS, [torch.arange(len(tiny.VOCABULARY)) % 2] * tiny.LAYERS)
    names = {"FOLDER": str(tiny.save_model(tmp_path / "student", model))}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    loaded = names["model"].float().cpu()
    with torch.inference_mode():
        assert torch.allclose(loaded(TOKENS).logits, model(TOKENS).logits, atol=0.2)  # where auto is bfloat16
    assert torch.equal(loaded.model.layers[1].mlp.table, model.model.layers[1].mlp.table)
