"""Stage evaluate: an arm's students answer the test problems, and every extraction rule scores the answers.

Before the first answer it writes down, in `rules/`, by which rules all will be judged (see `verdicts`).
Reads: `students/ARM/seed-N/`. Writes: `scores/ARM/seed-N/answers.parquet`, a row a problem:

    problem_id  answer  response                 tokens  finished  last-number  last-number-correct
    test-0      34      "20 + 14 = 34\\n#### 34"  16      True      34           True
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["verdicts"],
    submod_attrs={
        "answers": ["answer", "answers_to"],
        "calculations": ["calculations_table"],
        "calibration": ["calibration_table", "separation"],
        "figures": ["browse", "confidence_figure", "lengths_figure", "reliability_figure"],
    },
)
