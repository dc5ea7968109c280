"""What `make paper` takes on this machine, from nothing: by the clock, and in minutes of all processors together.

    make times                             # or: python benchmarks/times.py [PROFILE]

The paper is made in a copy of the checkout, so nothing that is there is touched or used; the environment is this one,
and so is the cache with the model. The row is added to results/times.json, and printed as the README has it. Minutes of
processors are the figure to compare: other work on the machine shows in the clock's.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from response_priming import params, paths, provenance

RESULTS = Path(__file__).parent / "results" / "times.json"
COPIED = ("lib", "notebooks", "params", "report", "Makefile", "setup.sh", "pyproject.toml", "CITATION.cff")
# What sets machines apart, as torch calls it.
UNITS = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "bf16", "sve")
# Variables by which a machine is made to do as if it had less.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
TOOK = re.compile(r"^\[\S+\] (\S+): .*\(([\d.]+) CPU min\)$", re.MULTILINE)


def copy_to(folder: Path) -> None:
    """Everything that making the paper reads."""
    for name in COPIED:
        source = paths.ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    shutil.copy2(paths.ROOT / "requirements.lock", folder)


def make(folder: Path, profile: str) -> tuple[float, float, str]:
    """Minutes by the clock, minutes of processors, and what was said."""
    command = ["make", "paper", f"PROFILE={profile}", f"BIN={Path(sys.executable).parent}", "SETUP="]
    environment = os.environ | {"PYTHONPATH": str(folder / "lib")}
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return (time.monotonic() - start) / 60, busy / 60, done.stdout


def machine() -> dict[str, Any]:
    """What this machine has, and the limits that are set."""
    has = torch.cpu.get_capabilities()
    return {
        "machine": provenance.here()["machine"],
        "cpu": has.get("cpu_name", has["architecture"]),
        "units": [unit for unit in UNITS if has.get(unit)],
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
    }


def main(profile: str) -> None:
    """Measure, print and add the row."""
    precision = params.load(profile).model.precision
    with tempfile.TemporaryDirectory() as folder:
        copy_to(Path(folder))
        clock, busy, said = make(Path(folder), profile)
        again, _, _ = make(Path(folder), profile)
    made = provenance.here()
    row = {
        "profile": profile,
        "precision": precision,
        "clock_minutes": round(clock, 1),
        "cpu_minutes": round(busy, 1),
        "again_seconds": round(60 * again, 1),
        "notebooks": {name: float(minutes) for name, minutes in TOOK.findall(said)},
        **machine(),
        **{key: made[key] for key in ("date", "git_commit", "python", "packages")},
    }
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    units = ", ".join(row["units"])
    print(f"| {row['cpu']}: {units} | {precision} | {clock:.1f} min | {busy:.1f} min | {60 * again:.1f} s |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "laptop")
