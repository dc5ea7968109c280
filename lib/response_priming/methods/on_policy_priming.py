"""On-policy priming: the student samples from the bare question, and a live teacher scores that under a primed prompt.

Priming can work through the texts that a primed teacher writes, or through the distribution that it gives to any text.
Here all texts are the student's own, or come from an unprimed teacher, so that the prefix acts through the distribution
alone. The controls put as many neutral words, or nothing, in its place. This project's own; of no paper.

No teacher is mixed into the sampling: its prefix would shape the texts.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from response_priming import arms, params
from response_priming.methods.minillm import MiniLLM


class OnPolicyPriming(MiniLLM):
    """MiniLLM whose live teacher reads a primed prompt."""

    title: ClassVar[str] = "On-policy priming (ours)"
    source: ClassVar[str] = ""
    arm: ClassVar[str | None] = arms.UNPRIMED
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "neutral-words": {"strategy": arms.NEUTRAL},
        "no-prefix": {"strategy": arms.UNPRIMED},
    }
    mix: float = Field(0.0, ge=0, le=0, description="the teacher's share in the sampling: none")
    strategy: params.Strategy = Field("ground-truth", description="prefix of the live teacher's prompt")
