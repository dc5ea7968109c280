"""Stage distill: an arm's student is trained on the teacher's responses, or on the data set's solutions.

Reads: `responses/STRATEGY/`. Writes: `students/ARM/seed-N/`, an adapter (or all weights), its model card and its
curves, a row an optimiser step:

    step  loss   hard   soft   grad_norm  learning_rate  tokens_per_second  peak_mib
    1     1.603  1.744  1.462  2.61       0.0            93                 1895
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "training": ["by_position", "of_method", "samples", "train", "train_one", "validation"],
        "figures": ["cost_figure", "divergence_figure", "losses_figure"],
    },
)
