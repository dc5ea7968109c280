"""What a run says: on a terminal a line a notebook, which moves; in a file, a line at every tenth of its work at most.

Make runs several notebooks at once, each in a process of its own. On a terminal their lines are a block below what was
said for good. They stand in a file: whoever has something new to say locks it and draws the block again.
"""

import contextlib
import fcntl
import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from response_priming import paths

# A state of a bar: `progress.FORMAT`, or a library's own. Only those of a terminal begin their line anew.
BAR = re.compile(r"\r([^\r\n]*?(?:\b(\d+)/(\d+) \w+, [^\r\n]*?(?=\x1b\[K)|\b(\d+)%\|[^\r\n]*?\]))(?:\x1b\[K)? *")
CONTROL = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


class Line:
    """The line of a notebook, or of another goal of make: a file to which its standard error is written."""

    def __init__(self, name: str, shared: Path, *, place: str = "", stream: TextIO | None = None) -> None:
        """A line that says nothing yet.

        Args:
            shared: file with the lines of all that run now.
            place: what precedes the name, as `[5/19] `.
            stream: where the line is shown, by default standard output.
        """
        self.name, self.place, self.shared = name, place, shared
        self.stream, self.errors = stream or sys.stdout, sys.stderr
        self.moves = self.stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self.begun, self._rest, self._tenth = time.monotonic(), "", 0

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if self._rest:
            self.write("\n")
        if self.moves and self.shared.exists():
            # Where this failed, make says so next: not below lines that another process then moves up to.
            with self._block(drawn=not failed) as lines:
                lines.pop(str(os.getpid()), None)

    def start(self, text: str) -> None:
        """Say what begins."""
        self._show(f"{self.place}{text}")

    def done(self, made: str = "") -> None:
        """Say for good how long it, or what it made, took: by the clock, and of all processors together."""
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        minutes = sum(used.ru_utime + used.ru_stime for used in usage) / 60
        took = f"{duration(time.monotonic() - self.begun)} ({minutes:.1f} CPU min)"
        self._print(f"{self.place}{made or self.name}: {took}", self.stream)

    def say(self, text: str) -> None:
        """Say something for good, on standard error."""
        self._print(text, self.errors)

    def write(self, text: str) -> int:
        """Take what was written to standard error: bars become the line, any other text is said as it is."""
        for bar in BAR.finditer(text):
            self._move(bar)
        *lines, rest = (self._rest + BAR.sub("\n", text)).split("\n")
        self._rest = rest.rpartition("\r")[2]
        for line in lines:
            if said := CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]).strip():
                self.say(f"{self.name}: {said}")
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def _move(self, bar: re.Match[str]) -> None:
        state, done, total, percent = bar.groups()
        tenth = int(percent) // 10 if percent else 10 * int(done) // max(int(total), 1)
        # A bar begins where it knows no speed yet.
        news, self._tenth = tenth > self._tenth and "?" not in state, tenth
        if self.moves or news:
            self._show(f"{self.place}{self.name}: {CONTROL.sub('', state).strip()}")

    def _show(self, text: str) -> None:
        if self.moves:
            with self._block() as lines:
                lines[str(os.getpid())] = text
        else:
            self._print(text, self.stream)

    def _print(self, text: str, stream: TextIO) -> None:
        with self._block() if self.moves else contextlib.nullcontext():
            print(f"{text}\n", end="", file=stream, flush=True)  # in one piece, whatever else is being written

    @contextlib.contextmanager
    def _block(self, *, drawn: bool = True) -> Iterator[dict[str, str]]:
        """The lines by process, cleared from the terminal, and drawn again at the end."""
        self.shared.parent.mkdir(parents=True, exist_ok=True)
        self.shared.touch()
        with self.shared.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            height, lines = json.loads(file.readline() or "[0, {}]")
            dead = {process: lines.pop(process) for process in list(lines) if not _runs(int(process))}
            # Where all that drew are dead, what they drew may be on another terminal, or far above.
            if lines:
                killed = "".join(f"{line} (killed)\n" for line in dead.values())
                print(f"\x1b[{height}F\x1b[J" * (height > 0) + killed, end="", file=self.stream, flush=True)
            yield lines
            width = (os.get_terminal_size(self.stream.fileno()).columns or 80) - 1
            block = "".join(f"{line[:width]}\n" for line in lines.values()) if drawn else ""
            print(block, end="", file=self.stream, flush=True)
            file.seek(0)
            file.write(json.dumps([block.count("\n"), lines]) + "\n")  # over the old line, at once: never half a file


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def shared(profile: str) -> Path:
    """The file with the lines of all that the profile runs now."""
    return paths.BUILD / profile / "plan" / "console"


def duration(seconds: float) -> str:
    """As `42 s`, `2 min 10 s` or `1 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
