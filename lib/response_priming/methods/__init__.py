"""Methods: what a student learns from, and what it is asked to minimise.

`alignment` says which positions of teacher and student meet, `curriculum` what is trained on in which order, `losses`
has the objective, `student` the model whose forward pass returns it, `packing` reads a batch without padding.
"""

import lazy_loader

# What is imported when it is used: some of it takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "curriculum": ["prepare"],
    },
)
