"""What runs take on machines, and what a machine can do: sizes of models, and the price before a run."""

from response_priming.machines.cost import Cost, estimate, shown

__all__ = ["Cost", "estimate", "shown"]
