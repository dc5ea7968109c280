"""Response-priming prompting in LLM distillation (arXiv 2412.17846) as a suite of notebooks."""

import logging

# bitsandbytes, where it is installed, asks for an optional kernel on every import.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
