"""How the files of a model advise to sample: the metadata of GGUF, and the generation_config.json of Hugging Face."""

from collections.abc import Callable, Mapping
from typing import Any

from inferd.core.sampling_defaults import SamplingDefaults
from inferd.plugin.backend import LoadError
from inferd.sampling import GREEDY, PARAMETERS, Form, defaults_of

GGUF_KEYS: Mapping[str, str] = {name: f"general.sampling.{each.gguf}" for name, each in PARAMETERS.items() if each.gguf}
"""As llama.cpp writes them. Those of samplers for which models have no defaults here (XTC, Mirostat, an order of
samplers, `penalty_last_n`) are not looked at: they advise, and what a task says goes before them anyway."""


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
    values = {name: configuration.get(name) for name in GGUF_KEYS}
    for name, value in values.items():
        if samples is False and PARAMETERS[name].draws:
            values[name] = GREEDY.get(name)
        elif samples is True and value is None:
            values[name] = PARAMETERS[name].implied
    return _checked(where, {name: (name, value) for name, value in values.items()})


def _checked(where: str, values: Mapping[str, tuple[str, Any]]) -> SamplingDefaults:
    found: dict[str, float] = {}
    for name, (key, value) in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LoadError(f"{where}: {key!r} is {value!r}; it must be a number")
        parameter = PARAMETERS[name]
        number = max(0, value) if parameter.form is Form.WHOLE else value  # many files write "all" as -1
        if expected := parameter.wrong(number):
            raise LoadError(f"{where}: {key!r} is {value!r}; it must be {expected}")
        found[name] = number
    return defaults_of(found)
