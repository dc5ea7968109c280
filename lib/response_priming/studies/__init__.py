"""Studies beside the paper, on request: a search for training values, the ladder of repairs, two runs side by side."""

import lazy_loader

# What is imported when it is used: some of it takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "search": ["optimize", "trials"],
        "ladder": ["climb"],
        "two_runs": ["accuracies", "read_run"],
        "figures": [
            "accuracies_figure",
            "describe_accuracies",
            "describe_claims",
            "describe_parameters",
            "describe_runs",
            "history_figure",
            "ladder_figure",
            "shown_accuracies",
            "shown_claims",
            "shown_ladder",
            "shown_origins",
            "shown_parameters",
            "shown_trials",
            "surface_figure",
        ],
    },
)
