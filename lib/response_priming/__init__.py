"""Response priming in the distillation of language models: one module per stage, and the few that stages share."""
