"""Which backend of inferd loads what a repository calls a platform or a backend, and why none loads the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Collection

    from inferd_api.inference.model_config_pb2 import ModelConfig


class Platform(NamedTuple):
    """What a model is served by.

    Attributes:
        name: Its platform, as clients are told it.
        known_as: The name of its backend, as clients are told it.
        backend: Of inferd; "" for the one that the kernel chooses.
        file: Of a version, where the configuration names none; "" where it has to.
    """

    name: str
    known_as: str
    backend: str
    file: str


ONNX: Final = Platform("onnxruntime_onnx", "onnxruntime", "onnx", "model.onnx")
PROGRAM: Final = Platform("", "python", "python", "model.py")
OWN: Final = Platform("", "inferd", "", "")
"""Any file that a backend of inferd loads, by `default_model_filename`."""

TORCH: Final = (
    "TorchScript is code that would run in the worker, and is refused; export the model to ONNX"
    " (torch.onnx.export) and serve that as onnxruntime_onnx"
)
TENSORRT: Final = (
    "an engine is compiled for one GPU and one version of TensorRT; serve the ONNX file that it was made of, with"
    " optimization.execution_accelerators.gpu_execution_accelerator tensorrt"
)
TENSORFLOW: Final = "no backend of inferd loads TensorFlow models; convert it to ONNX (tf2onnx)"
OPENVINO: Final = (
    "serve the ONNX file that it was made of, with optimization.execution_accelerators.cpu_execution_accelerator"
    " openvino"
)
LANGUAGE: Final = "serve the language model itself: `inferd models add`, or backend inferd with its file"
REFUSED: Final = {
    "pytorch_libtorch": TORCH,
    "pytorch": TORCH,
    "tensorrt_plan": TENSORRT,
    "tensorrt": TENSORRT,
    "tensorflow_graphdef": TENSORFLOW,
    "tensorflow_savedmodel": TENSORFLOW,
    "tensorflow": TENSORFLOW,
    "openvino": OPENVINO,
    "vllm": LANGUAGE,
    "tensorrtllm": LANGUAGE,
}
BY_FILE: Final = {  # what a configuration that names none is completed with
    "model.onnx": "onnxruntime",
    "model.pt": "pytorch",
    "model.py": "python",
    "model.plan": "tensorrt",
    "model.graphdef": "tensorflow",
    "model.savedmodel": "tensorflow",
    "model.xml": "openvino",
}


def find_platform(config: ModelConfig, files: Collection[str]) -> Platform:
    """What a model is served by.

    Args:
        config: What its configuration says.
        files: Names in the folder of its newest version, by which a configuration that says nothing is completed.

    Raises:
        InvalidFieldError: Nothing of inferd serves it; says what would.
    """
    named = config.backend or config.platform
    if not named:
        named = next((backend for file, backend in BY_FILE.items() if file in files), "")
        if not named:
            raise InvalidFieldError(
                f"config.pbtxt names no 'platform' and no 'backend', and the version has none of {', '.join(BY_FILE)}",
                field="config.backend",
            )
    for each in (ONNX, OWN, PROGRAM):
        if named in {each.name, each.known_as}:
            if config.platform and config.backend and {config.platform, config.backend} - {each.name, each.known_as}:
                raise InvalidFieldError(
                    f"platform is {config.platform!r} and backend is {config.backend!r}; they must be of one kind",
                    field="config.platform",
                )
            return each
    if (why := REFUSED.get(named)) is not None:
        raise InvalidFieldError(f"backend {named!r} is not served: {why}", field="config.backend")
    raise InvalidFieldError(
        f"backend {named[:80]!r} is none of inferd's; it must be {ONNX.known_as} ({ONNX.name}), {PROGRAM.known_as},"
        f" or {OWN.known_as} with default_model_filename for any file that inferd loads",
        field="config.backend",
    )
