"""Stage generate: the teacher responds to the training problems under one strategy's prefix.

Reads: the training problems, the strategy's prefix. Writes: `responses/STRATEGY/`, Parquet shards, a row a response:

    problem_id  text                        tokens                      top_ids, top_logprobs, tail_logprobs
    train-0     "15 + 8 = 23\\n#### 23"     [33, 37, 1232, 216, ...]    the teacher's distribution at each token
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "teacher": ["check_tokens", "prompting", "respond", "select"],
        "store": ["GIVEN", "KEPT", "SIGNAL", "Answered", "dataset", "read", "shard_name", "write_shard"],
        "prompt_signals": ["most_likely", "score"],
        "figures": ["certainty_figure", "graded", "lengths_figure", "samples", "table"],
    },
)
