"""Memory and time of the fused objective beside dense torch and liger-kernel's chunked loss, at an 8B model's head.

    python benchmarks/losses.py            # all, each measurement in a process of its own; writes results/losses.md

Hidden 4,096, vocabulary 128,256, bf16, the head frozen as with LoRA; forward and backward. Memory is the most that a
process took on top of hidden states, head and signal, in a process for each; for time, the losses take turns in one.
`torch` makes all logits at once; `liger` (liger-kernel's LigerFusedLinearJSDLoss, which makes teacher logits from the
teacher's hidden states) runs where it is installed. Takes about a quarter of an hour and 20 GiB.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from response_priming.methods import losses
from response_priming.methods.losses import Targets
from response_priming.params.divergences import jsd
from response_priming.params.sections import Distill

WIDTH, VOCABULARY, K = 4096, 128_256, 64
RESULTS = Path(__file__).parent / "results" / "losses.md"
KINDS = ("fused, top 64", "torch, top 64", "fused, dense", "torch, dense", "liger, dense")
OBJECTIVE = Distill(kd_temperature=2.0, divergence="jsd")
TOKENS, LARGEST, TIMED, REPEATS = (1024, 2048), 8192, 512, 4


def resident(key: str) -> float:
    """MiB of this process: `VmRSS` now, `VmHWM` at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 2**10


def main() -> None:
    if len(sys.argv) == 3:
        print(memory(sys.argv[1], int(sys.argv[2])))
        return
    seconds = times()
    print(seconds, flush=True)
    mib = {}
    for kind in seconds:
        for tokens in (*TOKENS, *([LARGEST] if kind.startswith("fused") else [])):
            command = [sys.executable, __file__, kind, str(tokens)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            mib[kind, tokens] = float(done.stdout.splitlines()[-1])
            print(kind, tokens, mib[kind, tokens], flush=True)
    RESULTS.write_text(report(seconds, mib))


def inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, dtype=torch.bfloat16)
    return hidden.requires_grad_(), torch.empty(VOCABULARY, WIDTH, dtype=torch.bfloat16).normal_(0, 0.02)


def times() -> dict[str, float]:
    """Seconds of a step by kind, median."""
    hidden, head = inputs(TIMED)
    steps, found = {}, {}
    for kind, prepare in STEPS.items():
        try:
            steps[kind] = prepare(hidden, head)
        except ImportError as error:
            print(f"{kind}: {error}")
    for _ in range(REPEATS):
        for kind, step in steps.items():
            start = time.monotonic()
            step()
            found.setdefault(kind, []).append(time.monotonic() - start)
            hidden.grad = None
    return {kind: statistics.median(values) for kind, values in found.items()}


def memory(kind: str, tokens: int) -> float:
    """MiB that a step takes on top of its inputs."""
    step = STEPS[kind](*inputs(tokens))
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def targets(tokens: int, dense: bool) -> Targets:
    labels = torch.randint(0, VOCABULARY, (tokens,))
    scored = torch.ones(tokens, dtype=torch.bool)
    if dense:
        logprobs = torch.empty(tokens, VOCABULARY, dtype=torch.float16).normal_(-12, 1)
        return Targets(labels, scored, logprobs)
    ids = torch.rand(tokens, 8 * K).argsort(-1)[:, :K] * 200
    top = torch.randn(tokens, K).log_softmax(-1) - 0.05
    return Targets(labels, scored, top, ids, torch.full((tokens,), -3.0))


def fused(dense: bool) -> Callable[..., Callable[[], None]]:
    def prepare(hidden: torch.Tensor, head: torch.Tensor) -> Callable[[], None]:
        wanted = targets(len(hidden), dense)
        return lambda: losses.distillation(hidden, head, wanted, OBJECTIVE, hard_tokens=len(hidden)).total.backward()

    return prepare


def plain(dense: bool) -> Callable[..., Callable[[], None]]:
    """The same objective as one would write it: all logits, in fp32."""

    def prepare(hidden: torch.Tensor, head: torch.Tensor) -> Callable[[], None]:
        wanted = targets(len(hidden), dense)

        def step() -> None:
            logits = (hidden @ head.T).float()
            hard = torch.nn.functional.cross_entropy(logits, wanted.labels, reduction="sum")
            assert wanted.top_logprobs is not None
            teacher = wanted.top_logprobs.float()
            student = logits.log_softmax(-1)
            if wanted.top_ids is not None and wanted.tail_logprobs is not None:
                student = student.gather(-1, wanted.top_ids)
                rest = torch.log1p(-student.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-7))
                student = torch.cat([student, rest], -1)
                teacher = torch.cat([teacher, wanted.tail_logprobs[:, None]], -1)
            parts = [(part / OBJECTIVE.kd_temperature).log_softmax(-1) for part in (teacher, student)]
            soft = OBJECTIVE.kd_temperature**2 * jsd(parts[0], parts[1], 0.5).sum()
            (0.5 * (hard + soft) / len(hidden)).backward()

        return step

    return prepare


def liger(hidden: torch.Tensor, head: torch.Tensor) -> Callable[[], None]:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(temperature=OBJECTIVE.kd_temperature, compiled=False, chunk_size=256)
    labels, teacher = torch.randint(0, VOCABULARY, (len(hidden),)), torch.randn_like(hidden)
    return lambda: loss(hidden, head, teacher, head, labels).backward()


STEPS: dict[str, Callable[[torch.Tensor, torch.Tensor], Callable[[], None]]] = dict(
    zip(KINDS, (fused(False), plain(False), fused(True), plain(True), liger), strict=True)
)


def report(seconds: dict[str, float], mib: dict[tuple[str, int], float]) -> str:
    few, more = TOKENS
    lines = [
        "# The fused objective beside dense torch",
        "",
        f"`python benchmarks/losses.py`, hidden {WIDTH:,}, vocabulary {VOCABULARY:,}, bf16, {platform.machine()} CPU, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}. Seconds: forward and backward, median of "
        f"{REPEATS}. MiB on top of the inputs. *: not run, the line through {few:,} and {more:,} tokens.",
        "",
        f"| loss | s at {TIMED} tokens | MiB at {few:,} | MiB at {more:,} | MiB at {LARGEST:,} |",
        "|---|---|---|---|---|",
    ]
    for kind, value in seconds.items():
        a, b = mib[kind, few], mib[kind, more]
        line = f"{b + (LARGEST - more) / (more - few) * (b - a):,.0f}*"
        largest = f"{mib[kind, LARGEST]:,.0f}" if (kind, LARGEST) in mib else line
        lines.append(f"| {kind} | {value:.2f} | {a:,.0f} | {b:,.0f} | {largest} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
