"""Stage compare: all arms' answers side by side, as the tables, figures and numbers of the paper.

Reads: every arm's scores and students, every strategy's responses. Writes: `comparison/`, a CSV a table, as gains.csv:

    arm      baseline  n    points  low   high  wins  losses  p      p_holm
    teacher  none      200  2.0     -3.0  7.0   14    10      0.541  0.721
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Comparison", "compare", "read_scores"],
        "tables": ["gains_of"],
        "figures": ["accuracy_figure", "loss_figure", "shown"],
    },
)
