"""Replicas: copies of an engine in processes of a Ray cluster, which answer whole requests side by side.

A request goes to one replica as a whole, so that what is answered does not depend on how many there are. Whatever dies
or fails meanwhile is tried again, elsewhere if need be:

- A replica that dies is replaced; the request that it was answering is sent again, and so are those that waited there.
- A request that failed twice is split into its prompts. What these are answered is then, to rounding, what they would
  have been beside each other: the same tokens are drawn.
- A prompt that failed twice by itself is set aside, with the reason.
- If everything fails, or too much is set aside, it is not the prompts: that ends in one line.
"""

import contextlib
import io
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from response_priming import progress
from response_priming.engines.base import Engine, Setup
from response_priming.errors import InputError

IN_FLIGHT = 2  # requests at a replica: while one is answered, the next one is there already
TRIES = 2
MOST_SET_ASIDE = 10
PATIENCE = 600.0  # seconds without any replica that the cluster has found a place for
TURN = 10.0  # seconds between two looks at that


class About(NamedTuple):
    """What an engine says of itself (see `Engine`)."""

    describes: dict[str, Any]
    context: int | None
    vocabulary: int


class Replica:
    """An engine in a process of its own; on a CPU it computes with one thread."""

    engine: Engine

    def here(self) -> None:
        """Answered once the cluster has found a place."""

    def open(self, kind: type[Engine], setup: Setup) -> About:
        """Load the model."""
        torch: Any = sys.modules.get("torch")  # an engine that computes with it has imported it
        if torch and setup.device == "cpu":
            torch.set_num_threads(1)
        self.engine = kind.open(setup)
        return About(self.engine.describe(), self.engine.context, self.engine.vocabulary)

    def answer(
        self, call: str, prompts: Sequence[list[int]], options: dict[str, Any]
    ) -> tuple[list[tuple[int, Any]], dict[str, Any], str]:
        """All that a method of the engine yields, how the engine then describes itself, and what it said meanwhile."""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            found = list(getattr(self.engine, call)(prompts, **options))
        return found, self.engine.describe(), said.getvalue()


@dataclass
class Task:
    """A request by its number, or the part of it from prompt `first` on: prompts for a method of the engine.

    `reasons`: why it failed so far.
    """

    number: int
    call: str
    prompts: Sequence[list[int]]
    options: dict[str, Any]
    first: int = 0
    reasons: list[str] = field(default_factory=list)

    def parts(self) -> Iterator["Task"]:
        """Each prompt by itself."""
        for place, prompt in enumerate(self.prompts):
            options = self.options | ({"first": place} if self.call == "respond" else {})
            yield replace(self, prompts=[prompt], options=options, first=place, reasons=[])


class Done(NamedTuple):
    """A task with what it yielded, or None and the `reason` where it is set aside."""

    task: Task
    found: list[tuple[int, Any]] | None
    reason: str = ""


@dataclass
class _Seat:
    """A replica, and what it was asked and has not answered yet, in that order; `about` is known once it is open."""

    actor: Any
    asked: deque[tuple[Any, Task | None]]
    placed: bool = False
    about: About | None = None


class Replicas:
    """So many replicas; `start` starts one, and `opening` is what `Replica.open` is given."""

    def __init__(self, start: Callable[[], Any], opening: tuple[type[Engine], Setup], count: int, need: str) -> None:
        self.start, self.opening, self.need = start, opening, need
        self.failures, self.set_aside, self.left, self.since = 0, 0, False, time.monotonic()
        self.again: deque[Task] = deque()
        self.seats = [self._seat() for _ in range(count)]
        while not (first := next((seat.about for seat in self.seats if seat.about), None)):
            for seat in self._ready():
                list(self._take(seat))
        self.about = first

    def _seat(self) -> _Seat:
        actor = self.start()
        return _Seat(actor, deque([(actor.here.remote(), None), (actor.open.remote(*self.opening), None)]))

    def run(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """Do the tasks, which are drawn as there is a replica for them; yields each as it is done.

        Raises:
            InputError: a replica's own, which is about all tasks; nothing works any more; the cluster has no place.
        """
        drawn, self.left = iter(tasks), True
        try:
            self._fill(drawn)
            while self.left or self.again or any(task for seat in self.seats for _, task in seat.asked):
                for seat in self._ready():
                    done = list(self._take(seat))
                    # Before it is taken away, which takes a while.
                    self._fill(drawn)
                    yield from done
        finally:
            self.again.clear()
            for seat in self.seats:
                seat.asked = deque((reference, task) for reference, task in seat.asked if task is None)

    def _fill(self, drawn: Iterator[Task]) -> None:
        """Every open replica gets a first task before any gets a second one."""
        for length in range(IN_FLIGHT):
            for seat in self.seats:
                if seat.about and len(seat.asked) == length:
                    task = self.again.popleft() if self.again else next(drawn, None)
                    if task is None:
                        self.left = False
                        return
                    seat.asked.append((seat.actor.answer.remote(task.call, task.prompts, task.options), task))

    def _ready(self) -> list[_Seat]:
        """The replicas that have answered, died or failed."""
        import ray

        # A replica does one thing after the other, so what it was asked first is what it is at.
        heads = {seat.asked[0][0]: seat for seat in self.seats if seat.asked}
        ready, _ = ray.wait(list(heads), num_returns=1, timeout=TURN)
        if any(seat.placed for seat in self.seats):
            self.since = time.monotonic()
        elif time.monotonic() - self.since > PATIENCE:
            raise InputError(
                f"engine = 'ray': for {PATIENCE / 60:.0f} minutes the cluster had no place for a replica, which needs "
                f"{self.need}; free some, or add a node, and run again: what is finished is kept"
            )
        return [heads[reference] for reference in ready]

    def _take(self, seat: _Seat) -> Iterator[Done]:
        """What a replica was asked first, done or failed."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        reference, task = seat.asked[0]
        try:
            found = ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            if task is None:
                self._replace(seat)
            else:
                seat.asked.popleft()
            yield from self._failed(task, _line(error.cause or error))
        except RayError as error:
            self._replace(seat)
            yield from self._failed(task if seat.about else None, f"its worker died ({_line(error)})")
        else:
            seat.asked.popleft()
            if task is not None:
                self.failures = 0
                answers, describes, said = found
                self.about = self.about._replace(describes=describes)
                for line in filter(None, map(str.strip, said.splitlines())):
                    progress.say(line)
                yield Done(task, answers)
            elif seat.placed:
                seat.about = found
            seat.placed = True

    def _replace(self, seat: _Seat) -> None:
        """Another replica in the place of one that is no good; what waited there, but for the first, is sent again."""
        import ray

        with contextlib.suppress(Exception):  # it may be gone
            ray.kill(seat.actor)
        self.again.extendleft(reversed([task for _, task in list(seat.asked)[1:] if task]))
        self.seats[self.seats.index(seat)] = self._seat()

    def _failed(self, task: Task | None, reason: str) -> Iterator[Done]:
        """Try again, split or set aside what failed; with no task, a replica failed while it was opened."""
        self.failures += 1
        if self.failures > 4 + 2 * len(self.seats):
            raise InputError(f"engine = 'ray': the last {self.failures} tries failed, whatever they were of: {reason}")
        if task is None:
            return
        task.reasons.append(reason)
        alone = len(task.prompts) == 1
        if len(task.reasons) < TRIES:
            # One that may be to blame waits for the others.
            (self.again.append if alone else self.again.appendleft)(task)
        elif not alone:
            self.again.extend(task.parts())
        else:
            self.set_aside += 1
            if self.set_aside > MOST_SET_ASIDE:
                raise InputError(
                    f"engine = 'ray': {self.set_aside} prompts failed {TRIES} times each, more than may be set aside: "
                    f"{reason}"
                )
            yield Done(task, None, reason)


def _line(error: BaseException) -> str:
    """An error in one line: where a worker died, how it ended."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    found = next((line for line in lines if "exit detail" in line), lines[0])
    return f"{type(error).__name__}: {found}"[:300]
