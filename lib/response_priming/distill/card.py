"""The model card of a student: what it is, what it was made from and with, and how to use it."""

import pandas as pd

from response_priming import artifacts, models, params

CARD = """\
---
base_model: {base}
library_name: {library}
pipeline_tag: text-generation
tags: [knowledge-distillation, response-priming]
---

# Student `{arm}`, seed {seed}

{what} of `{base}`, made by stage distill of response-priming (after Goyal et al. 2024, arXiv 2412.17846).

- **Learned from:** {source}; {n_train} problems of `{dataset}`, {held_out:.0%} of them held out.
- **Objective:** {objective}
- **Training:** {steps} steps of {batch} sequences, {optimizer}, learning rate {rate:g}; last loss {loss:.4f}.
- **Made with:** {versions}; every parameter, input and package version is in `manifest.json`.
- **Scores:** `build/{profile}/scores/{arm}/seed-{seed}/`, compared with the other arms in the notebook `compare`.

The prompt is the chat template with the system message {system!r} and the bare question, without any prefix.

```python
{usage}
```
"""
ADAPTER = """\
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)"""
QUANTIZED = """\
import torch
from peft import AutoPeftModelForCausalLM
from transformers import BitsAndBytesConfig

nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.{dtype})
model = AutoPeftModelForCausalLM.from_pretrained(FOLDER, quantization_config=nf4)"""
FULL = """\
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(FOLDER)"""
USAGE = {"lora": ADAPTER, "qlora": QUANTIZED, "full": FULL}
WHAT = {
    "lora": "A LoRA adapter",
    "qlora": "A LoRA adapter on the 4-bit (NF4) weights",
    "full": "All weights, fine-tuned,",
}


def text(run: params.DistillRun, seed: int, curve: pd.DataFrame) -> str:
    """The card in Markdown; `curve` as `distill.train` returns it."""
    teacher = params.store_of(run.arm, run)
    divergence = f"{1 - run.alpha:.3g} x {run.divergence} at temperature {run.kd_temperature:.3g}"
    return CARD.format(
        base=models.PACKAGE if run.student == models.EMBEDDED else run.student,
        library="transformers" if run.adapter == "full" else "peft",
        arm=run.arm,
        seed=seed,
        what=WHAT[run.adapter],
        source=f"a teacher (`{teacher}`)" if teacher else "the data set's solutions, without a teacher",
        n_train=run.n_train,
        dataset=run.dataset,
        held_out=run.held_out,
        objective=f"{run.alpha:.3g} x cross-entropy + {divergence}" if teacher else "cross-entropy",
        steps=run.train_steps,
        batch=run.train_batch,
        optimizer=run.optimizer,
        rate=run.learning_rate,
        loss=curve["loss"].iloc[-1],
        versions=artifacts.summary(run),
        profile=run.profile,
        system=run.system_prompt,
        usage=USAGE[run.adapter].format(dtype=run.precision),
    )
