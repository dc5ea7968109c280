"""Response priming in the distillation of language models: one module per stage, and the few that stages share."""

import logging

# peft imports bitsandbytes wherever it is installed, which then warns that an optional CPU kernel is not: noise in
# every command and notebook, whether or not it has to do with quantisation.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
