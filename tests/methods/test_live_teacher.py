import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from response_priming.errors import InputError
from response_priming.methods import live_teacher
from response_priming.methods.live_teacher import Taught, over_response
from response_priming.methods.losses import IGNORED

PRIMED = {"strategy": "ground-truth", "worked_examples": 2}


def by_hand(method, name, response):
    """The teacher's log-probabilities of a response's tokens, and its hidden states and attention there, unpadded."""
    model, prompt = tiny.llama(), method.teacher.prompts([name])[0]
    model.set_attn_implementation("eager")
    ids = torch.tensor([prompt + response[:-1]])
    with torch.no_grad():
        output = model(ids, output_hidden_states=True, output_attentions=True)
    own = slice(len(prompt) - 1, None)
    states = torch.stack([states[0, own] for states in output.hidden_states])
    attention = torch.stack([maps[0, :, own].mean(0) for maps in output.attentions])
    keys = torch.cat([attention[..., : len(prompt)].sum(-1, keepdim=True), attention[..., len(prompt) :]], -1)
    return output.logits[0, own].log_softmax(-1), states, keys


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("live", [{}, PRIMED])
def test_it_says_of_each_response_what_it_would_alone(make_method, batch, live, trained):
    method = make_method(Taught, live)
    if trained:
        vars(method)["teacher"] = live_teacher.LiveTeacher(method.run, trained=True)
    reading = method.teacher.read(batch["problem_ids"], batch["labels"], layers=(1, 2), maps=not trained)
    assert (method.teacher.shared > 100) == (live == PRIMED and not trained)
    for row, name in enumerate(batch["problem_ids"]):
        response = batch["labels"][row][batch["labels"][row] != IGNORED].tolist()
        n = len(response)
        logprobs, states, keys = by_hand(method, name, response)
        assert torch.allclose(reading.logprobs[row, :n], logprobs, atol=1e-4)
        assert torch.allclose(reading.states[:, row, :n], states[1:], atol=1e-4)
        if not trained:
            assert torch.allclose(reading.maps[:, row, :n, :n], keys, atol=1e-5)
            assert not reading.maps[:, row, :n, n:].any()


def test_the_shared_beginning_is_read_once(make_method, batch):
    teacher = make_method(Taught, PRIMED).teacher
    texts = [len(prompt) for prompt in teacher.prompts(batch["problem_ids"])]
    responses = (batch["labels"] != IGNORED).sum().item() - len(texts)
    counts = [teacher.read(batch["problem_ids"], batch["labels"]).tokens for _ in range(2)]
    assert counts[1] == sum(texts) + responses - len(texts) * teacher.shared
    assert counts[0] - counts[1] == teacher.shared > 0


def test_every_row_of_attention_with_its_bucket_sums_to_one(make_method, batch):
    reading = make_method(Taught, PRIMED).teacher.read(batch["problem_ids"], batch["labels"], layers=(1, 2), maps=True)
    real = batch["labels"] != IGNORED
    assert torch.allclose(reading.maps.sum(-1)[:, real], torch.tensor(1.0), atol=1e-6)


def test_all_keys_of_the_prompt_are_one_bucket():
    attention = torch.tensor([[[0.1, 0.3, 0.6, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4, 0.0], [0.5, 0.1, 0.1, 0.1, 0.2]]])
    found = over_response(attention, torch.tensor([[2, 3, 4]]), torch.tensor([[True, True, True]]))
    assert torch.allclose(found, torch.tensor([[[1.0, 0, 0], [0.6, 0.4, 0], [0.7, 0.1, 0.2]]]))


def test_it_is_in_evaluation_mode_and_without_gradients(make_method, batch):
    teacher = make_method(Taught).teacher
    reading = teacher.read(batch["problem_ids"], batch["labels"], layers=(2,), maps=True)
    assert not any(module.training for module in teacher.model.modules())
    assert not any(weight.requires_grad for weight in teacher.model.parameters())
    assert not any(part.requires_grad or part.is_inference() for part in reading[:3])


@pytest.mark.parametrize(("dtype", "quantization"), [("bfloat16", "none"), ("float32", "nf4"), ("bfloat16", "nf4")])
@pytest.mark.parametrize("trained", [False, True])
def test_it_is_asked_in_half_precision_and_in_4_bits(make_method, batch, dtype, quantization, trained):
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    method = make_method(Taught, PRIMED | {"dtype": dtype, "teacher_quantization": quantization})
    teacher = live_teacher.LiveTeacher(method.run, trained=trained)
    reading = teacher.read(batch["problem_ids"], batch["labels"], layers=(1, 2), maps=not trained)
    assert reading.logprobs.dtype == torch.float32
    assert torch.allclose(reading.logprobs.exp().sum(-1), torch.tensor(1.0), atol=1e-4)
    assert reading.states.isfinite().all()
    assert any("Linear4bit" in type(module).__name__ for module in teacher.model.modules()) == (quantization == "nf4")
    if trained:
        reading.logprobs[..., 5].sum().backward()
        assert any(weight.grad.any() for weight in teacher.model.parameters() if weight.requires_grad)


# --- what is refused ---


@pytest.mark.parametrize(
    ("live", "run", "message"),
    [
        (
            {"engine": "server", "server_url": "http://localhost"},
            {},
            r"^generate.engine = 'server': gives no dense log-probabilities while a student is trained; allowed: 'tr",
        ),
        ({}, {"hard_labels": "gold"}, r"^distill.hard_labels = 'gold': a live teacher reads responses"),
        ({}, {"alignment": "published"}, r"^distill.alignment = 'published': a live teacher reads responses"),
    ],
)
def test_what_cannot_be_asked_live_is_one_line(make_method, live, run, message):
    with pytest.raises(InputError, match=message):
        _ = make_method(Taught, live, run).teacher


def test_a_teacher_with_another_tokenizer_is_one_line(make_method, tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["more"])
    tiny.llama().save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    live = {"teacher": str(tmp_path / "other"), "signal": "text"}
    with pytest.raises(InputError, match=r"its tokens are not those of the student .*: 258 tokens against 257"):
        _ = make_method(Taught, live).teacher


def test_a_teacher_with_fewer_outputs_than_tokens_is_one_line(make_method, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=250, bos_token_id=None, eos_token_id=0, **sizes)
    tiny.save_model(tmp_path / "narrow", LlamaForCausalLM(config))
    with pytest.raises(InputError, match=r"250 of its outputs have a token, and 257 of the student's"):
        _ = make_method(Taught, {"teacher": str(tmp_path / "narrow")}).teacher
