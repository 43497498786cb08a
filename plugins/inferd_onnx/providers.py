"""What computes a model: chosen by its device and its setting, and held against what the runtime then says."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from inferd.plugin import LoadError
from inferd_onnx.devices import CPU

NAMES = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
OF_PROCESSOR = ("cpu", "openvino")
BEHIND = {"tensorrt": ("cuda", "cpu"), "cuda": ("cpu",), "openvino": ("cpu",), "cpu": ()}
"""Which compute the operators that a provider does not have; the runtime copies between them."""
OPENVINO_FIX = "uninstall onnxruntime, then install onnxruntime-openvino, which has the same files"
SAID_CHARACTERS = 1500


def choose_provider(device: str, setting: str, available: Sequence[str]) -> str:
    """The provider of a device: the one that is set, or the device's own.

    Raises:
        LoadError: It is not for this device, or the installed runtime has it not.
    """
    on_processor = device == CPU
    name = setting if setting != "auto" else ("cpu" if on_processor else "cuda")
    if (name in OF_PROCESSOR) != on_processor:
        kinds = [kind for kind in NAMES if (kind in OF_PROCESSOR) == on_processor]
        raise LoadError(f"setting 'provider' is {name!r}, but on device {device!r} it must be {' or '.join(kinds)}")
    if NAMES[name] not in available:
        has = ", ".join(available)
        fix = f"; {OPENVINO_FIX}" if name == "openvino" else ""
        raise LoadError(f"provider {name!r}: the installed onnxruntime has no {NAMES[name]}; it has {has}{fix}")
    return name


def provider_list(
    name: str, device: str, *, limit_bytes: int, available: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """The provider and those behind it, with their options, as the runtime wants them."""
    index = device.rpartition(":")[2]
    cuda = {
        "device_id": index,
        "gpu_mem_limit": str(limit_bytes),
        "arena_extend_strategy": "kSameAsRequested",  # no more than is asked for
        "cudnn_conv_algo_search": "HEURISTIC",  # trying all of them takes seconds for each new shape
    }
    options: Mapping[str, dict[str, Any]] = {"cuda": cuda, "tensorrt": {"device_id": index}}
    return [(NAMES[each], dict(options.get(each, {}))) for each in (name, *BEHIND[name]) if NAMES[each] in available]


def check_providers(name: str, used: Sequence[str], said: str) -> None:
    """Check that the runtime computes with the provider, where it would go on without it.

    Raises:
        LoadError: It does not; with what it said.
    """
    if NAMES[name] not in used:
        why = " ".join(said.split())[-SAID_CHARACTERS:] or "it does not say why"
        raise LoadError(f"provider {name!r} cannot be used here: {why}")


@contextmanager
def overheard(said: list[str]) -> Iterator[None]:
    """What is written to standard error meanwhile, by libraries too: added to `said`, and passed on afterwards.

    The runtime tells nowhere else why a provider cannot be used.
    """
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            text = file.read()
            said.append(text.decode(errors="replace"))
            with open(2, "wb", closefd=False) as out:
                out.write(text)
