"""The first hour on a GPU: what this suite does there, smallest first, each with a verdict and a time.

A check is a function of `Sizes` that yields lines, its figures. Its docstring says what it compares, and how close is
close enough and why. It ends well, or raises `Failed` or `NotRun` with a reason; each has a process of its own, so that
neither a crash nor memory that was not given back is felt by the next. Without a GPU all run at small sizes on the CPU.
"""

import importlib.metadata
import inspect
import os
import pkgutil
import platform
import re
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, cast

from response_priming import params, paths, progress, provenance
from response_priming.errors import InputError
from response_priming.machines.sizes import Architecture, architecture

CHECKS = {
    "device": "check:device",
    "attention": "check_stages:attention",
    "engine": "check_stages:engine",
    "bf16": "check_training:bf16",
    "nf4": "check_training:nf4",
    "objective": "check_objective:objective",
    "vllm": "check_stages:vllm",
    "whole model": "check_training:whole",
    "whole paper": "check_stages:paper",
}
VERSIONS = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "triton", "liger-kernel", "vllm", "numpy")
RESULTS = paths.ROOT / "benchmarks" / "results"


class Failed(Exception):  # noqa: N818 - a verdict
    """What a check found wrong, in one line."""


class NotRun(Exception):  # noqa: N818 - a verdict
    """Why a check cannot be tried here, in one line."""


@dataclass(frozen=True)
class Sizes:
    """What the checks compute on, and how much.

    `model`: the student's shape, of which `layers` are built where a check has no need of all. `rows` sequences of
    `tokens` are a training batch. `head_tokens`: positions that the objective is measured at. `engine`: the shape of
    the model that answers `prompts` with `answer` tokens each.
    """

    device: str
    precision: str
    model: Architecture
    layers: int
    rows: int
    tokens: int
    head_tokens: tuple[int, ...]
    engine: Architecture
    prompts: int
    answer: int


class Outcome(NamedTuple):
    """What came of a check: `passed`, `failed: why` or `not run: why`; seconds, its process's start included; lines."""

    name: str
    verdict: str
    seconds: float
    lines: list[str]


def sizes() -> Sizes:
    """Llama 3.1 8B's shapes where there is a CUDA device, else small ones."""
    device = params.device_of("auto")
    precision = params.precision_of("auto", device)
    if device == "cuda":
        model = architecture("meta-llama/Llama-3.1-8B-Instruct")
        small = architecture("embedded").model_copy(update={"vocab_size": 257, "tie_word_embeddings": False})
        return Sizes(device, precision, model, 2, 8, 512, (1024, 8192), small, 16, 32)
    from response_priming.machines.stand_ins import TINY

    return Sizes(device, precision, TINY, 2, 4, 32, (320,), TINY, 6, 12)


def run(folder: Path | None = None) -> list[Outcome]:
    """Run all checks, saying each verdict as it comes; `folder/gpu-NAME.md` has those so far, NAME is the device's.

    Args:
        folder: where to write; by default benchmarks/results where there is a GPU, else nowhere.
    """
    given, done = sizes(), list[Outcome]()
    target = folder or (RESULTS if given.device == "cuda" else None)
    for name, place in CHECKS.items():
        progress.say(f"[gpu-check] {name} ...")
        done.append(isolated(name, place, given))
        progress.say(f"[gpu-check] {name}: {done[-1].verdict} ({progress.duration(done[-1].seconds)})")
        if target:
            paths.write(target / f"gpu-{slug(called(given.device))}.md", report(done, called(given.device)))
    return done


def isolated(name: str, place: str, given: Sizes) -> Outcome:
    """A check's outcome, in a process of its own."""
    begun = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            verdict, lines = pool.submit(outcome, place, given).result()
        except BrokenProcessPool:
            verdict, lines = "failed: its process was killed, perhaps for the memory it took", []
    return Outcome(name, verdict, time.monotonic() - begun, lines)


def outcome(place: str, given: Sizes) -> tuple[str, list[str]]:
    """The verdict of a check, `module:function`, and its lines, those before a failure, too."""
    lines = []
    try:
        for line in found(place)(given):
            progress.say(f"[gpu-check]   {line}")
            lines.append(line)
    except (Failed, InputError) as error:
        return f"failed: {error}", lines
    except NotRun as error:
        return f"not run: {error}", lines
    except Exception as error:  # whatever it is, the other checks are of use
        traceback.print_exc()
        return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}", lines
    return "passed", lines


def found(place: str) -> Callable[[Sizes], Iterator[str]]:
    """The function of a check."""
    return cast("Callable[[Sizes], Iterator[str]]", pkgutil.resolve_name(f"{__package__}.{place}"))


def called(device: str) -> str:
    """The device's name."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {platform.machine()}"


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def report(done: list[Outcome], name: str) -> str:
    """The outcomes as a page in Markdown."""
    made = provenance.here()
    commit = f"commit {(made['git_commit'] or 'unknown')[:10]} ({provenance.state_of(made)})"
    head = [
        f"# The suite on {name}",
        "",
        f"`make gpu-check`, {made['date']} UTC, {commit}, {made['machine']}. Random weights, nothing from the hub. "
        "Seconds contain the start of a process for each check.",
        "",
        "| check | verdict | seconds |",
        "|---|---|---|",
        *(f"| {one.name} | {one.verdict} | {one.seconds:.0f} |" for one in done),
    ]
    for one in done:
        said = [line if line.startswith("|") else f"- {line}" for line in one.lines]
        head += ["", f"## {one.name}", "", inspect.getdoc(found(CHECKS[one.name])) or "", "", *said]
    return "\n".join(head).rstrip() + "\n"


# --- the first check ---


def device(given: Sizes) -> Iterator[str]:
    """What computes, in which versions.

    A product of two matrices in the working precision is compared with float64's: off by less than 1 % of its size, as
    numbers of 8 bits are off by 0.2 % each, at random.
    """
    import torch

    yield f"device: {called(given.device)}; precision: {given.precision}"
    if given.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        yield f"memory: {about.total_memory / 2**30:.1f} GiB; compute capability {about.major}.{about.minor}"
        yield f"bfloat16: {'native' if native else 'not native'}; CUDA {torch.version.cuda}, driver {_driver()}"
    yield f"Python {platform.python_version()}; {', '.join(f'{name} {_version(name)}' for name in VERSIONS)}"
    yield f"processor cores: {os.cpu_count()}"
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(2, 512, 512, generator=generator, dtype=torch.float64)
    a, b = exact.to(given.device, getattr(torch, given.precision))
    off = float(((a @ b).cpu().double() - exact[0] @ exact[1]).norm() / (exact[0] @ exact[1]).norm())
    yield f"a product of matrices is off by {100 * off:.3g} %"
    if not off < 0.01:
        raise Failed(f"a product of matrices is off by {100 * off:.3g} %")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _driver() -> str:
    if not (program := shutil.which("nvidia-smi")):
        return "unknown"
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return said[0] if said else "unknown"
