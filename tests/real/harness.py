"""What lm-evaluation-harness says: run by `make test-harness` in an environment of its own, read by test_harness.py.

Its own gsm8k task, as packaged, but for the source of the data. Writes one JSON line a text: `source`, `text`, `answer`
(a GSM8K solution) and, for each filter, what it extracts and whether that is an exact match. Texts: what a model
generates in the harness, GSM8K's solutions matched with their own and with the next answer, and the released logs.

    python tests/harness.py GSM8K_FOLDER MODEL_FOLDER LOGS_FOLDER OUTPUT.jsonl
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
import yaml
from lm_eval.api.metrics import exact_match_fn
from lm_eval.filters.extraction import RegexFilter

PROBLEMS, WORKED_EXAMPLES, NEW_TOKENS = 8, 2, 64
PACKAGED = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
CONFIG: dict[str, Any] = yaml.safe_load(PACKAGED.read_text())
FILTERS = {entry["name"]: entry["filter"][0] for entry in CONFIG["filter_list"]}
(METRIC,) = CONFIG["metric_list"]


def generated(gsm8k: Path, model: str) -> Iterator[dict[str, Any]]:
    """The harness's own run: few-shot prompts, generation, filters, metric."""
    files = {split: str(gsm8k / f"{split}.jsonl") for split in ("train", "test")}
    task = CONFIG | {"task": "gsm8k_local", "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    task |= {"dataset_name": None, "tag": None}
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32"},
        tasks=[{key: value for key, value in task.items() if value is not None}],
        gen_kwargs={"max_gen_toks": NEW_TOKENS},
        num_fewshot=WORKED_EXAMPLES,
        limit=PROBLEMS,
        batch_size=PROBLEMS,
        device="cpu",
        bootstrap_iters=0,
    )
    assert found is not None
    rows: dict[int, dict[str, Any]] = {}
    for sample in found["samples"]["gsm8k_local"]:
        text, answer = sample["resps"][0][0], sample["doc"]["answer"]
        row = rows.setdefault(sample["doc_id"], {"source": "generated", "text": text, "answer": answer})
        row[sample["filter"]] = sample["filtered_resps"][0]
        row[f"{sample['filter']}-correct"] = bool(sample["exact_match"])
    yield from rows.values()


def filtered(source: str, texts: list[str], answers: list[str]) -> Iterator[dict[str, Any]]:
    """Texts through the harness's filter classes and its metric."""
    columns: dict[str, list[Any]] = {}
    for name, entry in FILTERS.items():
        options = {key: value for key, value in entry.items() if key != "function"}
        columns[name] = [one[0] for one in RegexFilter(**options).apply([[text] for text in texts], [{}] * len(texts))]
        ignoring = {key: METRIC[key] for key in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
        columns[f"{name}-correct"] = [
            bool(exact_match_fn(predictions=[one], references=[answer], **ignoring)["exact_match"])
            for one, answer in zip(columns[name], answers, strict=True)
        ]
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        yield {"source": source, "text": text, "answer": answer} | {key: values[row] for key, values in columns.items()}


def main(gsm8k: Path, model: str, logs: Path, output: Path) -> None:
    solutions = [json.loads(line)["answer"] for line in (gsm8k / "train.jsonl").read_text().splitlines()]
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as lines:
        for rows in (
            generated(gsm8k, model),
            filtered("solutions", solutions, solutions),
            filtered("other solutions", solutions, [*solutions[1:], solutions[0]]),
            *(
                filtered(file.stem, list(table["model_answer"]), list(table["answer"]))
                for file in sorted(logs.glob("*.csv"))
                if "model_answer" in (table := pd.read_csv(file, keep_default_na=False))
            ),
        ):
            lines.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
