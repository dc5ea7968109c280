"""Stage compare: all arms' answers side by side, as the tables, figures and numbers of the paper.

Reads: every arm's scores and students, every strategy's responses. Writes: `comparison/`, a CSV a table, as gains.csv:

    arm      baseline  n    points  low   high  wins  losses  p      p_holm
    teacher  none      200  -4.5    -11   2.0   27    36      0.314  1.0
"""

import lazy_loader

# What is imported when it is used: some of it takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Comparison", "compare", "read_scores"],
        "figures": ["accuracy_figure", "loss_figure"],
    },
)
