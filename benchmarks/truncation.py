"""What a truncated signal costs: top-k and a tail against the dense distribution, by k and temperature.

    python benchmarks/truncation.py    # some minutes on one core; writes benchmarks/results/truncation.md and .svg

Teacher: the embedded model under its worked examples, at the tokens of its own greedy responses. Student: the same
model reading the bare question, at the same tokens. Both distributions are whole, so every truncation is compared with
the truth. Of the paper (arXiv 2412.17846) come the temperature 5.94 and the reverse KL.
"""

import math
import os
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from torch import Tensor

from response_priming import engines, models, params, problems, provenance, style
from response_priming import prompts as priming
from response_priming.params.divergences import DIVERGENCES

RESULTS = Path(__file__).with_name("results")
PROBLEMS, KS, TEMPERATURES = 16, (8, 16, 64, 256), (1.0, 2.0, 4.0, 5.94)


def distributions() -> tuple[Tensor, Tensor]:
    """Log-probabilities at temperature 1 of teacher and student, [positions, vocabulary]."""
    run = params.load("laptop").run("generate", strategy="none")
    model, tokenizer = models.load(run.teacher, dtype=run.dtype, device=run.device)
    examples = problems.load(run, "validation", run.worked_examples, seed=run.seed)
    asked = problems.load(run, "train", PROBLEMS, seed=run.seed)
    system = run.system_prompt
    primed = [
        priming.encode(tokenizer, priming.messages(p.question, system_prompt=system, examples=examples)) for p in asked
    ]
    bare = [priming.encode(tokenizer, priming.bare(p.question, system)) for p in asked]
    engine = engines.open_engine("transformers", engines.Setup(run.teacher, batch=PROBLEMS))
    answered = dict(engine.respond(primed, max_tokens=run.response_tokens))
    tokens = [answered[index].tokens for index in range(PROBLEMS)]
    teacher, student = (
        torch.cat([_at_response(model, prompt, given) for prompt, given in zip(prompts, tokens, strict=True)])
        for prompts in (primed, bare)
    )
    return teacher, student


@torch.inference_mode()
def _at_response(model: torch.nn.Module, prompt: list[int], response: list[int]) -> Tensor:
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1)


def forms(teacher: Tensor, student: Tensor, ids: Tensor, temperature: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Tempered log-probabilities of teacher and student in three forms: dense, and two of k tokens and the rest."""
    others = teacher.shape[-1] - ids.shape[-1]
    tops, tails = zip(*(_split(logprobs, ids) for logprobs in (teacher, student)), strict=True)
    equal = tails[0] / temperature + (1 - 1 / temperature) * math.log(others)
    known = (student / temperature).scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    rests = {"bucket": tuple(tail / temperature for tail in tails), "spread": (equal, known)}
    pairs = {"dense": (teacher / temperature, student / temperature)}
    for form, weights in rests.items():
        left, right = (torch.cat([top / temperature, rest], -1) for top, rest in zip(tops, weights, strict=True))
        pairs[form] = left, right
    return {form: (left.log_softmax(-1), right.log_softmax(-1)) for form, (left, right) in pairs.items()}


def _split(logprobs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return logprobs.gather(-1, ids), logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)


def row(teacher: Tensor, student: Tensor, k: int, temperature: float) -> dict[str, float]:
    """All measures at one k and temperature, means over positions."""
    ids = teacher.topk(k).indices
    top, tail = _split(teacher, ids)
    dense = (teacher / temperature).log_softmax(-1)
    # What a reader can restore: the top k, and the tail dealt out equally.
    equal = tail - math.log(teacher.shape[-1] - k)
    restored = (equal.expand_as(teacher).scatter(-1, ids, top) / temperature).log_softmax(-1)
    outside = 1 - dense.gather(-1, ids).exp().sum(-1)
    found = {"k": k, "T": temperature, "outside": float(outside.mean())}
    found["kl"] = float((dense.exp() * (dense - restored)).sum(-1).mean())
    for short, name in {"fkl": "forward-kl", "rkl": "reverse-kl"}.items():
        logits = student.clone().requires_grad_()
        pairs = forms(teacher, logits.log_softmax(-1), ids, temperature)
        made = {form: DIVERGENCES[name].between(*pair).mean() for form, pair in pairs.items()}
        slopes = {form: torch.autograd.grad(loss, logits, retain_graph=True)[0] for form, loss in made.items()}
        for form in ("bucket", "spread"):
            found[f"{short}-{form}"] = float(made[form].detach() / made["dense"])
            cosine = torch.cosine_similarity(slopes[form].flatten(), slopes["dense"].flatten(), dim=0)
            found[f"{short}-{form}-cos"] = float(cosine)
    return found


def main() -> None:
    torch.set_num_threads(1)
    teacher, student = distributions()
    measured = pd.DataFrame(row(teacher, student, k, t) for t in TEMPERATURES for k in KS)
    style.apply_style()
    _plot(measured, len(teacher))
    made = provenance.here()
    versions = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "transformers", "numpy"))
    text = f"""# What a truncated signal costs

`python benchmarks/truncation.py`; {made["machine"]}, one core used; Python {made["python"]}; {versions}.
SmolLM2-135M-Instruct (4-bit weights), {teacher.shape[-1]:,} tokens; {len(teacher)} positions of {PROBLEMS} greedy
responses; the student reads the bare question. Means over positions.

- *outside*: the tempered teacher's mass outside the top k.
- *KL error*: KL (nats) of the tempered teacher to what k log-probabilities and the tail restore, the tail dealt out
  equally.
- *loss ratio*: the truncated loss over the dense one; *cosine*: of its gradient at the student's logits with the dense
  one's. Forms: *bucket*, the rest is one outcome whose log-probability is tempered like a token's; *spread*, the
  teacher's rest counts as V - k equal tokens, the student's as what it is.

{_table(measured)}

![KL error by k and temperature](truncation.svg)

{_reading(measured)}
"""
    (RESULTS / "truncation.md").write_text(text, encoding="utf-8")
    print(text)


def _table(measured: pd.DataFrame) -> str:
    names = {"k": "k", "T": "T", "outside": "outside", "kl": "KL error"}
    for short in ("fkl", "rkl"):
        for form in ("bucket", "spread"):
            title = {"fkl": "forward KL", "rkl": "reverse KL"}[short]
            names |= {f"{short}-{form}": f"{title}, {form}: ratio", f"{short}-{form}-cos": "cosine"}
    lines = [f"| {' | '.join(names.values())} |", f"|{'---|' * len(names)}"]
    for _, values in measured.iterrows():
        cells = [f"{values['k']:.0f}", f"{values['T']:g}", *(f"{values[name]:.3f}" for name in list(names)[2:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _reading(measured: pd.DataFrame) -> str:
    """Two sentences whose numbers are the table's."""
    at = measured.set_index(["k", "T"])
    low, high = at.loc[(64, 1.0)], at.loc[(64, 5.94)]
    return (
        f"At the defaults, k = 64 and T = 1, {100 * low['outside']:.1f} % of the teacher's mass is outside the signal, "
        f"and the forward KL is {low['fkl-bucket']:.2f} of the dense one. At the paper's T = 5.94 it is "
        f"{100 * high['outside']:.1f} %: the tail dominates. There the bucket form of the reverse KL is "
        f"{high['rkl-bucket']:.2f} of the dense loss, and its gradient has a cosine of {high['rkl-bucket-cos']:.2f} "
        f"with the dense one's; the spread form is at {high['rkl-spread']:.2f} and {high['rkl-spread-cos']:.2f}. Top-k "
        "distillation at such a temperature is another objective, not a cheap copy of the dense one; "
        "`generate.top_k: all` keeps dense rows for it."
    )


def _plot(measured: pd.DataFrame, positions: int) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    table = measured.assign(T=measured["T"].map("T = {:g}".format))
    labels = {"kl": "KL error (nats)", "outside": "Mass outside the top k"}
    for axis, (measure, label) in zip(axes, labels.items(), strict=True):
        sns.lineplot(table, x="k", y=measure, hue="T", style="T", markers=True, dashes=False, ax=axis)
        axis.set(xscale="log", xlabel=f"k, tokens kept; {positions} positions", ylabel=label, xticks=KS)
        axis.set_xticks(KS, [str(k) for k in KS])
        axis.minorticks_off()
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1)
    figure.savefig(RESULTS / "truncation.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
