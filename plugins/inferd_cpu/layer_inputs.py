"""Numbers that each token has for each layer, beside its embedding (as Gemma 3n and 4 have them)."""

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.norms import multiply, normalize
from inferd_cpu.shapes import Architecture
from inferd_cpu.weights import Weights

Floats = NDArray[np.float32]


def make_layer_inputs(
    a: Architecture, weights: Weights, token_ids: NDArray[np.intp], embedded: Floats
) -> Floats | None:
    """What the tokens of a step have for each layer, shape (layers, T, I); None where they have nothing.

    Args:
        a: The shape.
        weights: Of the model.
        token_ids: Shape (T,). Those that the table has not are taken for the first one.
        embedded: Their embeddings, shape (T, W).
    """
    table, model, norm = weights.input_embedding, weights.input_model, weights.input_norm
    if table is None or model is None or norm is None:
        return None
    rows = len(token_ids)
    made = multiply(embedded, model, out=np.empty((rows, len(model)), np.float32))
    made *= np.float32(a.width**-0.5)
    each = made.reshape(rows, len(a.layers), a.layer_inputs)
    normalize(each, norm, kind="rms", epsilon=a.epsilon, out=each)
    known = np.where(token_ids < len(table), token_ids, 0)
    each += table.take(known).reshape(each.shape) * np.float32(a.layer_inputs**0.5)
    each *= np.float32(0.5**0.5)
    return np.ascontiguousarray(each.swapaxes(0, 1))
