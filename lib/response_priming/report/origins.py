"""Origins: each number of a result is a link to the cell that shows it, with a card that says what it is of.

A link is HTML, so that the number alone is left in every other format. Its card is its description, which the style
sheets show while it is hovered or focused.
"""

import re
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

from response_priming import artifacts, audit, params
from response_priming.report.downloads import FACTS, FOLDER

_NUMBER = r"[+-]?\d(?:[\d.,]*\d)?"
# What is said as one number: `p < 0.001`, `4.2 to 14.8 points`, `1 of 3`; `95 % interval` is none.
SAID = re.compile(rf"(?:\bp (?:[=<] )?)?(?<![\w.,]){_NUMBER}(?! %[ -]interval)(?: %)?(?: (?:to|of) {_NUMBER})*(?: (?:%|points?|tokens|students?))?")
LINK = re.compile(r'<a class="(?:number|parameter)" href="(?P<file>[^"#]+)#?(?P<anchor>[^"]*)"[^>]*>')

# The notebook and the cell that show what a file of results holds.
CELLS = {
    "accuracy": ("compare", "cell-tbl-accuracy"),
    "gains": ("compare", "cell-tbl-gains"),
    "lengths": ("compare", "cell-tbl-lengths"),
    "teacher": ("compare", "cell-tbl-teacher"),
    "leakage": ("compare", "cell-tbl-leakage"),
    "attention-layers": ("attention-visualize", "cell-tbl-attention"),
    "attention-tests": ("attention-visualize", "cell-tbl-attention-test"),
    "attention-heads": ("attention-visualize", "cell-fig-attention-ranking"),
    "audit-published": ("audit", "cell-tbl-published"),
    "audit-tests": ("audit", "cell-tbl-audit-tests"),
    "audit-rules": ("audit", "cell-tbl-audit-rules"),
    "audit-decomposition": ("audit", "cell-tbl-audit-decomposition"),
    "audit-discrepancies": ("audit", "cell-tbl-discrepancies"),
    "audit-cleaned": ("audit", "cleaned"),
    "claims": ("claims", "cell-tbl-claims"),
}
_STAGES = {"compare": "comparison", "attention-visualize": "attention"}  # folders, where they are not the notebook's name


class Origin(NamedTuple):
    """Where numbers are shown, an address in the site, and what their card says: of how many there are (`n` things that
    are `counted`, `seeds`), unless their row says so, by which rule, and `place`, the rest."""

    address: str
    place: str
    counted: str = ""
    rule: str = ""
    size: Mapping[str, Any] = {}


def origins(profile: params.Profile, values: Mapping[str, Any]) -> dict[str, Origin]:
    """Where the numbers of each file of results are shown; `values`: of `report.variables`."""
    kinds: dict[str, tuple[str, str, dict[str, int]]] = {
        "compare": ("problems", values["compared"]["rule"], {}),
        "attention-visualize": ("prompts", "", {"n": values["attention"]["prompts"], "seeds": len(profile.seeds)}),
        "audit": ("problems", audit.RULE, {"n": values["released"]["n"], "seeds": 1}),
        "claims": ("claims", "", {"n": len(values["verdicts"])}),
    }
    found = {"facts": Origin(f"{FOLDER}/{FACTS}", f"read in the released study; {FOLDER}/{FACTS}")}
    for name, (stem, cell) in CELLS.items():
        commit = artifacts.read(profile.build / _STAGES.get(stem, stem))["git_commit"] or "unknown"
        place = f"{FOLDER}/{name}.csv; {stem}.ipynb, {cell.removeprefix('cell-')}; commit {commit[:12]}"
        counted, rule, size = kinds[stem]
        rule = "each rule" if name == "audit-rules" else rule and f"rule {rule}"
        found[name] = Origin(f"{stem}-preview.html#{cell}", place, counted, rule, size)
    return found


def linked(text: object, name: str, row: Mapping[str, Any] | None = None, *, known: Mapping[str, Origin]) -> str:
    """A text with each of its numbers as a link to its origin among the known ones; `row`: of the table it is from."""
    origin = known[name]
    of = {**origin.size, **(row or {})}
    size = [f"n = {of['n']:,} {origin.counted}"] if "n" in of else []
    if "seeds" in of:
        size += [f"{of['seeds']} seed{'s' if of['seeds'] > 1 else ''}", *filter(None, [origin.rule])]
    card = escape("; ".join(filter(None, [", ".join(size), origin.place])))
    opened = f'<a class="number" href="{origin.address}" aria-description="{card}">'
    return SAID.sub(lambda said: f"{opened}{said[0]}</a>", str(text))


def bare(text: str) -> str:
    """A text of the page without its links, as words and numbers are compared."""
    return re.sub(r"</?a\b[^>]*>", "", text)
