"""Sizes of models: against what is published, and against the models themselves."""

import json

import pytest
from peft import LoraConfig, get_peft_model

from response_priming import models
from response_priming.errors import InputError
from response_priming.machines.sizes import architecture

LLAMA = "meta-llama/Llama-3.1-405B-Instruct"


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [(LLAMA, 810), (f"{LLAMA}-FP8", 405), ("hugging-quants/Meta-Llama-3.1-405B-Instruct-AWQ-INT4", 203)],
)
def test_the_largest_llama_is_as_large_as_its_makers_say(name, gigabytes):
    about = architecture(name)
    assert about.weights("none", "bfloat16") / 1e9 == pytest.approx(gigabytes, rel=0.08)
    assert about.parameters / 1e9 == pytest.approx(405.85, abs=0.01)
    assert about.cache("bfloat16") == 2 * 126 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("size", "billions"), [("3.1-8B", 8.03), ("3.1-70B", 70.55), ("3.2-1B", 1.236), ("3.2-3B", 3.213)]
)
def test_llamas_have_the_parameters_on_their_cards(size, billions):
    assert architecture(f"meta-llama/Llama-{size}-Instruct").parameters / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_embedded_model_is_as_its_file_says():
    about, skeleton = architecture("embedded"), models.skeleton("embedded")
    assert about.parameters == skeleton.num_parameters()
    assert about.weights("none", "bfloat16") == 2 * skeleton.num_parameters()
    config = json.loads((models.embedded() / "config.json").read_text())
    assert {key: config[key] for key in about.model_fields_set} == about.model_dump(exclude_unset=True)


def test_a_folders_config_is_read_and_its_adapter_counted(tiny_model):
    about, skeleton = architecture(str(tiny_model)), models.skeleton(str(tiny_model))
    assert about.parameters == skeleton.num_parameters()
    targets = ["q_proj", "v_proj", "down_proj"]
    adapted = get_peft_model(skeleton, LoraConfig(r=3, target_modules=targets))
    assert about.adapter(3, targets) == adapted.get_nb_trainable_parameters()[0]


def test_a_quantised_checkpoint_is_known_by_its_config(tmp_path, tiny_model):
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    plain, quantised = architecture(str(tiny_model)), architecture(str(tmp_path))
    saved = plain.weights("none", "bfloat16") - quantised.weights("none", "bfloat16")
    assert saved == pytest.approx(plain.linear * (2 - 4.16 / 8))
    assert quantised.weights("nf4", "bfloat16") > quantised.weights("none", "bfloat16")


def test_what_is_no_decoder_or_not_to_be_had_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "num_attention_heads": 2}')
    with pytest.raises(InputError, match=r"config.json: num_hidden_layers: is missing; allowed: a decoder as Llama's"):
        architecture(str(tmp_path))
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(
        InputError, match=r"no/such: its config is neither here nor to be had \(no network\); known: meta-"
    ):
        architecture("no/such")
