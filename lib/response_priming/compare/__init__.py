"""Stage compare: all arms' answers side by side, as the tables, figures and numbers of the paper.

Reads: every arm's scores and students, every strategy's responses. Writes: `comparison/`, a CSV a table, as gains.csv:

    arm      baseline  n    points  low    high  p      alone_low  alone_high  alone_p  detectable
    teacher  none      200  2.0     -12.0  16.0  0.999  -7.8       11.8        0.690    18.5
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["Comparison", "compare", "read_scores"],
        "tables": ["power"],
        "figures": ["accuracy_figure", "loss_figure", "shown"],
    },
)
