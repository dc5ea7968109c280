"""Faults on purpose, on a tiny model: kills, damage, edits, two runs at once, dying nodes, odd profiles, a full disk.

`make test-faults` runs it (SEED=n for other draws, TIMES=n for n times as many) and prints a line a family: how often a
fault was tried; how often what came of it was right; how often work was lost, or a run stuck or crashed; how often a
result was wrong and nobody said so. Anything but right is an error, and is said above the table.
"""

import argparse
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tiny
from project import Project

from response_priming.engines import ray

RIGHT, LOST, SILENT = "right", "lost, stuck, crashed", "silently wrong"
PLANTED = "planted-0123456789-secret"
Outcome = tuple[str, str]  # one of the three, and what was tried


def results(build: Path) -> dict[str, Any]:
    """What the stages wrote: folder -> digests of its files."""
    return {
        folder.relative_to(build).as_posix(): json.loads((folder / "manifest.json").read_text())["outputs"]
        for folder in (file.parent for file in build.rglob("manifest.json"))
        if not any(part.startswith((".", "_")) or part == "report" for part in folder.relative_to(build).parts)
    }


def one_line(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a run failed as it should: exit code 2, and one line on standard error beside make's own."""
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    return done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr


# What YAML 1.1 or a loose schema takes for something else, and what it may be read as.
ODD = {
    **{text: [repr(text)] for text in ("yes", "on", "0_40", "1:30", "2**33")},
    **{
        # For a text they are text, as they are written.
        ".inf": ["'.inf'"],
        ".nan": ["'.nan'"],
        "010": ["10", "10.0", "'010'"],
        "1e400": ["'1e400'"],
        "-1": ["-1", "-1.0"],
        "99999999999": ["99999999999"],
    },
    **{"99999999999": ["99999999999"], "''": ["''"], "[]": ["[]"], "{}": ["{}"], "~": ["None"]},
}
LOAD = """
import sys
from response_priming import params
from response_priming.errors import InputError

profile, section, key = sys.argv[1:]
try:
    loaded = params.load(profile)
except InputError as error:
    assert len(str(error).splitlines()) == 1
    print("refused")
else:
    print(repr(getattr(getattr(loaded, section), key)))
"""


class Faults:
    """A finished run of a tiny profile, and what is done to it."""

    def __init__(self, root: Path, seed: int, times: int) -> None:
        self.draw, self.times = random.Random(seed), times
        self.project = Project(root, tiny.save_model(root / "model"))
        self.project.write(arms=["undistilled", "none", "teacher"])
        done = self.project.make("paper", OPENAI_API_KEY=PLANTED, RESPONSE_PRIMING_API_KEY=PLANTED, HF_TOKEN=PLANTED)
        assert done.returncode == 0, done.stdout + done.stderr
        self.before = results(self.project.build)

    def turn(self, *, changed: bool) -> None:
        """Set another learning rate for one arm, or take it back."""
        self.project.write(overrides={"none": {"learning_rate": 2e-3}} if changed else {})

    def turn_back_anew(self) -> None:
        """Take it back, and what was made without it has to be made again."""
        self.turn(changed=False)
        for store in ("students", "answers"):
            shutil.rmtree(self.project.build / store / "none" / ".kept", ignore_errors=True)

    @functools.cached_property
    def changed(self) -> dict[str, Any]:
        """What an undisturbed run makes with the other learning rate, which is set from then on."""
        self.turn(changed=True)
        assert self.project.make("paper").returncode == 0
        return results(self.project.build)

    def artefacts(self) -> list[Path]:
        """The files that a person may come upon."""
        build = self.project.build
        return [
            file
            for file in sorted(build.rglob("*"))
            if file.is_file() and file.stat().st_size and "plan" not in file.relative_to(build).parts
        ]

    def judged(self, done: subprocess.CompletedProcess[str], wanted: dict[str, Any]) -> str:
        """What came of a make that should have made this."""
        if done.returncode:
            return LOST
        made = results(self.project.build)
        differing = [folder for folder in made.keys() | wanted.keys() if made.get(folder) != wanted.get(folder)]
        if differing:
            print(f"other than wanted: {sorted(differing)}")
        return SILENT if differing else RIGHT

    # --- families ---

    def kills(self) -> Iterator[Outcome]:
        """SIGKILL of everything at a random time; then again, and the parameter taken back."""
        wanted = self.changed
        for _ in range(self.times):
            self.turn_back_anew()
            after = self.draw.uniform(1, 25)
            with self.project.started("paper") as running:
                time.sleep(after)
                os.killpg(running.pid, signal.SIGKILL)
            yield self.judged(self.project.make("paper"), self.before), f"killed after {after:.1f} s"
            self.turn(changed=True)
            yield self.judged(self.project.make("paper"), wanted), f"killed after {after:.1f} s, and taken back"

    def damage(self) -> Iterator[Outcome]:
        """Files changed, cut, emptied, removed, swapped: each is named by `verify`, and made again by make."""
        damaged: list[Path] = []
        for file in self.draw.sample(self.artefacts(), 5 * self.times):
            content = file.read_bytes()
            at = self.draw.randrange(len(content))
            kind = self.draw.choice(["flip", "cut", "empty", "remove", "swap"])
            if kind == "remove":
                file.unlink()
            else:
                other = self.draw.choice([one for one in self.artefacts() if one.suffix == file.suffix])
                flipped = content[:at] + bytes([content[at] ^ (1 << self.draw.randrange(8))]) + content[at + 1 :]
                new = {"flip": flipped, "cut": content[:at], "empty": b"", "swap": other.read_bytes()}[kind]
                file.write_bytes(new)
                if new == content:
                    continue
            os.utime(file.parent, (0, 0))
            done = self.project.run("verify", "tiny")
            names = [place.relative_to(self.project.root).as_posix() for place in (file, file.parent)]
            names.append(f"{file.stem}: ")  # a notebook
            known = done.returncode == 1 and any(name in done.stdout for name in names)
            crashed = done.returncode not in (0, 1) or "Traceback" in done.stderr
            yield (RIGHT if known else LOST if crashed else SILENT), f"{kind} {file.relative_to(self.project.build)}"
            if self.draw.random() < 0.5:
                file.write_bytes(content)
            else:
                damaged.append(file)
        said = ", ".join(str(file.relative_to(self.project.build)) for file in damaged)
        done = self.project.make("paper")
        yield self.judged(done, self.before), f"make paper after {said}: {done.stderr}"

    def plans(self) -> Iterator[Outcome]:
        """Half-written files of the plan stop nothing."""
        files = sorted(path for path in (self.project.build / "plan").iterdir() if path.name != "console")
        for file in self.draw.sample(files, min(len(files), 3 * self.times)):
            if file.is_file():
                content = file.read_bytes()
                file.write_bytes(content[: self.draw.randrange(len(content))])
                done = self.project.make("plan")
                yield (RIGHT if done.returncode == 0 else LOST), f"{file.name} cut: {done.stderr}"
        done = self.project.make("paper")
        yield (RIGHT if done.returncode == 0 else LOST), f"make paper: {done.stderr}"

    def edits(self) -> Iterator[Outcome]:
        """Comments and touched files make nothing stale."""
        modules = sorted((self.project.root / "lib" / "response_priming").rglob("*.py"))
        for file in self.draw.sample(modules, 4 * self.times):
            source = file.read_text()
            file.write_text(f"{source}\n# {self.draw.random()}\n")
            stale = self.project.stale()
            file.write_text(source)
            yield (LOST if stale else RIGHT), f"a comment in {file.name}: {stale}"
        for file in self.artefacts():
            os.utime(file, (2**33, 2**33) if self.draw.random() < 0.5 else (0, 0))
        stale = self.project.stale()
        yield (LOST if stale else RIGHT), f"files from the past and the future: {stale}"

    def two_at_once(self) -> Iterator[Outcome]:
        """Two makes of one profile: both end well, and nothing is made twice or differs."""
        assert self.changed  # made now, where it was not before
        self.turn_back_anew()
        with self.project.started("paper") as one, self.project.started("paper") as other:
            codes = [one.wait(timeout=tiny.PATIENCE * 5), other.wait(timeout=tiny.PATIENCE * 5)]
        same = results(self.project.build) == self.before
        yield (RIGHT if codes == [0, 0] and same else SILENT if codes == [0, 0] else LOST), f"exit codes {codes}"

    def nodes(self) -> Iterator[Outcome]:
        """Nodes of a cluster that die, one after the other, while it makes the paper; others take their places."""
        assert self.changed  # made now, where it was not before
        self.turn_back_anew()
        with mock.patch.dict(os.environ, self.project.environment):
            os.environ["PYTHONPATH"] = ray.python_path()
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
            running = [cluster.add_node(num_cpus=1) for _ in range(2)]
            with self.project.started("paper", f"CLUSTER={cluster.address}") as paper:
                notebook = self.project.build / "notebooks" / "distill-none.partial.ipynb"
                while not notebook.exists() and paper.poll() is None:
                    time.sleep(0.5)
                moments = [self.draw.uniform(0, 20) for _ in range(3)]
                for moment in moments:
                    time.sleep(moment)
                    cluster.remove_node(running.pop(self.draw.randrange(2)), allow_graceful=False)
                    running.append(cluster.add_node(num_cpus=1))
                code = paper.wait(timeout=tiny.PATIENCE * 10)
            cluster.shutdown()
        same = results(self.project.build) == self.before
        tried = f"nodes that died, each so many seconds after the last: {[round(m) for m in moments]}; exit code {code}"
        yield (RIGHT if code == 0 and same else SILENT if code == 0 else LOST), tried

    def profiles(self) -> Iterator[Outcome]:
        """Values that YAML 1.1 or a loose schema would take for something else."""
        file = self.project.root / "params" / "odd.yaml"
        whole = yaml.safe_load(self.project.run("check", "tiny").stdout)
        keys = [(section, key) for section in whole if isinstance(whole[section], dict) for key in whole[section]]
        for section, key in self.draw.sample([one for one in keys if one[0] != "overrides"], 12 * self.times):
            value = self.draw.choice(list(ODD))
            before = {"problems": {"dataset": "procedural"}} if section != "problems" else {}
            file.write_text(f"{yaml.safe_dump(before) if before else ''}{section}: {{{key}: {value}}}\n")
            command = [sys.executable, "-c", LOAD, "odd", section, key]
            done = subprocess.run(command, env=self.project.environment, capture_output=True, text=True, check=False)
            said = done.stdout.strip()
            right = said == "refused" or said in ODD[value]
            tried = f"{section}.{key} = {value}: {said} {done.stderr[-200:]}"
            yield (RIGHT if right else SILENT if said and not done.returncode else LOST), tried
        file.unlink()

    def disk(self) -> Iterator[Outcome]:
        """A full disk is one line."""
        place = self.project.root / "build" / "full"
        shutil.copy(self.project.root / "params" / "tiny.yaml", self.project.root / "params" / "full.yaml")
        for size in self.draw.sample(range(60, 300), 2 * self.times):
            place.mkdir(parents=True, exist_ok=True)
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                return
            try:
                done = self.project.make("paper", "-j1", profile="full")
            finally:
                subprocess.run(["umount", str(place)], check=True)
            right = one_line(done) and "no space left" in done.stderr
            yield (RIGHT if right else LOST), f"{size} kB: {done.stderr[-400:]}"

    def secrets(self) -> Iterator[Outcome]:
        """What the environment held is nowhere in what was made."""
        found = [file for file in self.artefacts() if PLANTED.encode() in file.read_bytes()]
        yield (SILENT if found else RIGHT), f"keys in {found}"

    def leaks(self) -> Iterator[Outcome]:
        """A test problem among the training problems is refused, also where it is written in another way."""
        folder = self.project.root / "data"
        folder.mkdir(exist_ok=True)
        asked = "Ana has {} eggs and gets 2 more. How many?"
        rows = [{"question": asked.format(n), "answer": f"So #### {n + 2}"} for n in range(40)]
        for change in (str, lambda text: f" {text.upper()}  ", lambda text: text.replace(" ", "  ").replace(".", " .")):
            leaked = [*rows[:20], rows[25] | {"question": change(rows[25]["question"])}]
            for name, some in (("train", leaked), ("test", rows[20:])):
                (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
            self.project.write(problems={"dataset": "local", "data_dir": "data", "n_train": 6, "n_test": 6})
            done = self.project.run("check", "tiny")
            yield (RIGHT if one_line(done) else SILENT), f"{change(rows[25]['question'])!r}: {done.stderr}"
        self.project.write(problems={"n_train": 6, "n_test": 6})


FAMILIES = {
    "secrets in what was made": Faults.secrets,
    "artefacts damaged": Faults.damage,
    "half-written plans": Faults.plans,
    "edits that change nothing": Faults.edits,
    "SIGKILL at random times": Faults.kills,
    "two at once": Faults.two_at_once,
    "odd profiles": Faults.profiles,
    "a full disk": Faults.disk,
    "test problems in training": Faults.leaks,
}

# By themselves, with `--only`: Ray gives up by itself where a machine is busy.
BY_THEMSELVES = {"nodes of a cluster that die": Faults.nodes}


def main() -> None:
    """Try every family, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=1, help="how many times as many faults")
    parser.add_argument("--only", choices=FAMILIES | BY_THEMSELVES, help="one family")
    chosen = parser.parse_args()
    table, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        faults = Faults(Path(folder), chosen.seed, chosen.times)
        for name, family in (FAMILIES | BY_THEMSELVES).items():
            if chosen.only == name or (not chosen.only and name in FAMILIES):
                counted: Counter[str] = Counter()
                for outcome, what in family(faults):
                    counted[outcome] += 1
                    if outcome != RIGHT:
                        print(f"{name}: {outcome}: {what}", flush=True)
                table.append([name, sum(counted.values()), *(counted[kind] for kind in (RIGHT, LOST, SILENT))])
                wrong += counted[LOST] + counted[SILENT]
                print(f"[{time.monotonic() - begun:.0f} s] {name}: {dict(counted)}", flush=True)
    widths = [28, 6, 6, 22, 15]
    for row in [["family", "tried", RIGHT, LOST, SILENT], *table]:
        print("".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
