"""Memory and time of the fused objective beside dense torch and liger-kernel's chunked loss, at an 8B model's head.

    python benchmarks/losses.py            # all, each measurement in a process of its own; writes results/losses.md

Hidden 4,096, vocabulary 128,256, bf16, the head frozen as with LoRA; forward and backward. Memory is the most that a
process took on top of hidden states, head and signal; it is measured at hidden 256, for the vocabulary decides it and a
CPU takes minutes otherwise (hidden 4,096 adds 62 MiB to each loss at 8,192 tokens, the gradient it returns). `torch`
makes all logits at once; `liger` (liger-kernel's LigerFusedLinearJSDLoss, which makes teacher logits from the teacher's
hidden states) runs where it is installed.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from response_priming import losses
from response_priming.losses import Objective, Targets

WIDTH, VOCABULARY, K = 4096, 128_256, 64
RESULTS = Path(__file__).parent / "results" / "losses.md"
KINDS = ("fused, top 64", "torch, top 64", "fused, dense", "torch, dense", "liger, dense")
OBJECTIVE = Objective(0.5, 2.0, "jsd")
TOKENS_TIMED, REPEATS = 128, 3
TOKENS = (1024, 2048)


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    rows = {}
    for kind in KINDS:
        for tokens in (TOKENS_TIMED, *TOKENS, *([8192] if kind.startswith("fused") else [])):
            rows[kind, tokens] = in_process(kind, tokens)
            print(kind, tokens, rows[kind, tokens], flush=True)
    RESULTS.write_text(report(rows))


def in_process(kind: str, tokens: int) -> dict[str, float] | None:
    done = subprocess.run([sys.executable, __file__, kind, str(tokens)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1])
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(kind: str, tokens: int) -> dict[str, float]:
    """Seconds (median where timed) and MiB on top of the inputs."""
    torch.manual_seed(0)
    width = WIDTH if tokens == TOKENS_TIMED else 256
    hidden = torch.randn(tokens, width, dtype=torch.bfloat16)
    head = torch.empty(VOCABULARY, width, dtype=torch.bfloat16).normal_(0, 0.02)
    step = STEPS[kind](hidden.requires_grad_(), head)
    before = rss_mib()
    repeats = REPEATS if tokens == TOKENS_TIMED else 1
    seconds = []
    for _ in range(repeats):
        start = time.monotonic()
        step()
        seconds.append(time.monotonic() - start)
        hidden.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before
    return {"seconds": statistics.median(seconds), "mib": peak}


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
            parts = [(part / OBJECTIVE.temperature).log_softmax(-1) for part in (teacher, student)]
            soft = OBJECTIVE.temperature**2 * losses.jsd(parts[0], parts[1], 0.5).sum()
            (0.5 * (hard + soft) / len(hidden)).backward()

        return step

    return prepare


def liger(hidden: torch.Tensor, head: torch.Tensor) -> Callable[[], None]:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # type: ignore[import-not-found]

    loss = LigerFusedLinearJSDLoss(temperature=OBJECTIVE.temperature, compiled=False, chunk_size=256)
    labels, teacher = torch.randint(0, VOCABULARY, (len(hidden),)), torch.randn_like(hidden)
    return lambda: loss(hidden, head, teacher, head, labels).backward()


STEPS: dict[str, Callable[[torch.Tensor, torch.Tensor], Callable[[], None]]] = dict(
    zip(KINDS, (fused(False), plain(False), fused(True), plain(True), liger), strict=True)
)


def report(rows: dict[tuple[str, int], dict[str, float] | None]) -> str:
    lines = [
        "# The fused objective beside dense torch",
        "",
        f"`python benchmarks/losses.py`, hidden {WIDTH:,}, vocabulary {VOCABULARY:,}, bf16, {platform.machine()} CPU, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}. Seconds: forward and backward, median of "
        f"{REPEATS}. MiB on top of the inputs, at hidden 256. *: not run, the line through 1,024 and 2,048 tokens.",
        "",
        f"| loss | s at {TOKENS_TIMED} tokens | MiB at {TOKENS[0]:,} | MiB at {TOKENS[1]:,} | MiB at 8,192 |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        found = [rows.get((kind, tokens)) for tokens in (TOKENS_TIMED, *TOKENS, 8192)]
        if any(row is None for row in found[:3]):
            lines.append(f"| {kind} | does not run here | | | |")
            continue
        mib = [row["mib"] for row in found[1:] if row]
        largest = f"{mib[2]:,.0f}" if len(mib) == 3 else f"{mib[1] + 6 * (mib[1] - mib[0]):,.0f}*"
        lines.append(f"| {kind} | {found[0]['seconds']:.2f} | {mib[0]:,.0f} | {mib[1]:,.0f} | {largest} |")  # type: ignore[index]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
