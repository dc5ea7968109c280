"""What work takes: seconds by the clock, of processors and of GPUs, memory, and joules where the machine counts them.

Energy is that of the processors' packages, by RAPL (Linux, Intel and AMD; as a rule its counter is read by root alone),
whatever runs on them meanwhile. codecarbon reads the same counter, estimates where there is none, and phones home.
"""

import functools
import os
import resource
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
TURN = 60.0  # seconds between two readings: under load, a counter takes some minutes to start again from zero


class Stopwatch:
    """Seconds by the clock, and those of this process and of its ended children, added to those of an earlier one."""

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        before = before or {}
        self._began = time.monotonic()
        self._wall = self._began - before.get("wall_seconds", 0.0)
        self._gpus, self._peak = before.get("gpu_seconds", 0.0), before.get("peak_mib", 0.0)
        self._cpu = sum(os.times()[:4]) - before.get("cpu_seconds", 0.0)
        # What an earlier process did not count is not known.
        self._energy = energy() if not before.get("wall_seconds") or "joules" in before else None
        self._joules = self._energy.joules() - before.get("joules", 0.0) if self._energy else 0.0

    def seconds(self) -> dict[str, float]:
        """As a manifest has them: with `joules` where there is a counter.

        `peak_mib` is the most memory that this process has held so far; where it works on GPUs, `gpu_seconds` are those
        by the clock, times the GPUs, and `gpu_peak_mib` the most memory on one of them.
        """
        found = {"wall_seconds": time.monotonic() - self._wall, "cpu_seconds": sum(os.times()[:4]) - self._cpu}
        found["peak_mib"] = max(self._peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
        torch: Any = sys.modules.get("torch")  # whoever uses a GPU has imported it
        places = range(torch.cuda.device_count()) if torch and torch.cuda.is_initialized() else ()
        if used := [held for place in places if (held := torch.cuda.max_memory_allocated(place))]:
            found["gpu_seconds"] = self._gpus + len(used) * (time.monotonic() - self._began)
            found["gpu_peak_mib"] = max(used) / 2**20
        if self._energy:
            with suppress(OSError):  # no result is lost for want of what it took
                found["joules"] = self._energy.joules() - self._joules
        return {name: round(value, 1) for name, value in found.items()}


@functools.cache
def energy() -> "Energy | None":
    """What counts this process's joules; None where no counter can be read."""
    try:
        packages = [file.parent for file in RAPL.glob("intel-rapl:*/name") if file.read_text().startswith("package")]
        return Energy(packages) if packages else None
    except OSError:
        return None


class Energy:
    """Joules of some packages, in folders of RAPL; a thread reads on, so that no turn of a counter is missed."""

    def __init__(self, packages: list[Path]) -> None:
        self._turn = {folder: int((folder / "max_energy_range_uj").read_text()) + 1 for folder in packages}
        self._read = {folder: int((folder / "energy_uj").read_text()) for folder in packages}
        self._total, self._lock = 0, threading.Lock()
        threading.Thread(target=self._go_on, daemon=True).start()

    def joules(self) -> float:
        """Since the first reading."""
        with self._lock:
            for folder, before in self._read.items():
                now = int((folder / "energy_uj").read_text())
                self._total += (now - before) % self._turn[folder]
                self._read[folder] = now
            return self._total / 1e6

    def _go_on(self) -> None:
        with suppress(OSError):
            while True:
                time.sleep(TURN)
                self.joules()
