"""What a model makes is decided by a version, not by the code: these tests say when a version is to be raised.

`golden.json` holds what every such stage made of a tiny model. Where a change of the code changes a result, raise the
stage's number in `artifacts.VERSIONS` and record anew: `RECORD=1 pytest tests/test_versions.py`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from response_priming import artifacts, attention, attribution, distill, evaluate, generate, params

GOLDEN = Path(__file__).with_name("golden.json")
SIZES = {
    **{"n_train": 4, "n_test": 3, "worked_examples": 1, "generate_batch": 2, "response_tokens": 6, "top_k": 4},
    **{"train_steps": 2, "train_batch": 2, "micro_batch": 2, "warmup_steps": 0, "held_out": 0.25, "train_tokens": 400},
    **{"answer_tokens": 6, "arms": ["teacher"], "seeds": [0], "attention_prompts": 1, "explorer_tokens": 8},
    **{"attribution_problems": 1, "gradient_steps": 2, "random_orders": 1, "strategies": ["teacher"]},
}
ENGINES = {"transformers", "vllm", "server"}  # of the others, the tests against the first one say it


def rounded(values):
    return [float(f"{value:.5g}") for value in np.nan_to_num(np.asarray(values, np.float64)).ravel()]


@pytest.fixture
def made(make_run):
    """Stage -> texts and numbers that stand for what it made."""

    def run(stage, **item):
        known = params.RUNS[stage].model_fields.keys()
        return make_run(stage, **item, **{key: value for key, value in SIZES.items() if key in known})

    responses = generate.respond(run("generate", strategy="teacher"))
    signals, student = run("prompt-signals", strategy="teacher"), run("distill", arm="teacher")
    scored, curve = generate.score(signals), distill.train(student)
    weights = load_file(student.folders[0].path / "adapter_model.safetensors")
    answers = evaluate.answer(run("evaluate", arm="teacher"))
    maps = attention.analyse(run("attention-visualize"))
    tokens = attribution.attribute(run("attribution")).tokens
    store = generate.read(signals.folders[0].path, columns=["top_ids", "top_logprobs"])
    return {
        "generate": {"texts": list(responses["text"]), "numbers": rounded(responses[["confidence", "entropy"]])},
        "prompt-signals": {
            "texts": [" ".join(map(str, ids[:20])) for ids in store["top_ids"]],
            "numbers": rounded([scored["entropy"].mean(), np.concatenate(store["top_logprobs"].to_list()).mean()]),
        },
        "distill": {
            "texts": sorted(weights),
            "numbers": rounded(curve[["hard", "soft", "grad_norm"]])
            + rounded([np.linalg.norm(weights[name]) for name in sorted(weights)]),
        },
        "evaluate": {"texts": list(answers["response"]), "numbers": rounded(answers["mean_logprob"])},
        "attention-visualize": {
            "texts": [],
            "numbers": rounded(maps.metrics.groupby(["layer", "head"]).mean(numeric_only=True)),
        },
        "attribution": {
            "texts": ["".join(tokens["text"])],
            "numbers": rounded(tokens.groupby("region")[[*attribution.METHODS]].sum()),
        },
    }


def test_results_are_those_of_their_version(made):
    if os.environ.get("RECORD"):
        GOLDEN.write_text(json.dumps({"versions": artifacts.VERSIONS, "made": made}, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    advice = "raise its number in artifacts.VERSIONS, and record anew (see this file's first lines)"
    assert golden["versions"] == artifacts.VERSIONS, "versions were raised: record anew"
    assert golden["made"].keys() == artifacts.VERSIONS.keys() - ENGINES == made.keys()
    for stage, wanted in golden["made"].items():
        assert made[stage]["texts"] == wanted["texts"], f"{stage} makes another text: {advice}"
        both = pd.DataFrame({"made": made[stage]["numbers"], "golden": wanted["numbers"]})
        # Kinds of CPUs differ by less in float32.
        far = ~np.isclose(both["made"], both["golden"], rtol=2e-3, atol=2e-4)
        assert not far.any(), f"{stage} makes other numbers: {advice}\n{both[far]}"
