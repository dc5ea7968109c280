"""Stage attention-visualize: how the students' self-attention differs, head by head.

Reads: all students. Writes: `attention/`, numbers of every head, the most divergent ones, and maps to look at:

    prompt  region  layer  head  arm          seed  entropy  diagonal  density  sink
    0       prompt  0      0     undistilled  0     2.614    0.120     0.040    0.090
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "analysis": ["analyse", "texts_of"],
        "metrics": ["divergent_heads", "head_metrics"],
        "results": ["read"],
        "differences": ["against", "by_layer", "means", "summary", "with_accuracy"],
        "explorer": ["explore", "html"],
        "figures": [
            "accuracy_figure", "heatmaps_figure", "layers_figure", "ranking_figure", "shown_heads", "shown_means",
            "shown_pair", "shown_tests",
        ],
    },
)  # fmt: skip
