"""What is measured of an attention map: numbers for each head, and how far heads differ between students.

Four numbers are those of Goyal et al. 2024 (arXiv 2412.17846): entropy, "self-attention focus" (the diagonal),
"sparsity" (a share above a threshold, so really a density, and called that here) and similarity across layers. Two more
set apart what goes to the first token, which takes most of the attention and says least (an attention sink, Xiao et al.
2023, arXiv 2309.17453). Everything is computed in float64.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from response_priming.attention.results import PAPER
from response_priming.errors import InputError

DENSE = 0.1  # entries above this are counted by the density


def head_metrics(maps: Any) -> pd.DataFrame:
    """The paper's four numbers of each head, from maps [layers, heads, tokens, tokens]; rows are queries, and causal.

    Columns: layer; head; `entropy` (nats) and `diagonal`, means over rows; `density`, the share of entries above 0.1
    among all tokens x tokens entries, causal zeros included, as the released code counts; `similarity`, the cosine of
    the flattened map with that of the same head one layer below, NaN at the first layer. For all but the cosine, rows
    are renormalised to sum to 1, which fp16 and bf16 rows do not. One layer at a time is held in float64.
    """
    layers, below = [], None
    for layer in maps:
        current = exact(layer)
        layers.append(paper_numbers(current, below))
        below = current
    return by_head({name: torch.stack([numbers[name] for numbers in layers]) for name in PAPER})


def divergent_heads(maps_by_arm: Mapping[str, Any]) -> pd.DataFrame:
    """Layer, head and `variance`: the population variance across arms, mean over all tokens x tokens positions; largest
    first.

    `maps_by_arm` holds an array [layers, heads, tokens, tokens] of the same text for each arm.

    Raises:
        InputError: the arms' maps differ in shape, as those of different texts do.
    """
    shapes = {arm: tuple(maps.shape) for arm, maps in maps_by_arm.items()}
    if len(set(shapes.values())) != 1:
        raise InputError(f"divergent_heads: maps have the shapes {shapes}; must be the same for every arm")
    variances = [spread(map(exact, layer)).mean(dim=(-2, -1)) for layer in zip(*maps_by_arm.values(), strict=True)]
    return largest_first(by_head({"variance": torch.stack(variances)}))


def paper_numbers(raw: Tensor, below: Tensor | None) -> dict[str, Tensor]:
    """The paper's four numbers [heads] from float64 maps [heads, queries, tokens] of one layer and the one below.

    The last query is the last token; see `head_metrics`.
    """
    rows = raw / raw.sum(dim=-1, keepdim=True)
    own = rows.diagonal(offset=rows.shape[-1] - rows.shape[-2], dim1=-2, dim2=-1)
    if below is None:
        similarity = torch.full_like(own[..., 0], torch.nan)
    else:
        here, lower = raw.flatten(start_dim=-2), below.flatten(start_dim=-2)
        # The product by einsum, which forms no map of products.
        similarity = torch.einsum("hp,hp->h", here, lower) / (here.norm(dim=-1) * lower.norm(dim=-1))
    return {
        "entropy": _entropy(rows),
        "diagonal": own.mean(dim=-1),
        "density": (rows > DENSE).sum(dim=(-2, -1)).double() / rows[0].numel(),
        "similarity": similarity,
    }


def sink_numbers(raw: Tensor) -> dict[str, Tensor]:
    """`sink`, the share of attention on the first token, and `entropy_rest`, the entropy of what is left, renormalised.

    Shapes as for `paper_numbers`; means over all rows but the first token's own, which can attend to nothing else. A
    row that leaves nothing has entropy 0.
    """
    rows = (raw / raw.sum(dim=-1, keepdim=True))[..., int(raw.shape[-1] == raw.shape[-2]) :, :]
    rest = rows[..., 1:]
    left = rest.sum(dim=-1, keepdim=True)
    return {"sink": rows[..., 0].mean(dim=-1), "entropy_rest": _entropy(rest / left.where(left > 0, 1.0))}


def spread(maps: Iterable[Tensor]) -> Tensor:
    """Population variance across tensors of one shape, entry by entry, holding three of them (Welford 1962)."""
    mean, squares = torch.zeros(()), torch.zeros(())
    for count, one in enumerate(maps, start=1):
        away = one - mean
        mean = mean + away / count
        squares = squares + away * (one - mean)
    return squares / count


def _entropy(rows: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(rows)
    return entropy.sum(dim=-1).mean(dim=-1)


def exact(layer: Any) -> Tensor:
    """A float64 copy of an array or tensor of any precision."""
    return layer.double() if isinstance(layer, Tensor) else torch.from_numpy(np.array(layer, dtype=np.float64))


def by_head(values: Mapping[str, Tensor]) -> pd.DataFrame:
    """One row a head, in the order of layers, from tensors [layers, heads]."""
    arrays = {name: value.numpy(force=True) for name, value in values.items()}
    layer, head = np.indices(next(iter(arrays.values())).shape)
    columns = {name: array.ravel() for name, array in arrays.items()}
    return pd.DataFrame({"layer": layer.ravel(), "head": head.ravel()} | columns)


def largest_first(heads: pd.DataFrame) -> pd.DataFrame:
    """Heads by their `variance`; equal ones stay in order."""
    return heads.sort_values("variance", ascending=False, kind="stable", ignore_index=True)
