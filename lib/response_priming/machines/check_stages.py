"""Stages on the device beside the CPU: attention and attribution, the engines, and a whole paper on a tiny model."""

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from response_priming import engines
from response_priming.attention.maps import visit_layers
from response_priming.attribution.relevance import RULES, propagate
from response_priming.machines import stand_ins
from response_priming.machines.check import Failed, NotRun, Sizes, called

MAPS, RELEVANCE = 1e-4, 1e-2
# The signal is rounded to fp16, in steps of 1/128 at -8 to -16; kernels that add in another order are far closer.
ABSOLUTE, RELATIVE = 5e-3, 2e-3
CLOSE_CALL = 0.02  # nats between two tokens that rounding may exchange
TOP_K = 16
# What the page is made with, beside what its notebooks need, and what attribution needs.
PAGE, ATTRIBUTION = ("pypandoc", "rocrate", "bs4", "nbconvert"), "captum"


def attention(sizes: Sizes) -> Iterator[str]:
    """Attention maps and what tokens contribute to a response (relevance), on the device and on the CPU in float32.

    Maps are the same to 1e-4, relevance to 1 % of the largest: sums in another order, through all layers.
    """
    found: dict[str, list[Any]] = {}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, sizes.engine.vocab_size, (1, 24), generator=generator)
    for device in ("cpu", sizes.device):
        model: Any = stand_ins.llama(sizes.engine, _spread(sizes))
        model.to(device).set_attn_implementation("eager")
        maps: list[torch.Tensor] = []
        visit_layers(model, [("undistilled", 0)], ids[0].tolist(), maps.append)
        prompt, response = ids[:, :16].to(device), ids[:, 16:].to(device)
        maps = [some.cpu() for some in maps]
        relevance = [propagate(model, prompt, response, method)[0] for method in RULES]
        found.setdefault("maps", []).append(torch.stack(maps))
        found.setdefault("relevance", []).append(np.stack(relevance))
    off = float((found["maps"][0] - found["maps"][1]).abs().max())
    yield f"maps of {len(found['maps'][0])} layers differ by {off:.2g} at most"
    there, here = found["relevance"]
    share = float(np.abs(there - here).max() / np.abs(there).max())
    yield f"relevance by {len(RULES)} rules differs by {100 * share:.2g} % of the largest at most"
    if not (off <= MAPS and share <= RELEVANCE):
        raise Failed("maps or relevance are not the CPU's")


def engine(sizes: Sizes) -> Iterator[str]:
    """Greedy responses and log-probabilities of the engine `transformers` on the device and on the CPU, in float32;
    then on the device one prompt at a time.

    A response may leave the other's at a close call alone, two tokens within 0.02 nats. Log-probabilities are the same
    to 5e-3 + 0.2 %, as they are stored in fp16. Then the speed in the working precision.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, prompts = _answering(sizes, Path(scratch)), _prompts(sizes)
        ours = _responses("transformers", sizes, folder, prompts, device="cpu")
        yield from compared(ours, _responses("transformers", sizes, folder, prompts), "the device and the CPU")
        alone = _responses("transformers", sizes, folder, prompts, batch=1)
        yield from compared(_responses("transformers", sizes, folder, prompts), alone, "a batch and one at a time")
        setup = engines.Setup(str(folder), dtype=sizes.precision, device=sizes.device, batch=len(prompts))
        opened = engines.open_engine("transformers", setup)
        for _ in range(2):  # the first time, kernels are loaded
            begun = time.monotonic()
            given = sum(len(response.tokens) for _, response in opened.respond(prompts, max_tokens=sizes.answer))
            took = time.monotonic() - begun
        yield f"{given / took:,.0f} tokens/s, {len(prompts)} responses at once, {sizes.precision}"


def vllm(sizes: Sizes) -> Iterator[str]:
    """Greedy responses and log-probabilities of the engine `vllm` and of `transformers`, both on the device in float32;
    tolerances as for `engine`."""
    if importlib.util.find_spec("vllm") is None:
        raise NotRun("vLLM is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        folder, prompts = _answering(sizes, Path(scratch)), _prompts(sizes)
        ours = _responses("transformers", sizes, folder, prompts)
        gc.collect()
        torch.cuda.empty_cache()
        yield from compared(ours, _responses("vllm", sizes, folder, prompts), "vLLM and transformers")


def paper(sizes: Sizes) -> Iterator[str]:
    """`make paper` on a model of two layers with a teacher, two strategies and four arms: every notebook on the device,
    then the page, where what it is made with is installed, and the attribution."""
    if not shutil.which("make"):
        raise NotRun("make is not installed")
    lacking = [name for name in PAGE if importlib.util.find_spec(name) is None]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        stand_ins.project(root, stand_ins.save(root / "model", stand_ins.llama()), device=sizes.device)
        # This Python with its packages, wherever they are.
        (root / "bin").mkdir()
        command = root / "bin" / "response-priming"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m response_priming "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        goals = [f"build/tiny/notebooks/{name}.ipynb" for name in _notebooks(root)] if lacking else ["paper"]
        goals += ["attribution"] if importlib.util.find_spec(ATTRIBUTION) else []
        jobs = max(1, (os.cpu_count() or 1) // 2)
        begun = time.monotonic()
        done = _made(root, f"-j{min(jobs, 6)}", *goals)
        took = time.monotonic() - begun
        executed = sorted(file.stem for file in (root / "build" / "tiny" / "notebooks").glob("*.ipynb"))
        yield f"{len(executed)} notebooks in {took:.0f} s: {', '.join(executed)}"
        yield f"without the page: {', '.join(lacking)} not installed" if lacking else "the page is made"
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            yield from said[-12:]
            raise Failed(f"make ended with {done.returncode}")
        students = sorted((root / "build" / "tiny" / "students").glob("*/seed-*/manifest.json"))
        where = {", ".join(json.loads(file.read_text(encoding="utf-8"))["hardware"]) for file in students}
        yield f"{len(students)} students, trained on: {'; '.join(sorted(where))}"
        if sizes.device == "cuda" and not all(called("cuda") in machine for machine in where):
            raise Failed("a student was not trained on the GPU")


def _spread(sizes: Sizes) -> float:
    """The weights' standard deviation: a wide model's are small."""
    return 0.3 if sizes.engine.hidden_size < 100 else 0.05


def _answering(sizes: Sizes, folder: Path) -> Path:
    """A folder with a model that answers."""
    return stand_ins.save(folder, stand_ins.llama(sizes.engine, _spread(sizes)))


def _prompts(sizes: Sizes) -> list[list[int]]:
    """Prompts of several lengths with a beginning that all share."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(1, sizes.engine.vocab_size, (sizes.prompts, 40), generator=generator).tolist()
    return [[*drawn[0][:8], *prompt[: 8 + place % 24]] for place, prompt in enumerate(drawn)]


def _responses(
    name: str, sizes: Sizes, folder: Path, prompts: list[list[int]], *, device: str = "", batch: int = 16
) -> dict[int, engines.Response]:
    setup = engines.Setup(str(folder), dtype="float32", device=device or sizes.device, batch=batch)
    return dict(engines.open_engine(name, setup).respond(prompts, max_tokens=sizes.answer, top_k=TOP_K))


def compared(ours: dict[int, engines.Response], theirs: dict[int, engines.Response], of: str) -> Iterator[str]:
    """How far two engines' responses agree; `Failed` where they part at no close call, or log-probabilities differ."""
    alike, off, wrong = 0, 0.0, list[str]()
    for index, one in sorted(ours.items()):
        place, margin = parting(one, theirs[index])
        alike += place == len(one.tokens)
        if margin > CLOSE_CALL:
            wrong.append(f"response {index} parts at token {place}, {margin:.3f} nats apart")
        a, b = (np.asarray(some.token_logprobs, np.float64)[:place] for some in (one, theirs[index]))
        off = max(off, float(np.abs(a - b).max(initial=0)))
        if not np.allclose(a, b, atol=ABSOLUTE, rtol=RELATIVE):
            wrong.append(f"response {index}: log-probabilities differ by {np.abs(a - b).max():.3g}")
    yield f"{of}: {alike} of {len(ours)} responses are the same; log-probabilities differ by {off:.2g} at most"
    if wrong:
        raise Failed(f"{of}: {'; '.join(wrong[:3])}")


def parting(one: engines.Response, other: engines.Response) -> tuple[int, float]:
    """How many tokens two responses share, and how much likelier the first found its next token than the other's (nats;
    0 where there is none, infinite where that is not in its signal)."""
    pairs = zip(one.tokens, other.tokens, strict=False)
    place = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.tokens), len(other.tokens)))
    if one.tokens == other.tokens:
        return place, 0.0
    if one.signal is None or place >= min(len(one.tokens), len(other.tokens)):
        return place, np.inf
    ids, logprobs = one.signal.top_ids[place], one.signal.top_logprobs[place].astype(np.float64)
    known = dict(zip(ids.tolist(), logprobs.tolist(), strict=True))
    return place, known[one.tokens[place]] - known.get(other.tokens[place], -np.inf)


def _notebooks(root: Path) -> list[str]:
    """The paper's notebooks by name, as the copy's plan has them."""
    said = _made(root, "plan")
    if said.returncode:
        raise Failed(f"no plan: {said.stderr.strip()[-300:]}")
    return [line.split()[0] for line in said.stdout.splitlines() if line.split()[0] != "report"]


def _made(root: Path, *goals: str) -> "subprocess.CompletedProcess[str]":
    """A make in the copy that has ended."""
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    packages = [str(root / "lib"), *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)]
    settings = {"PYTHONPATH": os.pathsep.join(packages), "HF_HUB_OFFLINE": "1", "GSM8K_DIR": "", "PUBLISHED_LOGS": ""}
    command = ["make", "PROFILE=tiny", f"BIN={root / 'bin'}", *goals]
    return subprocess.run(command, cwd=root, env=outer | settings, capture_output=True, text=True, check=False)
