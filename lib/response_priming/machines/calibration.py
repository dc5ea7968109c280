"""Calibration: a short sample of a profile's stages on the machine at hand, and what each part of them took.

The stages themselves run, on a few problems, with an engine that looks at the clock at each forward pass. A model whose
weights are not at hand, or that is too large for a sample, is stood in for by random weights of its shape with few
layers, and then with more: time does not depend on values, and is linear in layers. How long its responses get is then
not known, and their range stays.
"""

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback

from response_priming import arms, distill, evaluate, generate, models, params, paths, problems, provenance
from response_priming.engines import transformers
from response_priming.engines.base import Request
from response_priming.errors import InputError
from response_priming.machines.cost import GPUS
from response_priming.machines.measured import Answering, Measured, Training, extrapolated
from response_priming.machines.sizes import Architecture, architecture
from response_priming.machines.tokens import Texts

# Problems of a sample, on a CPU and elsewhere. A few tokens are decoded of FEW of them, too, so that a decoding step is
# known at two numbers of rows. Of a training's steps the first warms up.
MANY, FEW, TOKENS, STEPS = (12, 64), 3, 8, 3
HELD_OUT = 0.34  # of a training's problems
# Parameters that a CPU is not given to sample, and the share of a GPU's memory that weights may take; layers of what
# stands in for such a model.
LARGE, SHARE, LAYERS = 5e8, 0.4, (2, 4)
# What repeated samples of one minute cannot show: other work on the machine, and a second notebook beside the first.
SPREAD = 0.15
# What a notebook, and who executes it, imports.
IMPORTS = (
    "import papermill, ipykernel.kernelapp, pandas; from response_priming import distill, evaluate, methods, style; "
    "style.apply_style(); distill.train, distill.losses_figure, evaluate.answer, evaluate.browse, methods.prepare"
)


class _Timed(transformers.TransformersEngine):
    """The engine of the stages; it notes seconds of each beginning, and rows, columns and seconds of each pass."""

    clock: ClassVar[Callable[[], float]]
    beginnings: ClassVar[list[float]]
    passes: ClassVar[list[tuple[int, int, float]]]
    opened: ClassVar["_Timed"]
    asked: ClassVar[Request]

    @classmethod
    def open(cls, setup: Any) -> Self:
        engine = super().open(setup)
        _Timed.opened = engine
        return engine

    def _prefill_shared(self, request: Request) -> Any:
        begun, _Timed.asked = _Timed.clock(), request
        cache = super()._prefill_shared(request)
        self.beginnings.append(_Timed.clock() - begun)
        return cache

    def _forward(self, request: Request, slots: Any, first: int, sequences: Any, ids: Any, columns: Any) -> None:
        begun = _Timed.clock()
        super()._forward(request, slots, first, sequences, ids, columns)
        self.passes.append((*ids.shape, _Timed.clock() - begun))


class _Steps(TrainerCallback):
    """The clock after each optimiser step, and after the validation behind the last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.ended, self.validated = clock, list[float](), 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(self.clock())

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.validated = self.clock()


class _Parts(NamedTuple):
    """What a sample gave: see `Measured`; and how much repeated samples of the same differ, as shares of it."""

    teacher: Answering | None
    students: dict[str, Answering]
    trainings: dict[str, Training]
    deviations: list[float]


def measure(profile: params.Profile, gpu: str | None = None) -> Measured:
    """What the parts of a profile's stages take on its device, here; in about two minutes.

    Args:
        gpu: the one in `cost.GPUS` that is like this machine's, where that has another name.

    Raises:
        InputError: there is no such device here, or its GPU has no known name; problems or a config cannot be had.
    """
    device = params.device_of(profile.model.device)
    known = _gpu(gpu) if device == "cuda" else None
    samples = [_Sample(profile, device, layers) for layers in LAYERS]
    stood_in = samples[0].stood_in
    with ThreadPoolExecutor() as beside:  # as two notebooks run at once
        notebook = beside.submit(_imports, device)
        parts = [sample.taken() for sample in (samples if stood_in else samples[:1])]
    teacher, students, trainings, _ = _whole(parts, stood_in)
    made = provenance.here()
    return Measured(
        on=f"{', '.join(made['hardware'])}, {torch.get_num_threads()} of {made['machine'].split(', ')[-1]}",
        when=made["date"],
        gpu=known,
        spread=max([SPREAD, *itertools.chain(*(part.deviations for part in parts))]),
        notebook=notebook.result(),
        teacher=teacher,
        students=students,
        trainings=trainings,
    )


def _whole(parts: Sequence[_Parts], stood_in: Mapping[str, Architecture]) -> _Parts:
    """What whole models take: that of a sample, or, of those that others stood in for, extrapolated in layers."""
    first, last = parts[0], parts[-1]
    factor = {name: (about.num_hidden_layers - LAYERS[0]) / (LAYERS[1] - LAYERS[0]) for name, about in stood_in.items()}
    teacher, students, trainings, _ = first
    if teacher and last.teacher and "teacher" in stood_in:
        teacher = extrapolated(teacher, last.teacher, factor["teacher"])
    if "student" in stood_in:
        students = {arm: extrapolated(one, last.students[arm], factor["student"]) for arm, one in students.items()}
        trainings = {arm: extrapolated(one, last.trainings[arm], factor["student"]) for arm, one in trainings.items()}
    return _Parts(teacher, students, trainings, first.deviations)


class _Sample:
    """A profile's stages on a few problems, in a folder of their own."""

    def __init__(self, profile: params.Profile, device: str, layers: int) -> None:
        self.profile, self.device, self.layers = profile, device, layers
        self.clock, self.many = _clock(device), MANY[device != "cpu"]
        self.texts, self.deviations = Texts.of(profile), list[float]()
        self.teaches = profile.generate.engine == "transformers"  # else the student stands in for its teacher
        about, asked = profile.model, profile.generate
        roles = {"student": (about.student, about.student_revision, "none")}
        if self.teaches:
            roles["teacher"] = (asked.teacher, asked.teacher_revision, asked.teacher_quantization)
        self.roles = roles
        self.stood_in = {role: architecture(*named[:2]) for role, named in roles.items() if not self._fits(*named)}

    def taken(self) -> _Parts:
        """Take it: the teacher responds, students train on that, and the undistilled one answers."""
        paths.BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".sample-", dir=paths.BUILD) as folder:
            self.folder = Path(folder)
            return self._stages(self.profile)

    def _stages(self, profile: params.Profile) -> _Parts:
        answered = [arms.UNDISTILLED, *([arms.SHOWN] if arms.SHOWN in profile.arms else [])]
        answered = answered if profile.evaluate.evaluate_engine == "transformers" else []
        teacher = self._generated(profile.strategies[0]) if profile.strategies else None
        students = {arm: self._evaluated(arm) for arm in answered}
        trainings, done = dict[str, Training](), dict[str, Training]()
        for arm in profile.trained:
            store = arms.store_of(arm, profile.distill_of(arm).repaired)
            if store is None or store.parent.name == "responses":
                key = f"{store is None} {profile.distill_of(arm).model_dump()}"
                if key not in done:
                    done[key] = self._trained(arm, taught=store is not None)
                trainings[arm] = done[key]
        return _Parts(teacher if self.teaches else None, students, trainings, self.deviations)

    def _generated(self, strategy: str) -> Answering:
        """The teacher responds, into a store that students learn from."""
        profile, known = self.profile, self.teaches and "teacher" not in self.stood_in
        budget = profile.generate.response_tokens
        budget = budget if known else min(budget, round(self.texts.solution))
        run = self._run("generate", strategy=strategy, response_tokens=budget, keep_finished=False, keep_right=False)

        def act() -> list[int]:
            generate.respond(run)
            return [len(tokens) for tokens in generate.read(run.folders[0].path, ["tokens"])["tokens"]]

        return self._answering(act, self.texts.beginning(strategy, profile.generate.worked_examples), known=known)

    def _evaluated(self, arm: str) -> Answering:
        """A student answers that was not trained."""
        profile, known = self.profile, "student" not in self.stood_in
        budget = profile.evaluate.answer_tokens
        run = self._run("evaluate", arm=arm, answer_tokens=budget if known else min(budget, TOKENS))
        asked = problems.load(run, "test", run.n_test, seed=run.seed)
        shown = profile.generate.worked_examples if arm == arms.SHOWN else 0

        def act() -> list[int]:
            return list(evaluate.answers_to(asked, run, None)["tokens"])

        return self._answering(act, self.texts.beginning(None, shown), known=known)

    def _answering(self, act: Callable[[], Sequence[int]], shared: float, *, known: bool) -> Answering:
        """What answering takes; `act` does it and gives the lengths, `shared` are tokens that prompts begin with."""
        _Timed.clock, _Timed.beginnings, _Timed.passes = self.clock, [], []
        with patch.object(transformers, "ENGINE", _Timed):
            begun = self.clock()
            lengths = tuple(map(int, act()))
            total = self.clock() - begun
        beginnings, passes, asked = sum(_Timed.beginnings), list(_Timed.passes), _Timed.asked
        few = asked._replace(prompts=asked.prompts[:FEW], max_tokens=min(TOKENS, asked.max_tokens))
        for _ in _Timed.opened.respond(**few._asdict()):
            pass
        del _Timed.opened  # and with it the model, before the next one is loaded
        read = [(rows, seconds) for rows, columns, seconds in _Timed.passes if columns > 1]
        rows, seconds = np.array([(rows, seconds) for rows, columns, seconds in _Timed.passes if columns == 1]).T
        row, step = np.polyfit(rows, seconds, 1) if len({*rows}) > 1 else (0.0, seconds.mean())
        self._deviates(seconds[rows == rows.max()])
        return Answering(
            fixed=max(0.0, total - beginnings - sum(taken for *_, taken in passes)),
            shared=beginnings / shared,
            read=sum(taken for _, taken in read) / (sum(rows for rows, _ in read) * self.texts.question),
            step=max(0.0, float(step)),
            row=max(0.0, float(row)),
            lengths=lengths if known else None,
        )

    def _trained(self, arm: str, *, taught: bool) -> Training:
        """A student is trained as an arm's, for a few steps, and validated before them and after."""
        steps, few = _Steps(self.clock), {"train_steps": STEPS, "evaluate_every": STEPS, "save_every": STEPS}
        run = self._run("distill", arm=arm, **few, held_out=HELD_OUT)
        # There are responses under one strategy alone.
        run = run.model_copy(update={"arm": self.profile.strategies[0] if taught else arms.FINE_TUNED})
        begun = self.clock()
        distill.train_one(run, run.seeds[0], [steps])
        total, validation = self.clock() - begun, steps.validated - steps.ended[-1]
        taken = np.diff(steps.ended)
        self._deviates(taken)
        return Training(
            step=float(taken.mean()),
            example=validation / (round(HELD_OUT * run.n_train) * (1 + taught)),
            fixed=max(0.0, total - 2 * validation - STEPS * float(taken.mean())),
        )

    def _deviates(self, seconds: NDArray[np.float64]) -> None:
        """Keep by how much the mean of repeated samples may be off: two standard errors."""
        if len(seconds) > 2:
            self.deviations.append(float(2 * seconds.std(ddof=1) / seconds.mean() / len(seconds) ** 0.5))

    def _run(self, stage: str, **changed: Any) -> Any:
        """A stage's run on a few problems, with the models of this sample; it meets nothing that was made before."""
        run = self.profile.run(stage, **{key: value for key, value in changed.items() if key in ("arm", "strategy")})
        few = {key: min(self.many, getattr(self.profile.problems, key)) for key in ("n_train", "n_test")}
        values = {"profile": self.folder.name} | few | self.named | changed
        known = {key: value for key, value in values.items() if key in type(run).model_fields}
        return run.model_copy(update=known)

    @cached_property
    def named(self) -> dict[str, Any]:
        """Parameters that say which models run."""
        found: dict[str, Any] = {}
        for role, (name, revision, _) in self.roles.items():
            own = {role: self._stand_in(role)} if role in self.stood_in else {role: name, f"{role}_revision": revision}
            found |= {f"{role}_revision": None} | own
        if not self.teaches:
            found |= {"teacher": found["student"], "teacher_revision": found["student_revision"]}
            found |= {"engine": "transformers", "teacher_quantization": "none"}
        return found

    def _fits(self, name: str, revision: str | None, quantization: str) -> bool:
        """Whether a model is at hand, and small enough for a sample."""
        about = architecture(name, revision)
        if self.device == "cpu":
            small = about.parameters <= LARGE
        else:
            small = about.weights(quantization, "bfloat16") <= SHARE * torch.cuda.get_device_properties(0).total_memory
        return small and models.at_hand(name, revision)

    def _stand_in(self, role: str) -> str:
        """A folder with a model of few layers in the shape of a role's, random weights, and a tokenizer."""
        about, (name, revision, _) = self.stood_in[role], self.roles[role]
        if about.quantization != "none":
            raise InputError(
                f"{name}: its weights are not at hand, and random ones cannot stand in for {about.quantization}"
            )
        shape = about.model_dump(exclude={"quantization"}) | {"num_hidden_layers": self.layers}
        try:
            reader = models.tokenizer(name, revision)
        except InputError:
            reader = models.tokenizer(provenance.EMBEDDED)
            # As many outputs have a token as in the model itself.
            reader.add_tokens([f"<{number}>" for number in range(len(reader), about.vocab_size)])
        folder, ends = self.folder / role, {"eos_token_id": reader.eos_token_id, "bos_token_id": None}
        config = LlamaConfig(**shape, **ends, max_position_embeddings=2**17)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        reader.save_pretrained(folder)
        return str(folder)


def _clock(device: str) -> Callable[[], float]:
    """Seconds of this process's processors; on a GPU those by the clock, once all that was asked of it is done."""
    if device == "cpu":
        return time.process_time
    wait = torch.cuda.synchronize if device == "cuda" else torch.mps.synchronize

    def clock() -> float:
        wait()
        return time.perf_counter()

    return clock


def _imports(device: str) -> float:
    """Seconds of a notebook's start, by another process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used if device == "cpu" else time.perf_counter() - begun


def _gpu(asked: str | None) -> str:
    """The name in `GPUS` of this machine's GPU, or the one that is asked for in its stead."""
    name = torch.cuda.get_device_name().lower().replace(" ", "")
    found = next((known for known in sorted(GPUS, key=len, reverse=True) if known in name), asked)
    if found is None:
        raise InputError(f"gpu: this machine's {name} is unknown; name the one most like it: {', '.join(GPUS)}")
    return found
