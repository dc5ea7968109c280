"""Studies beside the paper, on request: a search for training values, the ladder of repairs, two runs side by side."""

import lazy_loader

# What is imported when it is used: some of it takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "search": ["history_figure", "optimize", "surface_figure", "trials"],
        "ladder": ["climb", "ladder_figure", "shown_ladder"],
    },
)
