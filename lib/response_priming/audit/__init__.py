"""Stage audit: what the released study's code and response logs say, counted again.

Reads: the released logs, where there is a copy, else the counts recorded from them. Writes: `audit/`, as published.csv:

    title        readme  readme_count  graded  correct  accuracy  low    high
    Undistilled  0.122   161           161     120      0.091     0.077  0.108
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cleaned": ["read_disputed", "survivors", "without"],
        "discrepancies": ["source"],
        "figures": ["figure", "shown"],
        "findings": ["audit"],
        "recount": ["RULE", "count", "rows"],
        "released": ["read"],
    },
)
