"""Progress of what takes long: a bar in JupyterLab, below make a line a notebook, in a file a line every tenth at most.

Make runs several notebooks at once, each in a process of its own. On a terminal their lines are a block below what was
said for good. They stand in a file: whoever has something new to say locks it and draws the block again.
"""

import contextlib
import fcntl
import io
import json
import os
import re
import resource
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import psutil
from tqdm import tqdm

T = TypeVar("T")
# The end is an instruction to clear the rest of the line: text that follows it is no part of the bar.
FORMAT = "{desc}{n}/{total} {unit}s, {speed}, {remaining} left{postfix}\x1b[K"
_parts: list[str] = []


class Bar(tqdm):  # type: ignore[type-arg]  # it wraps no iterable
    """How much of `total` is done, how fast, and the time left."""

    def __init__(self, total: int, unit: str, *, done: int = 0, shown: bool = True) -> None:
        """Show the bar.

        Args:
            unit: what is counted, in the singular.
            done: how much was done before this run.
        """
        self.tokens, self.begun = 0, time.monotonic()
        options: dict[str, Any] = {"desc": "".join(_parts), "bar_format": FORMAT, "leave": False}
        super().__init__(total=total, initial=done, unit=unit, mininterval=1, disable=not shown, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values for `FORMAT`; not cut to a terminal's width, which is up to whoever owns a terminal."""
        values = dict(super().format_dict)
        rate = values["rate"] or (values["n"] - values["initial"]) / (values["elapsed"] or float("inf"))
        speed = f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{self.unit}" if rate else "?"
        return values | {"speed": speed, "ncols": None}

    def close(self) -> None:
        """Show the last state, then nothing."""
        self.refresh()
        super().close()

    @property
    def speed(self) -> float:
        """Tokens a second of this run."""
        return self.tokens / (time.monotonic() - self.begun)

    def answered(self, tokens: int) -> None:
        """One response more, of so many tokens."""
        self.tokens += tokens
        self.set_postfix_str(f"{self.speed:.0f} tokens/s", refresh=False)
        self.update()


def over(items: Collection[T], unit: str) -> Iterator[T]:
    """The items, under a bar."""
    with Bar(len(items), unit) as bar:
        for item in items:
            yield item
            bar.update()


@contextlib.contextmanager
def part(name: str, item: T, among: Sequence[T]) -> Iterator[None]:
    """Bars inside say which of several parts they are of, as in `seed 2/3: 16/40 steps`."""
    said = [f"{name} {among.index(item) + 1}/{len(among)}: "] if len(among) > 1 else []
    _parts.extend(said)
    try:
        yield
    finally:
        del _parts[len(_parts) - len(said) :]


def say(text: str) -> None:
    """A line for whoever runs this, on standard error: below make, a notebook's standard output stays in it."""
    tqdm.write(text, file=sys.stderr)


# --- below make ---

# A state of a bar: `FORMAT`, or a library's own. Only those of a terminal begin their line anew.
BAR = re.compile(r"\r([^\r\n]*?(?:\b(\d+)/(\d+) \w+, [^\r\n]*?(?=\x1b\[K)|\b(\d+)%\|[^\r\n]*?\]))(?:\x1b\[K)? *")
CONTROL = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


class Line(io.TextIOBase):
    """The line of a notebook, or of another goal of make: a file to which its standard error is written."""

    def __init__(self, name: str, shared: Path, *, place: str = "", stream: TextIO | None = None) -> None:
        """A line that says nothing yet.

        Args:
            shared: file with the lines of all that run now.
            place: what precedes the name, as `[5/19] `.
            stream: where the line is shown, by default standard output.
        """
        self.name, self.place, self.shared = name, place, shared
        self.stream, self.standard_error = stream or sys.stdout, sys.stderr
        self.moves = self.stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self.begun, self._rest, self._tenth = time.monotonic(), "", 0

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
        self._print(text, self.standard_error)

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
            dead = {process: lines.pop(process) for process in list(lines) if not psutil.pid_exists(int(process))}
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


def shared(build: Path) -> Path:
    """The file with the lines of all that a profile runs now, whose artefacts are in this folder."""
    return build / "plan" / "console"


def duration(seconds: float) -> str:
    """As `42 s`, `2 min 10 s` or `1 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
