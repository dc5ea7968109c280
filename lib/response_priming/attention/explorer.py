"""The explorer: one page, complete in itself, where a reader picks arm, layer, head and prompt and sees the map.

Bokeh draws it and brings the controls: its scripts weigh a third of plotly's, its controls are native ones, and it
packs arrays by itself. report/explorer.jinja holds the page's words, and the policy by which a browser loads nothing
and runs no other script; report/explorer.js looks up one head.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource, CustomJS, FactorRange, FixedTicker, LinearColorMapper, Model, NoOverlap
from bokeh.models.annotations import ColorBar
from bokeh.models.widgets import Select
from bokeh.palettes import RdBu11, Viridis256, interp_palette
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.settings import settings
from bokeh.transform import transform
from IPython.display import HTML

from response_priming import arms, paths

if TYPE_CHECKING:
    from response_priming.attention.results import Analysis, Example

STEPS = 255
BUDGET = 7_000_000  # weights, a byte each; packed and written as text they take a little over half of that
SHOWN_WEIGHTS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)  # ticks of the square-root scale
FOCUS = ".bk-input:focus-visible { outline: 3px solid #0b5cad; outline-offset: 1px; }"
TITLES = {"map": "Attention of the arm", "difference": "The arm minus the compared arm"}
SCRIPTS = "the page's own"  # what the page's policy allows to run, until its scripts are there to be digested
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
HOVER = [("from", "@attends"), ("to", "@attended"), ("weight", "@weight{0.000}"), ("difference", "@difference{0.000}")]


def explore(analysis: "Analysis", heads: Iterable[Sequence[int]] = ()) -> HTML:
    """The page within a notebook, with these `heads` (layer and head) in any case, where not all fit."""
    # JupyterLab leaves out the frame, but not the text in it, until the notebook is trusted.
    return HTML(
        f'<div><iframe srcdoc="{escape(html(analysis, heads, back=False))}" title="Attention explorer" '
        'sandbox="allow-scripts allow-downloads" style="width: 100%; height: 56rem; border: 0">'
        "Run this cell to see the explorer.</iframe></div>"
    )


def html(analysis: "Analysis", heads: Iterable[Sequence[int]] = (), *, back: bool = True) -> str:
    """The page, from `examples` and `divergent`; where not all heads fit into `BUDGET`, the most divergent ones and
    `heads`. With a link `back` to the manuscript in the same folder."""
    examples, divergent = analysis.examples, analysis.divergent
    weights = sum(len(one.maps) * len(one.tokens) * (len(one.tokens) + 1) // 2 for one in examples)
    ranked = divergent[["layer", "head"]].head(max(1, BUDGET // weights)).to_numpy().tolist()
    kept = list(dict.fromkeys((layer, head) for layer, head in (*ranked, *heads)))
    controls = _controls(examples, kept)
    plots, filled = _plots()
    held = {"texts": _texts(examples, kept), "heads": [f"{layer}-{head}" for layer, head in kept]}
    script, page = ((paths.REPORT / f"explorer.{kind}").read_text(encoding="utf-8") for kind in ("js", "jinja"))
    update = CustomJS(args={**controls, **filled, **held}, code=script)
    for control in controls.values():
        control.js_on_change("value", update)
    document = Document()
    document.js_on_event("document_ready", update)
    for name, model in (controls | plots).items():
        model.name = name
        document.add_root(model)
    shown = {
        "back": back,
        "arms": controls["arm"].options,
        "texts": examples,
        "kept": len(kept),
        "heads": len(divergent),
        "added": len(kept) > len(ranked),
        "layers": divergent["layer"].nunique(),
        "controls": list(controls),
    }
    settings.compression_level = 9
    page = file_html(document, Resources(mode="inline"), template=page, template_variables=shown)
    # Bokeh draws the ids of its elements at random; the same maps are to be the same page.
    for number, drawn in enumerate(dict.fromkeys(UUID.findall(page))):
        page = page.replace(drawn, f"element-{number}")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    sums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return page.replace(SCRIPTS, " ".join(f"'sha256-{sum_}'" for sum_ in sums), 1)


def _texts(examples: "Sequence[Example]", kept: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """What explorer.js reads of each text: its tokens behind their positions, which makes them unique, and the maps'
    causal halves [heads, arms, pairs], each arm but the first as the difference to the one before it."""
    layers, heads = np.array(kept).T
    texts = []
    for one in examples:
        places, half = zip(one.positions, one.tokens, strict=True), np.tril_indices(len(one.tokens))
        labels = [f"{place} {token.strip() or repr(token)[1:-1]}" for place, token in places]
        maps = np.stack([maps[layers, heads][:, *half] for maps in one.maps.values()], axis=1)
        packed = np.diff(maps, axis=1, prepend=np.uint8(0))
        texts.append({"problem": one.problem, "tokens": labels, "maps": packed})
    return texts


def _controls(examples: "Sequence[Example]", kept: list[tuple[int, int]]) -> dict[str, Select]:
    """A list to choose from for each of arm, second arm, layer, head and problem."""
    names = [arms.title(arm) for arm in examples[0].maps]
    by_layer: dict[str, list[str]] = {}
    for layer, head in sorted(kept):
        by_layer.setdefault(str(layer), []).append(str(head))
    first_layer, first_head = map(str, kept[0])
    problems = [(str(number), example.problem) for number, example in enumerate(examples)]
    offered: dict[str, tuple[str, list[Any], str]] = {
        "arm": ("Arm", names, names[-1]),
        "against": ("Compared with", names, names[0]),
        "layer": ("Layer", list(by_layer), first_layer),
        "head": ("Head", by_layer[first_layer], first_head),
        "text": ("Problem", problems, "0"),
    }
    chosen = {
        name: Select(title=title, options=options, value=value, stylesheets=[FOCUS])
        for name, (title, options, value) in offered.items()
    }
    # A page that does not hold every head offers a layer's own ones.
    offer = "head.options = heads[cb_obj.value]; if (!head.options.includes(head.value)) head.value = head.options[0]"
    chosen["layer"].js_on_change("value", CustomJS(args={"head": chosen["head"], "heads": by_layer}, code=offer))
    return chosen


def _plots() -> tuple[dict[str, figure], dict[str, Model]]:
    """The two empty heatmaps, and what has to be set to fill them."""
    source = ColumnDataSource({name: [] for name in ("attends", "attended", "shade", "weight", "difference")})
    across, down = FactorRange(), FactorRange()
    scale = LinearColorMapper(palette=interp_palette(RdBu11, STEPS), low=-1, high=1)
    roots = LinearColorMapper(palette=list(Viridis256), low=0, high=1)
    ticks: dict[Any, Any] = {float(np.sqrt(weight)): f"{weight:g}" for weight in SHOWN_WEIGHTS}
    drawn = {
        "map": ("shade", ColorBar(color_mapper=roots, ticker=FixedTicker(ticks=[*ticks]), major_label_overrides=ticks)),
        "difference": ("difference", ColorBar(color_mapper=scale)),
    }
    plots = {}
    for name, (column, bar) in drawn.items():
        plot = figure(
            title=TITLES[name], width=580, height=560, x_range=across, y_range=down,
            x_axis_label="Token attended to", y_axis_label="Token that attends",
            tools="hover,box_zoom,wheel_zoom,pan,reset,save", toolbar_location="above", tooltips=HOVER,
        )  # fmt: skip
        color = transform(column, bar.color_mapper)
        plot.rect("attended", "attends", 1, 1, source=source, color=color, line_width=0.5)
        plot.axis.major_label_text_font_size = "8px"
        plot.axis.major_label_policy = NoOverlap()
        plot.xaxis.major_label_orientation = "vertical"
        plot.grid.visible = False
        plot.toolbar.logo = None
        plot.add_layout(bar, "right")
        plots[name] = plot
    return plots, {"source": source, "across": across, "down": down, "scale": scale}
