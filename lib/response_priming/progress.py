"""Progress of what takes long: one form of line for every stage, in JupyterLab and (see `console`) below make."""

import contextlib
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

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
        if not self.disable:
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
