"""Methods: what a student learns from, and what it is asked to minimise.

base      the steps of a method
examples  what is trained on, and which positions of teacher and student meet
losses    the objective: hard and soft loss, weighed by alpha
student   the model whose forward pass returns that loss
packing   a batch read without padding

Related methods, a file each, stand on two parts more:

live_teacher  a teacher that is asked while its student is trained
rollouts      what the student itself answers, drawn anew at each step
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"examples": ["prepare"], "student": ["lora_config"]}
)
