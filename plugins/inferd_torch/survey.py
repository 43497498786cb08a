"""One token through the network, before there is a pool: what its layers want to keep."""

from typing import Any

import torch
from torch import Tensor

from inferd.plugin import UnsupportedModelError
from inferd_torch.artifact import Artifact
from inferd_torch.attention import install
from inferd_torch.network import expected_window
from inferd_torch.pool import LayerShape
from inferd_torch.scoring import Scoring


class Survey:
    """Shapes of keys and values by layer, and of what comes out.

    Attributes:
        shapes: By layer.
        windows: The sliding window that each layer asks for, or None.
        scored_heads: Heads of the queries of layers that ask for a cap or sinks; 0 where none does.
        vocabulary_size: Number of logits.
        embedding_size: Width of the hidden states behind the last norm; 0 when the network does not show them.
    """

    def __init__(self, network: Any, device: torch.device) -> None:
        self._shapes: dict[int, LayerShape] = {}
        self.scored_heads = 0
        self.windows: dict[int, int | None] = {}
        hidden: list[Tensor] = []
        hook = watch_hidden(network, hidden.append)
        install(network, self)
        token = torch.zeros((1, 1), dtype=torch.long, device=device)
        with torch.inference_mode():
            output = network(input_ids=token, position_ids=token, use_cache=False, logits_to_keep=token[0])
        hook.remove()
        self.vocabulary_size = int(output.logits.shape[-1])
        self.embedding_size = int(hidden[0].shape[-1]) if hidden else 0
        self.shapes = [self._shapes[layer] for layer in sorted(self._shapes)]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, scoring: Scoring) -> Tensor:
        """Of the shape that attention has: the value of the token itself."""
        if layer in self._shapes:
            raise NotImplementedError(f"layer {layer} attends twice")
        self._shapes[layer] = LayerShape(heads=keys.shape[1], key_width=keys.shape[2], value_width=values.shape[2])
        self.windows[layer] = scoring.window
        if not scoring.plain:
            self.scored_heads = max(self.scored_heads, queries.shape[1])
        return values.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)


def survey(artifact: Artifact, config: Any, skeleton: Any) -> Survey:
    """Send a token through a network without weights: on the device "meta", which computes shapes alone.

    Where what a layer computes depends on numbers, on the processor, where memory that was never written reads as
    zeros and takes no room.

    Raises:
        LoadError: Not every layer attends through us, or one needs what paged attention does not give.
    """
    try:
        try:
            found = Survey(skeleton, torch.device("meta"))
        except RuntimeError:
            found = Survey(skeleton.to_empty(device="cpu"), torch.device("cpu"))
    except Exception as error:  # the edge to the code of an architecture
        raise UnsupportedModelError(f"{artifact.path}: {config.model_type}: {type(error).__name__}: {error}") from error
    layers = config.get_text_config(decoder=True).num_hidden_layers
    if sorted(found.windows) != list(range(layers)):
        raise UnsupportedModelError(
            f"{artifact.path}: {len(found.windows)} of {layers} layers of {config.model_type} attend through the"
            " attention interface; all must"
        )
    for layer, window in found.windows.items():
        if window is None and (expected := expected_window(config, layer)) is not None:
            raise UnsupportedModelError(
                f"{artifact.path}: sliding_window is {expected}, but layer {layer} of {config.model_type} does not"
                " pass it on"
            )
    return found


def watch_hidden(network: Any, keep: Any) -> Any:
    """Have `keep` called with the hidden states (1, T, width) of each forward pass; the hook, for its removal."""

    def look(_module: Any, _arguments: Any, output: Any) -> None:
        states = getattr(output, "last_hidden_state", None)
        if states is not None:
            keep(states)

    return network.base_model.register_forward_hook(look)
