"""Time and memory of reading attention side by side, against one student after another with all maps held.

    python benchmarks/attention.py [folder-for-results]

The embedded model with five random LoRA adapters and the bare one, on the texts of laptop. `side by side` is what
the stage does: all students in one batch, a hook for each layer. `one by one` is the library's way: for each student a
pass with `output_attentions=True`, then the same numbers. Memory is the most that tensors made during a pass hold.
"""

import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from response_priming import arms, artifacts, models, params, paths
from response_priming.attention import analysis, maps
from response_priming.attention.analysis import Reading, Text
from response_priming.params import sections

REPEATS = 5
TEXTS = 2


class Peak(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.held, self.peak, self.known = 0, 0, set[int]()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        made = function(*arguments, **(keywords or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.held -= size


def save_adapters(run: params.AttentionRun) -> None:
    model, _ = models.load(run.student, dtype=run.dtype, device=run.device)
    targets = sections.Distill().lora_targets
    for number, arm in enumerate(run.arms[1:]):
        torch.manual_seed(number)
        config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=targets, init_lora_weights=False)
        student = get_peft_model(model, config)
        with artifacts.writing(run.student_of(arm, 0), {"parameters": {"student": run.student}}) as aside:
            student.save_pretrained(str(aside))
        model = student.unload()


def side_by_side(model: Any, who: list[maps.Student], text: Text) -> None:
    maps.visit_layers(model, who, text.tokens, Reading(who, text).take)


def one_by_one(model: Any, who: list[maps.Student], text: Text) -> None:
    held = {}
    for arm, seed in who:
        names = ["__base__" if arm == arms.UNDISTILLED else f"{arm}-{seed}"]
        with torch.inference_mode():
            ids = torch.tensor([text.tokens])
            out = model(input_ids=ids, adapter_names=names, output_attentions=True, use_cache=False, logits_to_keep=1)
        held[arm, seed] = torch.cat(out.attentions)
    reading = Reading(who, text)
    for layer in zip(*held.values(), strict=True):
        reading.take(torch.stack(layer))


def timed(work: Any, *arguments: Any) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def peak(work: Any, *arguments: Any) -> float:
    with Peak() as memory:
        work(*arguments)
    return memory.peak / 2**20


def main() -> None:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    paths.BUILD = Path(tempfile.mkdtemp())
    run = params.load("laptop").run("attention-visualize")
    assert isinstance(run, params.AttentionRun)
    save_adapters(run)
    wall, cpu = time.perf_counter(), time.process_time()
    analysis.analyse(run)
    stage = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    stage["explorer_mib"] = (run.output / "attention" / "explorer.npz").stat().st_size / 2**20
    ((model, who),), tokenizer = maps.load(run)
    texts = analysis.texts_of(run, tokenizer, model.config)[:TEXTS]
    ways = {"side by side": side_by_side, "one by one": one_by_one}
    memory = {name: peak(way, model, who, texts[0]) for name, way in ways.items()}
    rounds = [{name: sum(timed(way, model, who, text) for text in texts) / TEXTS for name, way in ways.items()}
              for _ in range(REPEATS)]  # fmt: skip
    seconds = {name: statistics.median(one[name] for one in rounds) for name in ways}
    found = {
        "stage": stage,
        "students": len(who),
        "texts_of_stage": run.attention_prompts,
        "tokens": [len(text.tokens) for text in texts],
        "cpu_seconds_a_text": seconds,
        "peak_mib": memory,
        "memory_ratio": memory["side by side"] / memory["one by one"],
        "time_ratio": statistics.median(one["side by side"] / one["one by one"] for one in rounds),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    results.mkdir(exist_ok=True)
    (results / "attention.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    shutil.rmtree(paths.BUILD)


if __name__ == "__main__":
    main()
