"""A copy of the project with a profile `tiny`, on which whole runs are tried."""

import shutil
import subprocess
import sys
from pathlib import Path

import tiny
import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ARMS = ["undistilled", "fine-tuned", "none", "teacher"]


class Project:
    """A copy of the project with a profile `tiny`, and make to run in it."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        for name in ("Makefile", "setup.sh", "pyproject.toml", "requirements.lock", "CITATION.cff", "README.md"):
            shutil.copy(ROOT / name, root / name)
        for name in ("lib", "notebooks", "params", "report"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        self.write(
            arms=ARMS,
            problems={"n_train": 6, "n_test": 6},
            model={"student": str(model), "dtype": "float32", "device": "cpu"},
            generate={"teacher": str(model), "worked_examples": 1, "response_tokens": 8, "generate_batch": 4},
            distill={"train_steps": 2, "train_batch": 2, "micro_batch": 2},
            evaluate={"answer_tokens": 8, "evaluate_batch": 4},
            attention={"attention_prompts": 2, "heatmaps": 1},
            attribution={"attribution_problems": 2, "gradient_steps": 2, "random_orders": 1},
        )

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

    def run(self, *arguments):
        """The command line."""
        return self._ended([BIN / "response-priming", *arguments])

    def stale(self):
        """Names of what `make paper` would run now."""
        done = self.make("plan")
        assert done.returncode == 0, done.stderr
        return {line.split()[0] for line in done.stdout.splitlines()}

    @property
    def build(self):
        return self.root / "build" / "tiny"
