"""Leakage: test questions that are also among those a student learns from, exactly or nearly.

What is compared are words, without capitals, punctuation and blanks, in which copies differ. A question is `exact`
where these are equal, `numbers` where they are but for the numbers (the same template), and `near` where they, numbers
masked, share at least `THRESHOLD` of their trigrams (Jaccard similarity), as with another name in the story.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from response_priming.problems import plain

KINDS = ("exact", "numbers", "near")
THRESHOLD = 0.4
Gram = tuple[str, ...]


class Overlap(NamedTuple):
    """A test question and the one most like it of the others, by their places; `kind` is the strongest that holds."""

    test: int
    other: int
    kind: str
    similarity: float


def overlaps(test: Sequence[str], others: Sequence[str]) -> list[Overlap]:
    """The test questions that have their like among the others, in their order, each with the most similar one.

    Near-linear in the number of questions: two sets as similar as `THRESHOLD` share one of their rarest trigrams, so
    only questions that share one of these are compared (prefix filtering, Bayardo et al. 2007). None is missed.
    """
    same, alike = ({form(text): place for place, text in reversed(list(enumerate(others)))} for form in (plain, masked))
    shared = {place: trigrams(text) for text, place in alike.items()}
    often = Counter(gram for grams in shared.values() for gram in grams)

    def rarest(grams: set[Gram]) -> list[Gram]:
        kept = len(grams) - math.ceil(THRESHOLD * len(grams)) + 1
        return sorted(grams, key=lambda gram: (often[gram], gram))[:kept]

    having = defaultdict(list)
    for place, grams in shared.items():
        for gram in rarest(grams):
            having[gram].append(place)
    found = []
    for number, text in enumerate(test):
        if (copy := same.get(plain(text))) is not None:
            found.append(Overlap(number, copy, "exact", 1.0))
        elif (copy := alike.get(masked(text))) is not None:
            found.append(Overlap(number, copy, "numbers", 1.0))
        else:
            grams = trigrams(masked(text))
            near = {place for gram in rarest(grams) for place in having.get(gram, ())}
            similar = {place: len(grams & shared[place]) / len(grams | shared[place]) for place in sorted(near)}
            closest = max(similar, key=lambda place: similar[place], default=-1)
            if similar.get(closest, 0.0) >= THRESHOLD:
                found.append(Overlap(number, closest, "near", similar[closest]))
    return found


def masked(text: str) -> str:
    """The words of a text with 0 for every number, decimals and thousands included."""
    return re.sub(r"\d+", "0", plain(re.sub(r"(?<=\d)[.,](?=\d)", "", text)))


def trigrams(text: str) -> set[Gram]:
    """The runs of three words; the whole text where it is shorter."""
    words = text.split()
    return {tuple(words[place : place + 3]) for place in range(max(1, len(words) - 2))}
