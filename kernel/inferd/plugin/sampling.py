"""How the files of a model advise to sample: the metadata of GGUF, and the generation_config.json of Hugging Face."""

from collections.abc import Callable, Mapping
from typing import Any

from inferd.core.sampling_defaults import SamplingDefaults, wrong_default
from inferd.plugin.backend import LoadError

GGUF_KEYS: Mapping[str, str] = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""As llama.cpp writes them. Those of samplers that inferd does not have (XTC, Mirostat, an order of samplers) and
`penalty_last_n` are not looked at: they advise, and what a task says goes before them anyway."""

HF_NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
HF_TOP_K = 50  # where a configuration samples and does not say


def read_gguf_sampling(where: str, read: Callable[[str], Any]) -> SamplingDefaults:
    """What a GGUF file advises.

    Args:
        where: The file, for errors.
        read: Gives the value of a key; None where it is missing.

    Raises:
        LoadError: A value is no number within its bounds.
    """
    return _checked(where, {name: (key, read(key)) for name, key in GGUF_KEYS.items()})


def read_hf_sampling(where: str, configuration: Mapping[str, Any]) -> SamplingDefaults:
    """What a generation_config.json advises; `do_sample: false` is greedy, whatever stands beside it.

    Raises:
        LoadError: A value is no number within its bounds.
    """
    samples = configuration.get("do_sample")
    values = {name: configuration.get(name) for name in HF_NAMES}
    if samples is False:
        values |= {"temperature": 0, "top_k": None, "top_p": None, "min_p": None}
    elif samples is True:
        values |= {"temperature": _or(values["temperature"], 1.0), "top_k": _or(values["top_k"], HF_TOP_K)}
    return _checked(where, {name: (name, value) for name, value in values.items()})


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def _checked(where: str, values: Mapping[str, tuple[str, Any]]) -> SamplingDefaults:
    found: dict[str, float] = {}
    for name, (key, value) in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LoadError(f"{where}: {key!r} is {value!r}; it must be a number")
        number = max(0, value) if name == "top_k" else value  # many files write "all" as -1
        if expected := wrong_default(name, number):
            raise LoadError(f"{where}: {key!r} is {value!r}; it must be {expected}")
        found[name] = number
    return SamplingDefaults.of(found)
