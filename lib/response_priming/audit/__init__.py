"""Stage audit: what the released study's code and response logs say, counted again.

Reads: the released logs, where there is a copy, else the counts recorded from them. Writes: `audit/`, e.g.:

    arm      rule       n     answered  correct  accuracy  low    high   readme_accuracy
    teacher  published  1319  1305      558      0.423     0.397  0.450  0.423
"""

import lazy_loader

# What is imported when it is used: some of it takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "findings": ["audit", "figure"],
    },
)
