"""Response priming in the distillation of language models: one module per stage, and the few that stages share."""

import logging

# bitsandbytes, where it is installed, asks for an optional kernel on every import.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
