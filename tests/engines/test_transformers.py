import random

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import MistralConfig, MistralForCausalLM

from response_priming import engines
from response_priming.engines import base, cascade, transformers
from response_priming.errors import InputError

LENGTH = 12


def some_prompts(number, shared, seed=0):
    """Prompts of different lengths with `shared` tokens in common."""
    choose = random.Random(seed)
    common = [choose.randint(1, 256) for _ in range(shared)]
    rest = [[choose.randint(1, 256) for _ in range(choose.randint(2, 30))] for _ in range(number)]
    return [[*common, number + 1, *tokens] for number, tokens in enumerate(rest)]


def plain(model, prompt, max_tokens=LENGTH):
    """New tokens of one prompt by the library alone."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


def respond(model, prompts, batch=4, max_tokens=LENGTH, top_k=0):
    engine = transformers.TransformersEngine(model, tiny.tokenizer(), batch=batch)
    return dict(engine.respond(prompts, max_tokens=max_tokens, top_k=top_k))


@pytest.fixture(scope="module")
def prompts():
    return some_prompts(9, shared=40)


@pytest.fixture(scope="module")
def endless():
    """A model that answers until its budget ends."""
    model = tiny.llama()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def expected(endless, prompts):
    return [plain(endless, prompt) for prompt in prompts]


@pytest.fixture
def stopping(expected):
    """A model for which two tokens end a sequence, so that some of the prompts' responses end early and some do not."""
    model = tiny.llama()
    model.generation_config.eos_token_id = [expected[0][3], expected[1][5]]
    return model


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("shared", [0, 40])
def test_batches_answer_as_the_library_does_one_at_a_time(batch, shared):
    model, prompts = tiny.llama(), some_prompts(9, shared, seed=1)
    assert cascade.shared_prefix(prompts) == shared
    answered = respond(model, prompts, batch)
    assert {index: response.tokens for index, response in answered.items()} == {
        index: plain(model, prompt) for index, prompt in enumerate(prompts)
    }


def test_a_beginning_that_the_next_prompts_share_too_is_read_once(endless, prompts, expected, monkeypatch):
    engine = transformers.TransformersEngine(endless, tiny.tokenizer(), batch=4)
    read, forward = [], endless.forward
    monkeypatch.setattr(
        endless, "forward", lambda *_, input_ids, **rest: read.append(input_ids) or forward(input_ids=input_ids, **rest)
    )
    others = some_prompts(3, shared=40, seed=2)
    for asked, wanted in ((prompts[:4], expected[:4]), (prompts[4:], expected[4:]), (others, None)):
        answered = dict(engine.respond(asked, max_tokens=LENGTH))
        wanted = wanted or [plain(tiny.llama(), prompt) for prompt in asked]
        assert [answered[index].tokens for index in range(len(asked))] == wanted
    assert [ids[0].tolist() for ids in read if ids.shape == (1, 40)] == [prompts[0][:40], others[0][:40]]


@pytest.mark.parametrize(("dtype", "adapted"), [("float32", False), ("bfloat16", True)])
def test_a_students_adapter_is_part_of_its_weights_where_that_rounds_nothing(tmp_path, tiny_model, dtype, adapted):
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    student = get_peft_model(tiny.llama(), config).eval()
    student.save_pretrained(tmp_path)
    engine = transformers.TransformersEngine.open(
        engines.Setup(str(tiny_model), dtype=dtype, device="cpu", student=tmp_path)
    )
    assert any("lora_" in name for name, _ in engine.model.named_parameters()) is adapted
    ids = torch.tensor([[5, 6, 7]])
    expected, found = (model(input_ids=ids).logits.float() for model in (student, engine.model))
    assert torch.allclose(found, expected, atol=1e-4 if dtype == "float32" else 0.5)
    assert not torch.allclose(found, tiny.llama()(input_ids=ids).logits, atol=0.6)


def test_a_single_prompt_is_answered(endless, prompts, expected):
    assert respond(endless, prompts[:1])[0].tokens == expected[0]


def test_repeated_prompts_are_each_answered(endless, prompts, expected):
    assert [r.tokens for r in respond(endless, prompts[:1] * 3).values()] == [expected[0]] * 3


def test_every_prompt_is_answered_under_its_own_index_whatever_the_order(endless, prompts, expected):
    order = random.Random(2).sample(range(len(prompts)), len(prompts))
    answered = respond(endless, [prompts[index] for index in order])
    assert [answered[place].tokens for place in range(len(order))] == [expected[index] for index in order]


def test_a_response_ends_with_the_first_stop_token_or_with_the_budget(stopping, prompts, expected):
    stops = set(stopping.generation_config.eos_token_id)
    answered = respond(stopping, prompts)
    for index, tokens in enumerate(expected):
        end = next((place for place, token in enumerate(tokens) if token in stops), None)
        assert answered[index].finished == (end is not None)
        assert answered[index].tokens == (tokens if end is None else tokens[: end + 1])
    ends = {response.tokens[-1] for response in answered.values() if response.finished}
    assert ends == stops
    assert not all(response.finished for response in answered.values())


def test_the_text_leaves_out_the_end_of_sequence_token(prompts):
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    ended = [response for response in respond(model, prompts).values() if response.finished]
    assert ended
    for response in ended:
        assert response.tokens[-1] == tokenizer.eos_token_id
        assert response.text == tokenizer.decode(response.tokens[:-1])


@pytest.mark.parametrize("shared", [0, 40])
def test_the_signal_is_the_models_own_distribution(stopping, shared):
    prompts = some_prompts(6, shared, seed=0)
    for index, response in respond(stopping, prompts, top_k=5).items():
        with torch.inference_mode():
            logits = stopping(torch.tensor([prompts[index] + response.tokens])).logits[0, len(prompts[index]) - 1 : -1]
        top = logits.log_softmax(-1).topk(5)
        assert np.array_equal(response.signal.top_ids, top.indices.numpy())
        assert np.allclose(response.signal.top_logprobs, top.values.numpy(), rtol=1e-3, atol=1e-3)
        assert response.signal.top_ids[:, 0].tolist() == response.tokens


def test_the_log_probability_of_a_drawn_token_is_said_even_outside_the_k(endless, prompts):
    engine = transformers.TransformersEngine(endless, tiny.tokenizer(), batch=4)
    outside = 0
    for index, response in engine.respond(prompts, max_tokens=LENGTH, top_k=2, temperature=2.0):
        with torch.inference_mode():
            logits = endless(torch.tensor([prompts[index] + response.tokens])).logits[0, len(prompts[index]) - 1 : -1]
        wanted = logits.log_softmax(-1).gather(-1, torch.tensor(response.tokens)[:, None])[:, 0]
        assert np.allclose(response.token_logprobs, wanted.numpy(), rtol=1e-3, atol=1e-3)
        outside += (response.signal.top_ids != np.array(response.tokens)[:, None]).all(-1).sum()
    assert outside > LENGTH


@pytest.mark.parametrize("shared", [0, 40])
def test_the_tail_is_what_the_top_tokens_leave(endless, shared):
    prompts = some_prompts(3, shared)
    few, all_ = (respond(endless, prompts, top_k=k) for k in (5, len(tiny.VOCABULARY)))
    for index, response in few.items():
        left = np.logaddexp.reduce(all_[index].signal.top_logprobs[:, 5:].astype(float), axis=-1)
        assert np.allclose(response.signal.tail_logprobs.astype(float), left, atol=0.02)
        assert (all_[index].signal.tail_logprobs == base.LOWEST).all()


def test_places_are_taken_again_as_they_become_free(stopping):
    prompts = some_prompts(40, shared=40, seed=3)
    answered = respond(stopping, prompts, batch=5)
    assert len({len(response.tokens) for response in answered.values()}) > 1
    for index in range(0, 40, 7):
        assert answered[index].tokens == plain(stopping, prompts[index])


def test_out_of_memory_halves_the_batch_and_says_so_once(endless, prompts, expected, monkeypatch, capfd):
    engine = transformers.TransformersEngine(endless, tiny.tokenizer(), batch=8)
    forward = transformers.TransformersEngine._forward

    def limited(self, request, slots, first, sequences, ids, columns):
        if len(sequences) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        forward(self, request, slots, first, sequences, ids, columns)

    monkeypatch.setattr(transformers.TransformersEngine, "_forward", limited)
    answered = dict(engine.respond(prompts, max_tokens=LENGTH))
    assert [answered[index].tokens for index in range(len(prompts))] == expected
    assert engine.batch == 4
    assert capfd.readouterr().err.count("Out of memory: the batch is now 4.") == 1


def test_other_errors_are_not_taken_for_out_of_memory(endless, prompts, monkeypatch):
    monkeypatch.setattr(endless, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        respond(endless, prompts)


def test_draws_depend_on_the_seed_and_the_place_alone(endless, prompts):
    def draw(batch, seed):
        engine = transformers.TransformersEngine(endless, tiny.tokenizer(), batch=batch)
        given = dict(engine.respond(prompts[:1] * 6, max_tokens=LENGTH, temperature=1.0, seed=seed))
        return [given[index].tokens for index in range(6)]

    first = draw(6, 0)
    assert first == draw(2, 0)
    assert first != draw(6, 1)
    assert len({tuple(tokens) for tokens in first}) > 1


def test_draws_follow_the_tempered_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    draws = [transformers.choose(logits, 2.0, [random.Random(seed)])[0] for seed in range(3000)]
    wanted = (logits[0] / 2).softmax(-1).numpy()
    assert np.allclose(np.bincount(draws, minlength=3) / 3000, wanted, atol=0.03)


def test_the_signal_of_drawn_responses_is_at_temperature_one(endless, prompts):
    engine = transformers.TransformersEngine(endless, tiny.tokenizer(), batch=2)
    ((_, response),) = engine.respond(prompts[:1], max_tokens=6, temperature=3.0, top_k=5)
    ((_, scored),) = engine.score([prompts[0] + response.tokens], top_k=5)
    at = slice(len(prompts[0]) - 1, -1)
    assert np.allclose(response.signal.top_logprobs, scored.top_logprobs[at], atol=5e-3)


def test_scores_are_the_models_own_distributions_at_every_position(endless):
    engine = transformers.TransformersEngine(endless, tiny.tokenizer(), batch=3)
    sequences = some_prompts(7, shared=0)
    for index, signal in engine.score(sequences, top_k=4):
        with torch.inference_mode():
            top = endless(torch.tensor([sequences[index]])).logits[0].log_softmax(-1).topk(4)
        assert np.array_equal(signal.top_ids, top.indices.numpy())
        assert np.allclose(signal.top_logprobs, top.values.numpy(), atol=1e-2)
        assert signal.tail_logprobs.shape == (len(sequences[index]),)


def test_a_prompt_longer_than_the_context_is_refused(endless):
    with pytest.raises(
        InputError, match=r"^prompt 0: its 2040 tokens and 12 new ones exceed .* context of 2048 tokens$"
    ):
        respond(endless, [[1] * 2040])


def test_a_model_without_full_attention_is_refused():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 300}
    model = MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=16))
    with pytest.raises(InputError, match=r"^engine transformers: mistral attends by \w+, which is not full attention"):
        respond(model, [[5] * 20])
    assert respond(model, [[5] * 3])[0].tokens


def test_more_tokens_than_there_are_keep_the_whole_distribution(endless, prompts):
    response = respond(endless, prompts[:2], top_k=1000)[1]
    assert response.signal.top_ids.shape == (LENGTH, len(tiny.VOCABULARY))
    assert np.allclose(np.exp(response.signal.top_logprobs.astype(np.float64)).sum(-1), 1, atol=2e-3)


def test_no_signal_where_none_is_asked_for(endless, prompts):
    response = respond(endless, prompts[:1])[0]
    assert (response.signal, response.token_logprobs) == (None, None)


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=50)


@given(st.integers(0, 50), st.lists(tokens, min_size=1, max_size=5))
def test_a_shared_prefix_is_common_to_all_longest_and_leaves_a_token(common, rest):
    prompts = [[1] * common + tokens for tokens in rest]
    length = cascade.shared_prefix(prompts)
    limit = min(map(len, prompts)) - 1
    common = next((place for place in range(limit) if len({prompt[place] for prompt in prompts}) > 1), limit)
    assert length == (common if common >= cascade.SHORTEST_SHARED_PREFIX and len(prompts) > 1 else 0)


@pytest.mark.parametrize("top_k", [1, 5, 257, 1000])
def test_outputs_without_a_token_are_as_if_there_were_none(prompts, top_k):
    plain_model, padded = tiny.llama(), tiny.padded_llama()
    assert any(token >= len(tiny.VOCABULARY) for token in plain(padded, prompts[0]))
    for temperature in (0.0, 1.5):
        both = [transformers.TransformersEngine(one, tiny.tokenizer(), batch=4) for one in (plain_model, padded)]
        asked = {"max_tokens": LENGTH, "top_k": top_k, "temperature": temperature}
        wanted, found = (dict(one.respond(prompts[:3], **asked)) for one in both)
        for index, response in wanted.items():
            assert (found[index].tokens, found[index].text) == (response.tokens, response.text)
            assert all(map(np.array_equal, found[index].signal, response.signal))
    wanted, found = (dict(one.score(prompts[:2], top_k=top_k)) for one in both)
    assert all(map(np.array_equal, found[0], wanted[0]))


def test_decoding_ends_with_the_tokenizers_end_and_with_all_of_the_generation_config(tmp_path, prompts, expected):
    tokenizer = tiny.tokenizer()
    end, other = expected[0][3], expected[1][5]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tiny.save_model(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for listed, ends in ((other, {end, other}), ([other, 0], {0, end, other}), (None, {end})):
        config = tiny.llama().generation_config
        config.eos_token_id = listed
        config.save_pretrained(tmp_path)
        engine = transformers.TransformersEngine.open(engines.Setup(str(tmp_path), dtype="float32", device="cpu"))
        assert engine.describe()["end_tokens"] == sorted(ends)
        answered = dict(engine.respond(prompts, max_tokens=LENGTH))
        for index, tokens in enumerate(expected):
            length = next((place + 1 for place, token in enumerate(tokens) if token in ends), LENGTH)
            assert answered[index].tokens == tokens[:length]
            assert answered[index].finished is (tokens[length - 1] in ends)
