"""Origins: each number of a result is a link to the cell that shows it, with a card that says what it is of.

A link is HTML, so that the number alone is left in every other format. Its card is its description, which the style
sheets show while it is hovered or focused.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple

from response_priming import arms, artifacts, audit, notebooks, params
from response_priming.errors import InputError
from response_priming.extraction import RULES
from response_priming.report.downloads import FACTS, FOLDER

_NUMBER = r"[+-]?(?>\d(?:[\d.,]*\d)?)"
# What is said as one number: `p < 0.001`, `4.2 to 14.8 points`, `1 of 3`; `95 % interval` is none.
SAID = re.compile(
    rf"(?:\bp (?:[=<] )?)?(?<![\w.,]){_NUMBER}(?! %[ -]interval)(?: %)?"
    rf"(?: (?:to|of) {_NUMBER})*(?: (?:%|points?|tokens|students?))?"
)
LINK = re.compile(r'<a class="(?:number|parameter)" href="(?P<file>[^"#]+)#?(?P<anchor>[^"]*)"[^>]*>')

# The notebook and the cell that show what a file of results holds.
CELLS = {
    "accuracy": ("compare", "cell-tbl-accuracy"),
    "gains": ("compare", "cell-tbl-gains"),
    "lengths": ("compare", "cell-tbl-lengths"),
    "teacher": ("compare", "cell-tbl-teacher"),
    "leakage": ("compare", "cell-tbl-leakage"),
    "rules": ("compare", "cell-tbl-rules"),
    "calibration": ("compare", "cell-tbl-calibration"),
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
_FOLDERS = {"compare": "comparison", "attention-visualize": "attention"}  # where they have not the notebook's name
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
_CHOICES: dict[str, Collection[str]] = {"divergence": params.DIVERGENCES, "rule": RULES}  # what a schema does not say
Tried = Mapping[str, list[str]]  # parameter, without its section -> what each change of it gained, in words
NONE_TRIED: Tried = MappingProxyType({})


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
        commit = artifacts.read(profile.build / _FOLDERS.get(stem, stem))["git_commit"] or "unknown"
        place = f"{FOLDER}/{name}.csv; {stem}.ipynb, {cell.removeprefix('cell-')}; commit {commit[:12]}"
        counted, rule, size = kinds[stem]
        rule = "each rule" if name.endswith("rules") else rule and f"rule {rule}"
        found[name] = Origin(f"{stem}-preview.html#{cell}", place, counted, rule, size)
    return found


def linked(text: object, name: str, row: Mapping[str, Any] | None = None, *, known: Mapping[str, Origin]) -> str:
    """A text with each of its numbers as a link to its origin among the known ones; `row`: of the table it is from."""
    origin = known[name]
    of = {**origin.size, **(row or {})}
    size = [f"n = {of['n']:,} {origin.counted}"] if "n" in of else []
    if "seeds" in of:
        size += [f"{of['seeds']} seed{'s' if of['seeds'] > 1 else ''}", *filter(None, [origin.rule])]
    opened = _opened("number", origin.address, [", ".join(size), origin.place])
    return SAID.sub(lambda said: f"{opened}{said[0]}</a>", str(text))


def parameter(value: object, name: str, *, profile: params.Profile, tried: Tried) -> str:
    """A parameter's value, in the page's words, as a link to the notebook that was given it; its card says what it is,
    what is allowed, the command that runs another value, and what was gained where that was done."""
    section, _, key = name.rpartition(".")
    of: Any = getattr(profile, section) if section else profile
    form = type(of).model_json_schema()["properties"][key]
    others = _CHOICES.get(key) or form.get("enum", ())
    allowed = ", ".join(others) or " ".join(f"{word} {form[end]:,}" for end, word in _BOUNDS.items() if end in form)
    said = [f"{name}: {form['description']}", *([f"allowed: {allowed}"] if allowed else [])]
    if key == "rule":
        said.append("the results by every rule are in tbl-rules")
    elif other := _another(profile, name, getattr(of, key), others):
        said.append(f"change it: make explore PROFILE={profile.name} SET={shlex.quote(f'{name}={other}')}")
    said += [f"with {change}" for change in tried.get(key, ())]
    given = [node for node in notebooks.nodes(profile) if key in type(node.run).model_fields]
    shown = min(given, key=lambda node: (key in node.run.idle, node.item != arms.UNPRIMED))
    address = f"{shown.name}-preview.html#injected-parameters"
    return f"{_opened('parameter', address, said)}{value}</a>"


def _another(profile: params.Profile, name: str, value: Any, others: Iterable[str]) -> str | None:
    """A value that the parameter may have instead, as it is written; None where none of those thought of is allowed."""
    thought: dict[type, list[Any]] = {list: [[0, 1, 2], [0]]}
    if isinstance(value, int | float):
        thought = {int: [2 * value, value + 1], float: [value / 2, value / 4]}
    for other in [*thought.get(type(value), ()), *others]:
        with contextlib.suppress(InputError):
            if other != value:
                profile.changed(name, other)
                return other if isinstance(other, str) else json.dumps(other)
    return None


def _opened(kind: str, address: str, said: Iterable[str]) -> str:
    """The beginning of a link with its card; without what YAML would take for its own."""
    card = escape("; ".join(filter(None, said))).replace(": ", "&#58; ").replace(" #", " &#35;")
    return f'<a class="{kind}" href="{address}" aria-description="{card}">'


def folded(page: str, texts: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The manuscript and its texts with those in the summary line of a fold once more, as `KEY_folded`: their numbers
    keep the card but are no links, since a control holds no other one; its fold has the way to the cell."""
    more = dict[str, str]()

    def still(shortcode: re.Match[str]) -> str:
        if (key := shortcode["key"]) not in texts:
            return shortcode[0]
        opened = re.sub(r'<a (class="\w+") href="[^"]*"', r"<span \1", texts[key])
        more[f"{key}_folded"] = opened.replace("</a>", "</span>")
        return f"{{{{< var {key}_folded >}}}}"

    shortcode = re.compile(r"\{\{< var (?P<key>\w+) >\}\}")
    return re.sub(r"<summary>.*</summary>", lambda line: shortcode.sub(still, line[0]), page), texts | more


def bare(text: str) -> str:
    """A text of the page without its links, as words and numbers are compared."""
    return re.sub(r"</?(?:a|span)\b[^>]*>", "", text)
