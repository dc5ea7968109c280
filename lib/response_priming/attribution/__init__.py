"""Study attribution: which tokens of its prompt drive the teacher's responses.

Reads: `responses/STRATEGY/`. Writes: `attribution/`, Parquet tables, among them a row a token of each prompt:

    strategy  problem  token  text  region  segment  gradient  occlusion  relevance  relevance-cp  input-gradient
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attributions": ["METHODS", "NEUTRAL", "Explainer", "areas", "attribute"],
        "relevance": ["RULES", "propagate"],
        "tracing": ["trace"],
        "figures": ["deletion_figure", "shares_figure", "table"],
    },
)
