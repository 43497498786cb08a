"""Settings that nothing reads of a language model: they are refused, as what somebody asks for is never passed over."""

from collections.abc import Sequence

from inferd.plugin import LoadError, LoadRequest
from inferd_onnx.decoder.settings import SETTINGS
from inferd_onnx.plugin import SPEC
from inferd_onnx.signature import find_tensor_settings

OF_GRAPHS_HERE = ("optional_inputs", "threads", "workspace_mib")  # of the graph that is made here
OF_FOLDERS = ("optional_inputs", "threads", "quantization", "compute", "pre_tokenizer")  # whose graph is as it is
ON_PROCESSOR = ("auto", "cpu")


def refuse_unread(request: LoadRequest, unread: Sequence[str]) -> None:
    """Check that a language model is asked for nothing that it does not do.

    Raises:
        LoadError: It is; the message names the setting.
    """
    settings = request.settings
    if settings["provider"] not in ON_PROCESSOR:
        raise LoadError(
            f"{request.path}: setting 'provider' is {settings['provider']!r}, but language models are computed by the"
            f" backend 'onnx' with provider 'cpu' only, on device {request.device!r}; leave it out"
        )
    if given := find_tensor_settings(settings):
        raise LoadError(
            f"{request.path}: setting {given[0]!r} is for models of tensors, and this is a language model, whose"
            " sequences are computed together as they come; leave it out"
        )
    if settings["serves"] == "tensors":
        raise LoadError(
            f"{request.path}: setting 'serves' is 'tensors', but this is a language model without a graph of tensors;"
            " leave it out"
        )
    defaults = {setting.name: setting.default for setting in SPEC.settings}
    of_language = {setting.name for setting in SETTINGS}
    for name in unread:
        if settings[name] not in (defaults[name], None, ""):
            why = "for weights that are packed here, or GGUF files" if name in of_language else "for models of tensors"
            raise LoadError(
                f"{request.path}: setting {name!r} is {settings[name]!r}, but it is {why}, and nothing of this model"
                " reads it; leave it out"
            )
