"""Study attribution: which tokens of its prompt drive the teacher's responses.

Reads: `responses/STRATEGY/`. Writes: `attribution/`, the share of each part of the prompt, by method and problem.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"attributions": ["attribute"], "figures": ["deletion_figure", "shares_figure", "table"]},
)
