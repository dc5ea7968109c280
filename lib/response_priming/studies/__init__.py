"""Studies beside the paper, on request: the doctor, a search for training values, ladders, related methods, one
parameter changed, two runs side by side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "search": ["optimize", "trials", "work"],
        "doctor": ["examine"],
        "exploring": ["explore", "tried"],
        "ladder": ["climb"],
        "related": ["compare", "rounds"],
        "relevance": ["explain"],
        "two_runs": ["accuracies", "origins", "read_run"],
        "figures": [
            "accuracies_figure", "advice", "describe", "history_figure", "ladder_figure", "related_figure",
            "shown_accuracies", "shown_checks", "shown_claims", "shown_findings", "shown_ladder", "shown_parameters",
            "shown_trials", "surface_figure",
        ],
    },
)  # fmt: skip
