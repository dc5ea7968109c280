"""The released training (github.com/alonso130r/knowledge-distillation, commit b869e93): its values, and its deviations.

Deviations are named after what repairs them; `methods.examples` has each of them in a table.
"""

from typing import Any, Literal, get_args

Repair = Literal[
    "pairing", "prefix-offset", "bos", "eos", "teacher-answers", "positions", "template", "truncation"
]  # fmt: skip
REPAIRS: tuple[Repair, ...] = get_args(Repair)

# Apart from its number of steps.
RELEASED_TRAINING: dict[str, Any] = {
    "alignment": "published",
    "alpha": 0.6093348343631224,
    "kd_temperature": 5.942267335064758,
    "divergence": "reverse-kl",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "optimizer": "sgd",
    "learning_rate": 5.0e-6,
    "momentum": 0.9,
    "weight_decay": 1.0e-2,
    "schedule": "one-epoch",
    "warmup_steps": 0,
    "train_batch": 1,
    "micro_batch": 1,
    "held_out": 0.0,
}
