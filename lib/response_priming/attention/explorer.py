"""The explorer: one page, complete in itself, where a reader picks arm, layer, head and token and sees the attention.

The page holds tokens, titles and maps as data. report/explorer.jinja has its words, its look and the policy by which a
browser loads nothing and runs no script but report/explorer.js, which shows one head. There is no plotting library in
it: one would weigh half as much as the maps, and its canvas is nothing that a screen reader or a phone could use.
"""

import base64
import zlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from IPython.display import HTML

from response_priming import arms, paths, style

if TYPE_CHECKING:
    from response_priming.attention.results import Analysis, Example

BUDGET = 7_000_000  # weights, a byte each; packed and written as text they take a little over half of that


def explore(analysis: "Analysis", heads: Iterable[Sequence[int]] = ()) -> HTML:
    """The page within a notebook, with these `heads` (layer and head) in any case, where not all fit."""
    # JupyterLab leaves out the frame, but not the text in it, until the notebook is trusted.
    return HTML(
        f'<div><iframe srcdoc="{escape(html(analysis, heads, back=False))}" title="Attention explorer" '
        'sandbox="allow-scripts" style="width: 100%; height: 56rem; border: 0">'
        "Run this cell to see the explorer.</iframe></div>"
    )


def html(analysis: "Analysis", heads: Iterable[Sequence[int]] = (), *, back: bool = True) -> str:
    """The page, from `examples` and `divergent`; where not all heads fit into `BUDGET`, the most divergent ones and
    `heads`. With a link `back` to the manuscript in the same folder.

    What it shows can be asked for in its address: `explorer.html#layer=3&head=5`, and also `arm` and `against` by
    name, `text` by its problem's id, `token` by its place in the text, and `show`, weight or difference.
    """
    examples, divergent = analysis.examples, analysis.divergent
    weights = sum(len(one.maps) * len(one.tokens) * (len(one.tokens) + 1) // 2 for one in examples)
    ranked = divergent[["layer", "head"]].head(max(1, BUDGET // weights)).to_numpy().tolist()
    kept = list(dict.fromkeys((layer, head) for layer, head in (*ranked, *heads)))
    titles = [(arm, arms.title(arm)) for arm in examples[0].maps]
    texts = [
        {"problem": one.problem, "tokens": one.tokens, "places": one.positions.tolist(), "solution": one.solution}
        for one in examples
    ]
    script = (paths.REPORT / "explorer.js").read_text(encoding="utf-8")
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.REPORT),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return page.get_template("explorer.jinja").render(
        back=back,
        script=script,
        allowed=style.allowed(script),
        held={"arms": titles, "heads": kept, "texts": texts, "maps": _packed(examples, kept)},
        layers=sorted({layer for layer, _ in kept}),
        every=len(divergent),
        depth=divergent["layer"].nunique(),
        added=len(kept) > len(ranked),
    )


def _packed(examples: "Sequence[Example]", kept: list[tuple[int, int]]) -> str:
    """The maps' causal halves, text after text [arms, heads, pairs] and each arm but the first as the difference to the
    one before it, deflated and in Base64."""
    layers, heads = np.array(kept).T
    # Differences are noise, in which no two stretches are the same: looking for such ones makes the page 12 % larger.
    packer = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    packed = b""
    for one in examples:
        half = np.tril_indices(len(one.tokens))
        maps = np.stack([maps[layers, heads][:, *half] for maps in one.maps.values()])
        packed += packer.compress(np.diff(maps, axis=0, prepend=np.uint8(0)).tobytes())
    return base64.b64encode(packed + packer.flush()).decode()
