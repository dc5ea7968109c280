"""Students side by side: each row's maps are those of its own adapter, and of one layer at a time."""

import weakref

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from response_priming import artifacts, models
from response_priming.attention import analysis
from response_priming.attention import maps as capture
from response_priming.attention.analysis import Reading, Text
from response_priming.errors import InputError

TOKENS = list(range(5, 17))
WHO = [("undistilled", 0), ("none", 0), ("teacher", 0), ("teacher", 1)]


def lora(seed):
    torch.manual_seed(seed)  # after the model is made, which sets a seed of its own
    return LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "k_proj"], init_lora_weights=False)


@pytest.fixture
def students():
    model = get_peft_model(tiny.llama(), lora(1), adapter_name="none-0")
    for seed in (0, 1):
        model.add_adapter(f"teacher-{seed}", lora(2 + seed))
    model.set_attn_implementation("eager")
    return model.eval()


def captured(model, who, **options):
    maps = []
    capture.visit_layers(model, who, TOKENS, maps.append, **options)
    return maps


def library_maps(model, rows, **arguments):
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        return model(torch.tensor([TOKENS] * rows), output_attentions=True, **arguments).attentions


def test_hooks_hand_over_what_the_library_returns():
    model = tiny.llama()
    expected = library_maps(model, 1)
    assert all(map(torch.equal, captured(model, WHO[:1]), expected))


def test_a_batch_of_students_is_handed_over_as_the_library_returns_it(students):
    names = ["__base__", "none-0", "teacher-0", "teacher-1"]
    expected = library_maps(students, len(WHO), adapter_names=names)
    found = captured(students, WHO)
    assert len(found) == tiny.LAYERS
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("row", range(len(WHO)))
def test_each_row_is_the_student_alone_with_its_adapter(students, row):
    found = torch.stack(captured(students, WHO))[:, row]
    arm, seed = WHO[row]
    if arm == "undistilled":
        expected = library_maps(tiny.llama(), 1)
    else:
        students.set_adapter(f"{arm}-{seed}")
        expected = library_maps(students, 1)
    assert torch.allclose(found, torch.cat(expected), atol=1e-6)


def test_students_differ_from_each_other(students):
    maps = torch.stack(captured(students, WHO))[-1]
    assert all((maps[one] - maps[other]).abs().max() > 1e-3 for one in range(4) for other in range(one))


def test_the_last_layers_can_be_left_out(students):
    assert len(captured(students, WHO, skip=1)) == tiny.LAYERS - 1
    with pytest.raises(InputError, match="skip_layers = 2: the student has 2 layers; allowed: fewer"):
        captured(students, WHO, skip=tiny.LAYERS)


def test_a_model_is_left_without_hooks(students):
    captured(students, WHO)
    assert not any(module._forward_hooks for module in students.modules())


def test_an_implementation_without_maps_is_named():
    model = tiny.llama()
    model.set_attn_implementation("sdpa")
    with pytest.raises(InputError, match="LlamaAttention: returns no attention maps; needs attention set to eager"):
        captured(model, WHO[:1])


# --- students on different weights ---


def save_full(folder, seed):
    model = tiny.llama()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


@pytest.fixture
def kinds(make_run):
    """A run with the undistilled student, and an arm of LoRA, of QLoRA and of all weights, two seeds each."""
    pytest.importorskip("bitsandbytes")
    arms = {"undistilled": None, "none": "lora", "teacher": "full", "confidence": "qlora"}
    run = make_run("attention-visualize", arms=list(arms), seeds=[0, 1], attention_prompts=1, explorer_prompts=1)
    for number, (arm, seed) in enumerate(run.students[1:]):
        recipe = {"parameters": {"student": run.student, "adapter": arms[arm]}}
        with artifacts.writing(run.student_of(arm, seed), recipe) as aside:
            if arms[arm] == "full":
                save_full(aside, number)
            else:
                get_peft_model(tiny.llama(), lora(number)).save_pretrained(str(aside))
    return run


def layer_types(model):
    return {type(module.get_base_layer()).__name__ for module in model.modules() if hasattr(module, "get_base_layer")}


def test_students_on_the_same_weights_are_loaded_once_and_the_largest_group_comes_last(kinds):
    groups, _ = capture.load(kinds)
    assert [who for _, who in groups] == [
        [("teacher", 0)],
        [("teacher", 1)],
        [("confidence", 0), ("confidence", 1)],
        [("undistilled", 0), ("none", 0), ("none", 1)],
    ]
    assert [layer_types(model) for model, _ in groups] == [set(), set(), {"Linear4bit"}, {"Linear"}]


def test_every_kind_of_student_reads_as_it_does_alone(kinds):
    groups, _ = capture.load(kinds)
    found = []
    capture.visit_groups(groups, kinds.students, TOKENS, found.append, skip=0)
    assert len(found) == tiny.LAYERS
    folders = capture.folders_of(kinds)
    for row, student in enumerate(kinds.students):
        alone, _ = models.load_adapted(kinds.student, folders.get(student), dtype=kinds.dtype, device="cpu")
        expected = torch.cat(library_maps(alone, 1))
        assert torch.allclose(torch.stack(found)[:, row], expected, atol=1e-5), student


def test_the_stage_measures_every_kind_of_student(kinds):
    metrics = analysis.analyse(kinds).metrics
    entropies = metrics.groupby(["arm", "seed"])["entropy"].mean()
    assert set(entropies.index) == set(kinds.students)
    assert entropies.nunique() == len(entropies)


class Peak(TorchDispatchMode):
    """The largest number of bytes that tensors made inside hold at one time."""

    def __init__(self):
        super().__init__()
        self.held, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self.drop, key, size)

    def drop(self, key, size):
        self.known.discard(key)
        self.held -= size


@pytest.mark.parametrize("rows", [1, 4])
def test_measuring_takes_less_than_half_the_memory_of_all_maps(rows):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 30, "vocab_size": 300}
    config = LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=2, attn_implementation="eager")
    model = LlamaForCausalLM(config).eval()
    text = Text("a", torch.randint(300, (128,)).tolist(), 100)
    with torch.inference_mode(), Peak() as every:
        model(torch.tensor([text.tokens] * rows), output_attentions=True, use_cache=False, logits_to_keep=1)
    who = [("undistilled", seed) for seed in range(rows)]
    with Peak() as single:
        capture.visit_layers(model, who, text.tokens, Reading(who, text).take)
    assert single.peak < every.peak / 2
