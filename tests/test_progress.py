"""What a run says, seen through a terminal emulator where a terminal is meant."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pyte
import pytest

from response_priming import progress

WIDTH = 70
FACTS = re.compile(r"\[5/19\] distill-teacher: (\d+)/(\d+) steps, (?:[\d.]+ steps/s|[\d.]+ s/step), \d\d:\d\d left")
TOOK = re.compile(r"\[5/19\] distill-teacher: \d+ s \(\d+\.\d CPU min\)")


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """A line in a file, and what it said on standard output and standard error."""
    out, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    return progress.Line("distill-teacher", tmp_path / "console", place="[5/19] ", stream=out), out, errors


def run_bar(line, steps, **options):
    """A bar to the end, every state of which is written to the line."""
    with contextlib.redirect_stderr(line), progress.Bar(steps, "step", **options) as bar:
        for _ in range(steps - bar.n):
            bar.update()
            bar.refresh()


@pytest.mark.parametrize(("steps", "done", "lines"), [(200, 0, 10), (7, 0, 7), (1, 0, 1), (200, 150, 3)])
def test_a_file_has_a_line_at_every_tenth_with_all_facts_and_at_the_end_the_time(plain, steps, done, lines):
    line, out, errors = plain
    with line:
        run_bar(line, steps, done=done)
        line.done()
    *shown, last = out.getvalue().splitlines()
    states = [FACTS.fullmatch(state) for state in shown]
    assert len(states) == lines
    tenths = [10 * int(state[1]) // int(state[2]) for state in states]
    assert tenths == sorted(set(tenths))
    assert tenths[-1] == 10
    assert TOOK.fullmatch(last)
    assert errors.getvalue() == ""


def test_every_bar_is_counted_anew(plain):
    line, out, _ = plain
    run_bar(line, 10)
    run_bar(line, 10)
    assert [FACTS.fullmatch(state)[1] for state in out.getvalue().splitlines()] == [str(n) for n in range(1, 11)] * 2


def test_bars_of_parts_say_which(plain):
    line, out, _ = plain
    for seed in (7, 8):
        with progress.part("seed", seed, [7, 8]), progress.part("arm", "none", ["none"]):
            run_bar(line, 1)
    assert [state[:40] for state in out.getvalue().splitlines()] == [
        f"[5/19] distill-teacher: seed {n}/2: 1/1 st" for n in (1, 2)
    ]


def test_text_is_said_once_with_the_notebooks_name_even_in_the_midst_of_a_bar(plain):
    line, out, errors = plain
    with line, contextlib.redirect_stderr(line), progress.Bar(4, "step") as bar:
        bar.set_postfix_str("hard 4.5")
        progress.say("Out of memory: the batch is now 2.")
        bar.refresh()
        line.write("\x1b[31mA warning\x1b[0m of two\n  lines\r\n")
        line.write("and what has ")
        line.write("no end")
    assert errors.getvalue().splitlines() == [
        f"distill-teacher: {text}"
        for text in ("Out of memory: the batch is now 2.", "A warning of two", "lines", "and what has no end")
    ]
    assert out.getvalue() == ""


def test_bars_of_libraries_are_lines_too(plain):
    line, out, errors = plain
    for percent in (0, 5, 40, 45, 100):
        speed = "9.1it/s" if percent else "?it/s"
        line.write(f"\rLoading: {percent:3d}%|###   | {percent}/100 [00:01<00:02, {speed}]")
    line.write("\n")
    said = [re.search(r": Loading: +(\d+)%", state)[1] for state in out.getvalue().splitlines()]
    assert said == ["40", "100"]
    assert errors.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (130, "2 min 10 s"), (3900.2, "1 h 5 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


DRIVEN = """
import json, sys
from pathlib import Path
from response_priming import progress

name, place, shared = sys.argv[1:]
with progress.Line(name, Path(shared), place=place) as line:
    line.start(f"{name} begins")
    for command in map(json.loads, sys.stdin):
        if command is None:
            raise SystemExit(3)
        line.write(command)
    line.done()
"""


class Terminal:
    """A terminal that several processes share."""

    def __init__(self, shared):
        self.shared, self.raw, self.processes = shared, b"", []
        self.screen = pyte.Screen(WIDTH, 12)
        self.stream = pyte.ByteStream(self.screen)
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 12, WIDTH, 0, 0))

    def start(self, name, place, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVEN, name, place, self.shared],
            stdin=subprocess.PIPE,
            stdout=self.slave,
            stderr=self.slave,
            env=os.environ | {"TERM": "xterm"} | environment,
            text=True,
        )
        self.processes.append(process)
        return process

    def shows(self, *expected):
        """Wait until these lines, and no others, are on the screen; a pattern stands for a line that it matches."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if select.select([self.master], [], [], 0.05)[0]:
                read = os.read(self.master, 65536)
                self.raw += read
                self.stream.feed(read)
            lines = [line.rstrip() for line in self.screen.display if line.strip()]
            if len(lines) == len(expected) and all(map(re.fullmatch, expected, lines)):
                return
        raise AssertionError("\n".join(lines))


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path / "plan" / "console")
    yield terminal
    for process in terminal.processes:
        process.kill()
        process.communicate()
    os.close(terminal.master)
    os.close(terminal.slave)


def send(process, command):
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()


def bar(done):
    return f"\r{done}/40 steps, 1.5 s/step, 00:36 left, hard=4.547\x1b[K  "


def test_two_notebooks_at_once_keep_a_line_each_and_leave_their_times(terminal):
    first = terminal.start("distill-none", "[4/19] ")
    terminal.shows(r"\[4/19\] distill-none begins")
    second = terminal.start("distill-teacher-with-a-long-name", "[5/19] ")
    terminal.shows(r"\[4/19\] distill-none begins", r"\[5/19\] distill-teacher-with-a-long-name begins")
    for done in (1, 2, 30):
        send(first, bar(done))
        send(second, bar(done + 1))
        terminal.shows(
            rf"\[4/19\] distill-none: {done}/40 steps, 1.5 s/step, 00:36 left, hard=4.5.*",
            rf"\[5/19\] distill-teacher-with-a-long-name: {done + 1}/40 steps, 1.5 s/step.*",
        )
        assert all(line[WIDTH - 1] == " " for line in terminal.screen.display)
    send(second, bar(31) + "Out of memory: the batch is now 2.\n")
    said = r"distill-teacher-with-a-long-name: Out of memory: the batch is now 2\."
    terminal.shows(said, r"\[4/19\] distill-none: 30/40 .*", r"\[5/19\] distill-teacher-with-a-long-name: 31/40 .*")
    first.stdin.close()
    took = r"\d+ s \(\d+\.\d CPU min\)"
    terminal.shows(said, rf"\[4/19\] distill-none: {took}", r"\[5/19\] distill-teacher-with-a-long-name: 31/40 .*")
    second.stdin.close()
    terminal.shows(said, rf"\[4/19\] distill-none: {took}", rf"\[5/19\] distill-teacher-with-a-long-name: {took}")


def test_a_killed_notebook_leaves_no_line_that_stays(terminal):
    first, second = terminal.start("distill-none", "[4/19] "), terminal.start("distill-teacher", "[5/19] ")
    terminal.shows(r"\[\d/19\] distill-\w+ begins", r"\[\d/19\] distill-\w+ begins")
    send(first, "\r7/40 steps, 1.5 s/step\x1b[K")
    while "7/40" not in terminal.shared.read_text():
        time.sleep(0.01)
    first.kill()
    first.wait()
    for done in (8, 9):
        send(second, bar(done))
        terminal.shows(
            r"\[4/19\] distill-none: 7/40 steps, 1.5 s/step \(killed\)", rf"\[5/19\] distill-teacher: {done}/40 .*"
        )
    assert list(json.loads(terminal.shared.read_text().splitlines()[0])[1]) == [str(second.pid)]


def test_lines_of_an_earlier_run_are_not_drawn_over(terminal):
    first = terminal.start("distill-none", "[4/19] ")
    terminal.shows(r"\[4/19\] distill-none begins")
    first.kill()
    first.wait()
    os.write(terminal.slave, b"$ make paper\n")
    terminal.start("distill-teacher", "[5/19] ")
    terminal.shows(r"\[4/19\] distill-none begins", r"\$ make paper", r"\[5/19\] distill-teacher begins")


def test_what_make_says_of_a_failed_notebook_stays(terminal):
    first = terminal.start("distill-none", "[4/19] ")
    terminal.shows(r"\[4/19\] distill-none begins")
    second = terminal.start("distill-teacher", "[5/19] ")
    terminal.shows(r"\[4/19\] distill-none begins", r"\[5/19\] distill-teacher begins")
    send(first, None)
    assert first.wait() == 3
    terminal.shows()
    os.write(terminal.slave, b"make: *** Error 3\nmake: *** Waiting for unfinished jobs....\n")
    send(second, bar(8))
    terminal.shows("make: .* Error 3", "make: .* jobs....", r"\[5/19\] distill-teacher: 8/40 .*")


@pytest.mark.parametrize("name", ["dumb", ""])
def test_a_terminal_that_cannot_move_is_a_file(terminal, name):
    process = terminal.start("distill-teacher", "[5/19] ", TERM=name)
    for done in (1, 4, 5, 8):
        send(process, bar(done))
    process.stdin.close()
    states = [rf"\[5/19\] distill-teacher: {done}/40 steps, 1.5 s/step, 00:36 left, h.*" for done in (4, 8)]
    terminal.shows(r"\[5/19\] distill-teacher begins", *states, TOOK.pattern)
    assert b"\x1b" not in terminal.raw
    assert not terminal.shared.exists()
