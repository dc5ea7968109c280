"""What a run computes on: the device, and the precision that is fast there."""

import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from response_priming.errors import InputError

# What `torch.cpu.get_capabilities` calls the matrix units that multiply bf16: of x86, and of 64-bit ARM. AVX512-BF16 is
# not among them: a training step takes 1.7 times as long in bf16 there as in float32 (benchmarks/precision.py).
BF16_UNITS = ("amx_bf16", "bf16", "sve_bf16")


def device_of(name: str) -> str:
    """`cpu`, `cuda` or `mps` (Apple's GPU); `auto` takes a CUDA device where there is one, else the CPU."""
    import torch  # here, as parameters are read by processes that compute nothing

    available = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        there = ", ".join(repr(device) for device, usable in available.items() if usable)
        raise InputError(
            f"model.device = {name!r}: this machine has no usable {name.upper()} device; allowed here: {there}"
        )
    if name == "auto":
        return "cuda" if available["cuda"] else "cpu"
    return name


def multiplies_bf16(capabilities: Mapping[str, Any]) -> bool:
    """Whether a CPU has matrix units for bf16; the others multiply it more slowly than float32, and some emulate it.

    Args:
        capabilities: as `torch.cpu.get_capabilities` gives them.
    """
    return any(capabilities.get(unit, False) for unit in BF16_UNITS)


@functools.cache
def cpu_flags() -> dict[str, bool]:
    """What Linux says that this machine's CPU can, as `torch.cpu.get_capabilities` would, without torch; empty
    elsewhere, where torch does not use units for bf16."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    found = re.search(r"^(?:flags|Features)\s*: (.+)$", about, re.MULTILINE)
    return dict.fromkeys(found[1].split(), True) if found else {}


@functools.cache
def precision_of(dtype: str, device: str) -> str:
    """The precision, a torch dtype's name, that weights have and products are computed in.

    `auto` is bfloat16 on a GPU or CPU with units for it, else float32. bfloat16 asked for by name on a CPU without them
    is allowed, and what it costs is said on standard error.

    Raises:
        InputError: there is no such device; float16 on a CPU.
    """
    where = device_of(device)
    if dtype == "float16" and where == "cpu":
        raise InputError("model.dtype = 'float16': not on a CPU; allowed there: 'auto', 'float32', 'bfloat16'")
    if dtype not in ("auto", "bfloat16"):
        return dtype
    import torch

    if where == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Without oneDNN, as on macOS, torch does not use what the CPU has.
        used = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        native = where == "cpu" and used and multiplies_bf16(torch.cpu.get_capabilities())
    if dtype == "auto":
        return "bfloat16" if native else "float32"
    if where == "cpu" and not native:
        print(
            "model.dtype = 'bfloat16': this CPU has no matrix units for it; a training step takes about "
            "1.7 (AVX512-BF16) to 25 times (AVX2) as long as in float32",
            file=sys.stderr,
            flush=True,
        )
    return dtype
