"""Engines: what runs a model. Token prompts in, responses out as they finish; a stage never asks which one it is.

A file an engine, found by its name; a new one is a file and its name in `params.fields`. `base` is what they share:

    transformers  in process, with `cascade`
    vllm          in process
    server        any OpenAI-compatible one
    ray           replicas of transformers or vllm on a cluster, with `replicas`
"""

from response_priming.engines.base import (
    LOWEST,
    Engine,
    Request,
    Response,
    Setup,
    Signal,
    check_context,
    counted,
    open_engine,
    pack,
    require,
    teacher_of,
)

__all__ = [
    "LOWEST", "Engine", "Request", "Response", "Setup", "Signal", "check_context", "counted", "open_engine", "pack",
    "require", "teacher_of",
]  # fmt: skip
