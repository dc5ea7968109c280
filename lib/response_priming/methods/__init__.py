"""Methods: what a student learns from, and what it is asked to minimise.

base      the steps of a method; a file each, found by its name: related methods
examples  what is trained on, and which positions of teacher and student meet
losses    the objective: hard and soft loss, weighed by alpha
student   the model whose forward pass returns that loss
packing   a batch read without padding

Related methods: elad, feature_alignment, l2a, minillm, moebert, okd, on_policy_priming, retrikt, self_features.
They share

live_teacher  a teacher that is asked while its student is trained
knowledge     problems that a teacher writes, with solutions
rollouts      what the student itself answers, drawn anew at each step
candidates    problems that are made of others, and a teacher's responses
selection     a policy that chooses among data, taught by reinforcement
steps, leaks  what of a response is wrong; what of a method's data the test asks
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"examples": ["prepare"], "student": ["lora_config"]}
)
