"""Engine `vllm`: continuous batching and paged attention by vLLM, in this process."""

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from response_priming import models, params
from response_priming.engines.base import (
    Engine,
    Request,
    Response,
    Setup,
    Signal,
    check_context,
    never,
    pack_listed,
    rounded,
)  # fmt: skip
from response_priming.errors import InputError

# Our names of quantised formats and vLLM's; `none` keeps what the checkpoint is stored in.
QUANTIZATIONS = {"none": None, "awq": "awq", "gptq": "gptq", "fp8": "fp8", "nf4": "bitsandbytes"}
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Adapters and requests of one process are told apart by number.
_NUMBERS = itertools.count(1)


@functools.lru_cache(maxsize=1)
def _start(setup: Setup, rank: int | None) -> Any:
    """A running vLLM. It is kept for the next adapter: a second one would not find the memory that the first took."""
    from vllm import LLM

    lora = {"enable_lora": True, "max_lora_rank": min(r for r in LORA_RANKS if r >= rank)} if rank else {}
    try:
        return LLM(
            model=models.locate(setup.model),
            revision=models.pinned(setup.model, setup.revision),
            dtype=params.precision_of(setup.dtype, setup.device),
            quantization=QUANTIZATIONS[setup.quantization],
            tensor_parallel_size=setup.tensor_parallel,
            pipeline_parallel_size=setup.pipeline_parallel,
            max_num_seqs=setup.batch,
            max_logprobs=-1,
            logprobs_mode="raw_logprobs",  # of the model itself, before `never` and temperature
            max_model_len=-1,  # the model's context, or what of it fits the memory
            disable_log_stats=True,
            **lora,
        )
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"engine = 'vllm': cannot start {setup.model!r}: {reason}") from error


class VllmEngine(Engine):
    """vLLM in this process."""

    package, extra = "vllm", "gpu"

    def __init__(
        self, llm: Any, tokenizer: PreTrainedTokenizerBase, *, ends: Sequence[int] = (), lora: Any = None
    ) -> None:
        self.llm, self.tokenizer, self.ends, self.lora = llm, tokenizer, list(ends), lora
        about = llm.llm_engine.model_config
        self.context, self.outputs = about.max_model_len, int(about.get_vocab_size())
        self.vocabulary = min(len(tokenizer), self.outputs)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """See `Engine.check`."""
        if setup.quantization not in QUANTIZATIONS:
            allowed = ", ".join(QUANTIZATIONS)
            raise InputError(f"quantization = {setup.quantization!r}: unknown to engine vllm; allowed: {allowed}")
        if setup.quantization in models.QUANTIZATIONS:
            models.quantized(setup.quantization, "float32")

    @classmethod
    def open(cls, setup: Setup) -> Self:
        """The engine with its model loaded."""
        cls.check(setup)
        # vLLM reads these when it is imported. One process: its own ones need an importable main module.
        if setup.tensor_parallel * setup.pipeline_parallel == 1:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        params.device_of(setup.device)
        rank, lora = None, None
        if setup.student and models.is_adapter(setup.student):
            from vllm.lora.request import LoRARequest

            rank = json.loads((setup.student / "adapter_config.json").read_text(encoding="utf-8"))["r"]
            number = next(_NUMBERS)
            lora = LoRARequest(f"adapter-{number}", number, str(setup.student))
        base = models.Base(setup.model, setup.revision, setup.quantization).of(setup.student)
        started = dataclasses.replace(setup, model=base.name, revision=base.revision, quantization=base.quantization)
        llm = _start(dataclasses.replace(started, student=None), rank)
        reader = models.tokenizer(base.name, base.revision)
        return cls(llm, reader, ends=models.end_tokens(reader, base.name, base.revision), lora=lora)

    def describe(self) -> dict[str, Any]:
        """See `Engine.describe`."""
        import vllm

        config = self.llm.llm_engine.vllm_config
        return {
            "engine": f"vllm {vllm.__version__}",
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "quantization": config.model_config.quantization or "none",
            "batch": config.scheduler_config.max_num_seqs,
            "end_tokens": sorted(self.ends),
            "tensor_parallel": config.parallel_config.tensor_parallel_size,
            "pipeline_parallel": config.parallel_config.pipeline_parallel_size,
        }

    def fulfil(self, request: Request) -> Iterator[tuple[int, Response]]:
        """See `Engine.fulfil`."""
        width = request.top_k if request.top_k < self.vocabulary else self.outputs
        common: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
        common |= {"stop_token_ids": self.ends, "logit_bias": never(self.vocabulary, self.outputs)}
        common |= {"logprobs": width or None}
        seeds = [seed if request.temperature else None for seed in request.seeds()]
        for index, output in self._run(request.prompts, [common | {"seed": seed} for seed in seeds]):
            answer = output.outputs[0]
            tokens = list(answer.token_ids)
            text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
            asked: tuple[Any, ...] = ()
            if width:
                ids, logprobs, given = _table(answer.logprobs, width)
                asked = pack_listed(ids, logprobs, request.top_k, self.vocabulary), rounded(given)
            yield index, Response(tokens, text, answer.finish_reason == "stop", *asked)

    def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, Signal]]:
        """See `Engine.score`. The last position is that of a token generated for the purpose."""
        check_context(sequences, 1, self.context)
        # Enough for top_k tokens where all outputs without one are more likely.
        width = min(top_k + self.outputs - self.vocabulary, self.outputs)
        options = {"temperature": 0.0, "max_tokens": 1, "logprobs": width, "prompt_logprobs": width}
        for index, output in self._run(sequences, [options] * len(sequences)):
            read, last = _table(output.prompt_logprobs, width)[:2], _table(output.outputs[0].logprobs, width)[:2]
            ids, logprobs = (np.concatenate(parts) for parts in zip(read, last, strict=True))
            yield index, pack_listed(ids, logprobs, top_k, self.vocabulary)

    def _run(self, prompts: Sequence[list[int]], options: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
        """vLLM's final outputs as they come. What is still running is taken back when the caller stops early."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        common = {"detokenize": False, "flat_logprobs": True, "output_kind": RequestOutputKind.FINAL_ONLY}
        running = {}
        for index, (prompt, values) in enumerate(zip(prompts, options, strict=True)):
            own = str(next(_NUMBERS))
            parameters = SamplingParams(**values, **common)
            name = engine.add_request(own, {"prompt_token_ids": prompt}, parameters, lora_request=self.lora)
            running[name] = running[own] = index
        left = len(prompts)
        try:
            while left:
                for output in engine.step():
                    if output.finished:
                        left -= 1
                        yield running.pop(output.request_id), output
        finally:
            if left:
                engine.abort_request(list(running))


def _table(flat: Any, k: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Ids and log-probabilities [positions, k] of vLLM's flat list, and those of the tokens that are there [positions].

    It holds k + 1 entries a position: the token that is there, then the k most likely; none for a first prompt token.
    """
    ids, logprobs = (np.asarray(values).reshape(-1, k + 1) for values in (flat.token_ids, flat.logprobs))
    return ids[:, 1:], logprobs[:, 1:].astype(np.float64), logprobs[:, 0]


ENGINE = VllmEngine
