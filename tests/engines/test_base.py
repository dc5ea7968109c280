import importlib
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import tiny
from hypothesis import example, given
from hypothesis import strategies as st

from response_priming import artifacts, engines
from response_priming.engines import base, vllm
from response_priming.errors import InputError
from response_priming.params import sections


def test_an_unknown_engine_is_refused():
    with pytest.raises(InputError, match=r"^engine = 'vlm': unknown; allowed: transformers, vllm, server, ray$"):
        engines.open_engine("vlm", engines.Setup("embedded"))


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("vllm", "vllm", "gpu"), ("server", "openai", "server"), ("ray", "ray", "cluster")]
)
def test_an_engine_that_is_not_installed_names_what_installs_it(monkeypatch, name, package, extra):
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=rf"^engine = '{name}': {package} is not installed: pip install '\.\[{extra}\]'$"
    ):
        engines.open_engine(name, engines.Setup("embedded"))


@pytest.mark.parametrize(("adapter", "quantization"), [("full", "none"), ("lora", "none"), ("qlora", "nf4")])
def test_vllm_starts_what_a_student_was_trained_on(monkeypatch, tiny_model, tmp_path, adapter, quantization):
    started = []
    monkeypatch.setattr(vllm, "_start", lambda setup, rank: started.append((setup, rank)) or MagicMock())
    request = SimpleNamespace(LoRARequest=lambda *about: about)
    monkeypatch.setitem(sys.modules, "vllm.lora.request", request)
    student = tmp_path / "student"
    with artifacts.writing(student, {"parameters": {"adapter": adapter}}) as aside:
        if adapter == "full":
            tiny.save_model(aside)
        else:
            (aside / "adapter_config.json").write_text('{"r": 4}')
    setup = engines.Setup(str(tiny_model), revision="abc", device="cpu", student=student)
    engine = vllm.VllmEngine.open(setup)
    ((found, rank),) = started
    base = (str(student), None) if adapter == "full" else (str(tiny_model), "abc")
    assert (found.model, found.revision, found.quantization, found.student) == (*base, quantization, None)
    assert (rank, engine.lora is None) == ((None, True) if adapter == "full" else (4, False))


@pytest.mark.parametrize("name", sections.Generate.model_fields["engine"].annotation.__args__)
def test_every_engine_that_a_profile_may_name_exists(name):
    assert callable(importlib.import_module(f"response_priming.engines.{name}").ENGINE.open)


def test_a_teachers_setup_carries_the_profiles_choices(make_run):
    values = {"teacher_quantization": "fp8", "tensor_parallel": 8, "pipeline_parallel": 2, "server_url": "http://x/v1"}
    setup = engines.teacher_of(make_run("generate", strategy="none", generate_batch=7, **values))
    assert (setup.quantization, setup.tensor_parallel, setup.pipeline_parallel) == ("fp8", 8, 2)
    assert (setup.server_url, setup.batch) == ("http://x/v1", 7)


@pytest.mark.parametrize(("prompt", "budget", "fits"), [([1] * 5, 5, True), ([1] * 6, 5, False), ([], 5, False)])
def test_a_prompt_must_fit_the_context_with_its_budget(prompt, budget, fits):
    if fits:
        base.check_context([[1], prompt], budget, 10)
    else:
        with pytest.raises(InputError, match=r"^prompt 1: "):
            base.check_context([[1], prompt], budget, 10)


@given(st.lists(st.floats(-200, 3), min_size=5, max_size=40), st.integers(1, 40))
def test_what_the_top_tokens_leave_is_in_the_tail(logits, k):
    logprobs = np.sort(np.array(logits) - np.logaddexp.reduce(logits))[::-1]
    k = min(k, len(logits))
    tail = base.tail_of(logprobs[None, :k], len(logits))
    signal = base.pack(np.arange(k)[None], logprobs[None, :k], tail)
    assert all(np.isfinite(array).all() for array in signal)
    if k == len(logits):
        assert signal.tail_logprobs[0] == base.LOWEST
    else:
        left = max(np.exp(logprobs[k:]).sum(), base.SMALLEST_TAIL)
        assert np.isclose(tail[0], np.log(left), atol=1e-6)


numbers = st.floats(-20, 5)


@example([0.0] * 5, [0.0], 5)
@given(st.lists(numbers, min_size=5, max_size=20), st.lists(numbers, min_size=0, max_size=6), st.integers(1, 25))
def test_listed_outputs_without_a_token_leave_their_probability_to_the_others(logits, padding, k):
    vocabulary, outputs = len(logits), len(logits) + len(padding)
    p = np.exp(np.array([logits + padding]) - np.logaddexp.reduce(logits + padding))
    ids = np.argsort(-p, axis=-1, kind="stable")
    for listed in (min(k + len(padding), outputs), min(k, outputs)):
        shown = ids[:, :listed]
        found = base.pack_listed(shown, np.log(np.take_along_axis(p, shown, -1)), k, vocabulary)
        own = shown[shown < vocabulary]
        assert found.top_ids[0].tolist() == own[:k].tolist()
        wanted = p[0, own[:k]] / (1 - p[0, shown[shown >= vocabulary]].sum())
        if len(wanted) == vocabulary:
            wanted /= wanted.sum()
        top, tail = (np.exp(part[0].astype(float)) for part in found[1:])
        assert np.allclose(top, wanted, atol=2e-3)
        assert top.sum() + tail == pytest.approx(1, abs=3e-3)
        assert len(own) == listed or len(own) >= min(k, vocabulary) or listed < k + len(padding)


def test_a_signal_of_impossible_tokens_stays_finite():
    signal = base.pack([[0, 1]], [[0.0, -np.inf]], [-np.inf])
    assert signal.top_logprobs.tolist() == [[0, base.LOWEST]]
    assert signal.tail_logprobs.tolist() == [base.LOWEST]
