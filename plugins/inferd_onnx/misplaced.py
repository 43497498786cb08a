"""Settings of language models that are given to other models: they are refused, as nothing would read them."""

from inferd.plugin import LoadError, LoadRequest
from inferd_onnx.decoder.settings import SETTINGS

MEANT = {"max_sequences": "max_batch", "max_step_tokens": "max_batch", "compute": "optimization"}
"""What says about the same of models of tensors."""


def refuse_misplaced(request: LoadRequest) -> None:
    """Check that a model that is no language model is given none of their settings.

    Raises:
        LoadError: It is; the message names the setting.
    """
    for setting in SETTINGS:
        value = request.settings[setting.name]
        if value not in (setting.default, None, ""):
            near = MEANT.get(setting.name)
            hint = f"; did you mean {near!r}?" if near else "; leave it out"
            raise LoadError(
                f"{request.path}: setting {setting.name!r} is {value!r}, but it is for language models, and this is a"
                f" model of tensors or an encoder{hint}"
            )
