"""What runs take on machines, and what a machine can do: sizes of models, and the price before a run.

`cost` says it from configs and data sheets, in a second and without torch; `calibration` measures a short sample here,
and `measured` scales that to a profile.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"cost": ["Cost", "estimate", "shown"], "calibration": ["measure"]}
)
