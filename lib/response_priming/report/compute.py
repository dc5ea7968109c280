"""Compute: what every stage of a run took, from the manifests of what it made."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from response_priming import artifacts, generate, notebooks, params, style

SUMS = ["wall_seconds", "cpu_seconds", "gpu_seconds", "joules", "tokens_read", "tokens_written"]
COLUMNS = ["stage", "folders", *SUMS, "peak_mib", "gpu_peak_mib"]


def table(profile: params.Profile) -> pd.DataFrame:
    """A row a stage, in their order, and one of their `total`.

    Columns: `stage`; `folders` of results that it made; `wall_seconds`, `cpu_seconds`, `gpu_seconds` and `joules`;
    `tokens_read` by the teacher, `tokens_written` by the teacher or by students; `peak_mib` of a process and
    `gpu_peak_mib` of a GPU. Seconds and joules are missing where a folder does not have them, in the total as well.
    """
    rows = []
    nodes = notebooks.nodes(profile) + notebooks.executed_extras(profile)
    for stage in dict.fromkeys(node.stage for node in nodes):
        found = pd.DataFrame([cost for node in nodes if node.stage == stage for cost in _costs(node)], columns=COLUMNS)
        if len(found):
            sums = {key: found[key].sum(min_count=len(found)) for key in SUMS[:4]}
            sums |= {key: found[key].sum(min_count=1) for key in SUMS[4:]}
            peaks = {key: found[key].max() for key in COLUMNS[-2:]}
            rows.append({"stage": stage, "folders": len(found), **sums, **peaks})
    whole = pd.DataFrame(rows, columns=COLUMNS)
    total: dict[str, Any] = {key: whole[key].sum(min_count=len(whole)) for key in ("folders", *SUMS[:4])}
    total |= {key: whole[key].sum(min_count=1) for key in SUMS[4:]}
    total |= {key: whole[key].max() for key in COLUMNS[-2:]} | {"stage": "total"}
    return pd.concat([whole, pd.DataFrame([total])], ignore_index=True)


def _costs(node: notebooks.Node) -> Iterator[dict[str, Any]]:
    for folder in node.run.folders:
        if (made := artifacts.manifest(folder.path)) is None:
            continue
        found = {key: made.get(key, np.nan) for key in COLUMNS[2:]} | {"gpu_seconds": _gpu_seconds(made)}
        kind = artifacts.part_of(folder.path).partition("/")[0]
        speed = folder.path / artifacts.MEASURED / "speed.parquet"
        if kind == "responses":
            given = generate.read(folder.path, ["prompt_tokens", "tokens"])
            found |= {"tokens_read": given["prompt_tokens"].sum(), "tokens_written": given["tokens"].map(len).sum()}
        elif kind == "answers":
            answers = pd.read_parquet(folder.path / "answers.parquet", columns=["tokens"])
            found["tokens_written"] = answers["tokens"].sum()
        elif "peak_mib" not in made and speed.exists():  # a training writes it with every step, too
            found["gpu_peak_mib" if _gpus(made) else "peak_mib"] = pd.read_parquet(speed)["peak_mib"].max()
        yield found


def _gpus(made: Mapping[str, Any]) -> int:
    """How many GPUs the maker of a folder has seen: its hardware names them behind the processor and the memory."""
    hardware = made.get("hardware", [])
    places = [place for place, part in enumerate(hardware) if part.endswith(" of memory")]
    return len(hardware) - 1 - places[-1] if places else 0


def _gpu_seconds(made: Mapping[str, Any]) -> float:
    return float(made.get("gpu_seconds", np.nan if _gpus(made) else 0.0))


def words(costs: pd.DataFrame, hardware: list[str]) -> str:
    """The table in Markdown, of all that `table` says, with the `hardware` of a manifest."""
    stages = {row["stage"]: row for row in costs.to_dict("records")}
    counted = bool(costs["joules"].notna().any())
    return style.words("_compute.md.jinja", {"stages": stages, "hardware": hardware, "counted": counted})
