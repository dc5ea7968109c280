"""A copy of the project with a profile `tiny`, on which whole runs are tried."""

import subprocess
import sys
from pathlib import Path

import tiny
import yaml

from response_priming.machines import stand_ins

BIN = Path(sys.executable).parent
ARMS = stand_ins.ARMS


class Project:
    """A copy of the project with a profile `tiny`, and make to run in it."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        stand_ins.project(root, model, device="cpu")

    def write(self, **changes):
        """Change sections of params/tiny.yaml."""
        file = self.root / "params" / "tiny.yaml"
        content = yaml.safe_load(file.read_text()) if file.exists() else {}
        file.write_text(yaml.safe_dump(content | changes))

    @property
    def environment(self):
        """What its processes are told."""
        settings = {"PYTHONPATH": str(self.root / "lib"), "GSM8K_DIR": "", "PUBLISHED_LOGS": "", "OMP_NUM_THREADS": "1"}
        return tiny.ENVIRONMENT | settings | {"HF_HUB_OFFLINE": "1"}

    def _ended(self, command, answer="", **environment):
        settings = {"cwd": self.root, "env": self.environment | environment, "input": answer}
        return subprocess.run(command, capture_output=True, text=True, check=False, **settings)

    def make(self, *goals, profile="tiny", **options):
        """A make that has ended; `answer` is what it is told, other options are environment variables."""
        return self._ended(["make", f"PROFILE={profile}", f"BIN={BIN}", *goals], **options)

    def started(self, *goals):
        """A make that runs, in a process group of its own."""
        command = ["make", "PROFILE=tiny", f"BIN={BIN}", *goals]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.root, env=self.environment, start_new_session=True, **quiet)

    def run(self, *arguments, **environment):
        """The command line."""
        return self._ended([BIN / "response-priming", *arguments], **environment)

    def stale(self):
        """Names of what `make paper` would run now."""
        done = self.make("plan")
        assert done.returncode == 0, done.stderr
        return {line.split()[0] for line in done.stdout.splitlines()}

    @property
    def build(self):
        return self.root / "build" / "tiny"
