"""One style for every figure, one colour and marker for every arm; and the two doors of foreign text to a page.

Foreign is what a model or a data set wrote, or whoever named a strategy: `printed` shows it in tables, `verbatim` in
Markdown, and neither lets it be markup.
"""

import base64
import functools
import hashlib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib_inline.backend_inline import set_matplotlib_formats
from pandas.io.formats.style import Styler

from response_priming import arms, paths

# Seaborn's colour-blind palette with a dark grey for its yellow and pink, which are hardly visible on white, and
# distinct markers, so that no figure relies on colour alone. Nine and ten: 90 arms differ in at least one of the two.
_PALETTE = [*(sns.color_palette("colorblind")[place] for place in (0, 1, 2, 3, 4, 5, 9, 7)), (0.25, 0.25, 0.25)]
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "h")

# Of every figure: its width in inches, and the size of all text in it in points. Where a phone shows the figure 340 CSS
# pixels wide, the text is at least nine points high, that is 12 pixels; elsewhere it is shown at its own width.
WIDTH, TEXT = 5.0, 13

# Of a table: column -> heading, and format (None: words); an interval's ends, `LOW..HIGH` -> heading, and scale.
Columns = dict[str, tuple[str, Any]]


def apply_style() -> None:
    """Set fonts, sizes and colours, and make notebooks keep both SVG and PNG of each figure; `$` is a dollar sign, in
    figures and in the data frames that a notebook shows as they are."""
    texts = ["font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "figure.labelsize"]
    sizes = dict.fromkeys([*texts, "figure.titlesize", "legend.fontsize", "legend.title_fontsize"], TEXT)
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=sizes)
    mpl.rcParams.update(
        {
            "figure.dpi": 160,
            "figure.figsize": (WIDTH, 3.2),
            "figure.constrained_layout.use": True,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.parse_math": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "response-priming",
        }
    )
    # Not cut to what is drawn, which would change the width.
    set_matplotlib_formats("svg", "png", bbox_inches=None, metadata={"Date": None})
    if shell := get_ipython():
        plain = shell.display_formatter.formatters["text/plain"]  # else where in memory the table was
        plain.for_type(Styler, lambda table, printer, _: printer.text(table.to_string()))
    pd.set_option("display.html.use_mathjax", False)


def color(arm: str) -> tuple[float, float, float]:
    """The arm's or strategy's colour, the same in every figure of every profile."""
    return tuple(_PALETTE[_place(arm) % len(_PALETTE)])


def marker(arm: str) -> str:
    """The arm's or strategy's marker, the same in every figure of every profile."""
    return _MARKERS[_place(arm) % len(_MARKERS)]


def _place(arm: str) -> int:
    known = arms.known()
    # An earlier run may have a strategy that has gone since.
    return known.index(arm) if arm in known else len(known)


def panels(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of a height in inches and the width of all, and its axes as `Figure.subplots` gives them, if any.

    It is not made by pyplot, which would show it a second time in a notebook.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options) if rows else None


def wrapped(title: str, width: int = 19) -> str:
    """A title in lines of at most so many characters, where its words allow that."""
    return textwrap.fill(title, width, break_long_words=False)


def row_height(titles: Iterable[str]) -> float:
    """The height in inches of a row of `dots` that are named by these titles."""
    return 0.2 * max((wrapped(title).count("\n") for title in titles), default=0) + 0.36


def dots(axes: Any, table: pd.DataFrame, looks: Any, *, value: str, low: str = "low", high: str = "high") -> None:
    """A dot a row of the table, in per cent and with its interval, the first row at the top.

    Args:
        looks: of each row, what `Axes.errorbar` takes: colour, marker, ...
        value: column of shares; `low` and `high` are its interval's.
    """
    for y, (row, look) in enumerate(zip(table.to_dict("records"), looks, strict=True)):
        x, left, right = (100 * row[key] for key in (value, low, high))
        axes.errorbar(x, y, xerr=[[max(x - left, 0)], [max(right - x, 0)]], capsize=3, **look)
    name_rows(axes, table["title"])


def name_rows(axes: Any, titles: Iterable[str]) -> None:
    """Rows at 0, 1, ... from the top, named at the left."""
    names = [wrapped(title) for title in titles]
    axes.set_yticks(range(len(names)), labels=names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def legend(figure: Figure, marks: Mapping[str, Any]) -> None:
    """Name what is drawn, a title a mark, above the panels. The figure grows by it, so that they keep their height."""
    look: dict[str, Any] = {"loc": "outside upper left", "ncols": 2, "columnspacing": 1}
    drawn = figure.legend(marks.values(), map(wrapped, marks), frameon=False, borderaxespad=0, **look)
    figure.set_figheight(figure.get_figheight() + drawn.get_window_extent().height / figure.dpi)


def arms_legend(figure: Figure, names: Iterable[str]) -> None:
    """Name the arms or strategies that are drawn, above the panels."""
    legend(figure, {arms.title(arm): Line2D([], [], color=color(arm), marker=marker(arm)) for arm in names})


@functools.cache
def columns_of(name: str) -> Columns | None:
    """The columns of a printed table: those of report/tables.yaml; None where it has no such table."""
    entry = arms.read_yaml(paths.REPORT / "tables.yaml").get(name)
    if entry is None:
        return None
    looks = {key: look if isinstance(look, list) else [look, None] for key, look in entry.items()}
    return {key: (heading, p_value if form == "p" else form) for key, (heading, form) in looks.items()}


def printed(table: pd.DataFrame, name: str, columns: Columns | None = None) -> Styler:
    """A table for the page: its `columns`, by default those that report/tables.yaml has under its name, as far as they
    are there, in that order, without an index. All text in it, headings included, is shown as it is written.

    A column with a format holds numbers and is aligned right; one without holds words. An interval, `LOW..HIGH`, is
    one column of text, empty where an end is missing; instead of a format it has a scale, as 100 for shares in per
    cent. A table that the file does not have is words under their own names.
    """
    columns = columns or columns_of(name) or {str(key): (str(key), None) for key in table}
    columns = {key: column for key, column in columns.items() if {*key.split("..")} <= {*table}}
    shown = pd.DataFrame(
        {
            key: interval_column(table, key.split(".."), form) if ".." in key
            # A list of texts, say, would not be escaped.
            else table[key] if form else table[key].map(str, na_action="ignore")
            for key, (_, form) in columns.items()
        }
    )  # fmt: skip
    formats = {key: _spaced(form) for key, (_, form) in columns.items() if form and ".." not in key}
    style = shown.style.hide(axis="index").format(formats, na_rep="", escape="html")
    style = style.format_index(lambda key: escape(columns[str(key)][0]), axis=1)
    props = {True: "text-align: right; vertical-align: top"}
    props[False] = "text-align: left; vertical-align: top; white-space: pre-wrap"
    look: Any = [
        {"selector": f".col{place}", "props": props[bool(form)]} for place, (_, form) in enumerate(columns.values())
    ]
    # JupyterLab would read what is between two dollar signs as mathematics. A fixed id instead of a random one, so that
    # a second run writes the same page.
    unread = 'class="tex2jax_ignore mathjax_ignore"'
    return style.set_table_styles(look).set_table_attributes(unread).set_uuid(name)


def _spaced(form: Any) -> Any:
    """A format of shares with a space before the sign, as in prose."""
    if not isinstance(form, str) or not form.endswith("%}"):
        return form
    return lambda share: form.format(share).replace("%", "\u00a0%")


def by_rule(accuracies: pd.DataFrame, rules: Iterable[str]) -> Styler:
    """`title`, `rule` and `accuracy` of arms, a row an arm and rule, for the page: a column for each of `rules`."""
    titles = accuracies["title"].unique()
    wide = accuracies.pivot(index="title", columns="rule", values="accuracy").loc[titles].reset_index()
    # A heading may break after each hyphen, in every browser and in PDF.
    columns: Columns = {rule: (rule.replace("-", "-\u200b"), "{:.1%}") for rule in rules}
    return printed(wide, "rules", {"title": ("student", None)} | columns)


def interval_column(table: pd.DataFrame, ends: list[str], scale: float) -> list[str]:
    """Two columns as one of text (see `interval`), empty where an end is missing."""
    pairs = (scale * table[ends]).itertuples(index=False)
    return ["" if pd.isna([low, high]).any() else interval(low, high) for low, high in pairs]


def verbatim(text: str) -> str:
    """Foreign text as it is written, for Markdown and HTML: of pandoc, Quarto and browsers, none finds markup in it.

    All but letters, digits, commas and spaces become character references, line breaks included, which keeps a cell of
    a Markdown table in one line.
    """
    return re.sub(r"[^\w ,]|_", lambda mark: f"&#{ord(mark[0])};", text)


def allowed(script: str) -> str:
    """The source by which a page's policy (Content-Security-Policy) allows a script in it, by digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def percent(share: float, digits: int = 1) -> str:
    """A fraction as per cent, `18.5 %`."""
    return f"{100 * share:.{digits}f} %"


def bound(text: str) -> str:
    """A text in which no line breaks between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|points?|nats|tokens|steps)(?!\w))", "\u00a0", text)


def interval(low: float, high: float) -> str:
    """Two ends, in the unit they come in, `13.7 to 24.5`."""
    return f"{low:.1f} to {high:.1f}"


def span(numbers: Iterable[float], form: str = "d") -> str:
    """From the smallest to the largest, `97.8 to 98.7`, or one number where both read the same."""
    found = sorted(numbers)
    low, high = format(found[0], form), format(found[-1], form)
    return low if low == high else f"{low} to {high}"


def p_value(p: float) -> str:
    """`0.012`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seeds(row: Any) -> str:
    """How many students of each arm something rests on, `one student an arm` or `3 students an arm`."""
    return f"{'one student' if row['seeds'] == 1 else str(row['seeds']) + ' students'} an arm"


def words(file: str, values: Mapping[str, Any], **filters: Callable[..., str]) -> str:
    """A template of report/, filled; `filters`: of its own, beside those of all."""
    return filled((paths.REPORT / file).read_text(encoding="utf-8"), values, **filters)


def filled(template: str, values: Mapping[str, Any], **filters: Callable[..., str]) -> str:
    """Words, a Jinja template, with these values in it; its filters are the formats above, `verbatim`, `title`,
    `number`, and those given.

    Raises:
        jinja2.TemplateError: it is not in Jinja's syntax, or names what is not among the values.
    """
    words = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    words.filters |= {form.__name__: form for form in (percent, interval, span, p_value, seeds, verbatim, arms.title)}
    words.filters |= {"number": format, **filters}
    return words.from_string(template).render(values)
