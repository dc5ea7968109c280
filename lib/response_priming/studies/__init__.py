"""Studies beside the paper, on request: a search for training values, the ladder of repairs, two runs side by side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "search": ["optimize", "trials"],
        "ladder": ["climb"],
        "two_runs": ["accuracies", "origins", "read_run"],
        "figures": [
            "accuracies_figure", "describe", "history_figure", "ladder_figure", "shown_accuracies", "shown_claims",
            "shown_ladder", "shown_parameters", "shown_trials", "surface_figure",
        ],
    },
)  # fmt: skip
