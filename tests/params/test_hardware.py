import pytest
import torch

from response_priming.errors import InputError
from response_priming.params import hardware


@pytest.fixture(autouse=True)
def asked_anew():
    hardware.precision_of.cache_clear()
    yield
    hardware.precision_of.cache_clear()


@pytest.fixture
def cpu(monkeypatch):
    """Makes this machine one without a GPU, whose CPU has these units."""

    def make(*units):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(units, True))

    return make


def gpu(monkeypatch, *, bf16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: bf16 or including_emulation)


# --- devices ---


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=rf"^model.device = '{device}': .*; allowed here: 'auto', 'cpu'$"):
        hardware.device_of(device)


@pytest.mark.parametrize(("available", "device"), [(False, "cpu"), (True, "cuda")])
def test_auto_takes_what_there_is(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert hardware.device_of("auto") == device
    assert hardware.device_of("cpu") == "cpu"


def test_apples_gpu_is_taken_by_name_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hardware.device_of("auto") == "cpu"
    assert hardware.device_of("mps") == "mps"
    assert hardware.precision_of("auto", "mps") == "float32"


# --- precision ---


@pytest.mark.parametrize(
    ("units", "native"),
    [
        ({"avx2": True, "fma3": True}, False),
        ({"avx2": True, "avx512_f": True, "avx512_bw": True, "avx512_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, False),
        ({"amx_tile": True, "amx_bf16": True}, True),
        ({"neon": True, "dot": True, "bf16": False}, False),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
    ids=["AVX2", "AVX-512", "AVX512-BF16", "AMX", "ARM", "ARM with BF16", "unknown"],
)
def test_a_cpu_multiplies_bf16_fast_where_it_has_matrix_units_for_it(units, native):
    assert hardware.multiplies_bf16(units) is native


def test_auto_is_what_the_cpu_multiplies(cpu, capsys):
    cpu("avx2")
    assert hardware.precision_of("auto", "auto") == "float32"
    hardware.precision_of.cache_clear()
    cpu("avx512_bf16", "amx_bf16")
    assert hardware.precision_of("auto", "auto") == "bfloat16"
    assert capsys.readouterr().err == ""


def test_where_torch_does_not_use_the_units_they_do_not_count(cpu, monkeypatch):
    cpu("neon", "bf16")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert hardware.precision_of("auto", "auto") == "float32"


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_gpu_multiplies(monkeypatch, bf16, precision):
    gpu(monkeypatch, bf16=bf16)
    assert hardware.precision_of("auto", "auto") == precision


def test_a_slow_precision_is_allowed_and_said_once(cpu, capsys):
    cpu("avx2")
    assert {hardware.precision_of("bfloat16", "cpu") for _ in range(3)} == {"bfloat16"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("model.dtype = 'bfloat16': this CPU has no matrix units for it; a training step takes ")


def test_a_precision_asked_for_is_taken_silently_where_it_is_native(cpu, capsys):
    cpu("amx_bf16")
    assert hardware.precision_of("bfloat16", "cpu") == "bfloat16"
    assert hardware.precision_of("float32", "cpu") == "float32"
    assert capsys.readouterr().err == ""


def test_float16_is_for_gpus(cpu, monkeypatch):
    cpu("avx512_bf16")
    with pytest.raises(InputError, match=r"^model.dtype = 'float16': not on a CPU; allowed there: 'auto', 'float32', "):
        hardware.precision_of("float16", "auto")
    gpu(monkeypatch, bf16=True)
    assert hardware.precision_of("float16", "cuda") == "float16"
