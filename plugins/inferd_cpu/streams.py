"""Several hidden states of a token, of which each layer computes one and predicts the others (AltUp, arXiv:2301.13310).

A token has N states. Before a layer all are predicted from what they are; the layer computes one of them, and by what
it changed there all are corrected. With one state nothing is predicted. Beside attention there is a short way around
it, of low rank (LAuReL, arXiv:2411.07501), and what a token has for each layer is added to the states that are not
computed, or to the only one.
"""

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.feeds import activate
from inferd_cpu.norms import multiply, normalize
from inferd_cpu.shapes import Architecture
from inferd_cpu.weights import Layer, Weights

Floats = NDArray[np.float32]
_LEAST_SQUARE = np.float32(1e-5)


class Streams:
    """The hidden states of a step's tokens, shape (N, T, W)."""

    def __init__(self, architecture: Architecture, weights: Weights) -> None:
        self._architecture = architecture
        self._weights = weights

    def begin(self, embedded: Floats) -> Floats:
        """All states of tokens that have these embeddings, shape (T, W): projections of the same size."""
        into = self._weights.streams_in
        if into is None:
            return embedded[None]
        return np.stack([embedded, *(_project(embedded, matrix, embedded) for matrix in into)])

    def predict(self, layer: Layer, states: Floats) -> Floats:
        """Predict all states, in place; the one that the layer computes, shape (T, W)."""
        a = self._architecture
        if a.streams > 1:
            chosen = self._route(layer, states[a.stream])
            count = a.streams
            shares = multiply(chosen, layer["stream_predict"], out=np.empty((len(chosen), count * count), np.float32))
            states += np.einsum("jtw,tij->itw", states, shares.reshape(-1, count, count))
            return np.array(states[a.stream])
        return np.asarray(states[0])

    def correct(self, layer: Layer, states: Floats, active: Floats) -> None:
        """Correct the predicted states by what became of the one that was computed."""
        a = self._architecture
        if a.streams > 1:
            chosen = self._route(layer, active)
            shares = multiply(chosen, layer["stream_correct"], out=np.empty_like(chosen)) + np.float32(1)
            states += shares.T[..., None] * (active - states[a.stream])

    def add_inputs(self, layer: Layer, states: Floats, inputs: Floats) -> None:
        """Add what the tokens have for the layer, shape (T, I)."""
        a, rows = self._architecture, len(inputs)
        given = states[a.stream] * layer["stream_scale"] if a.streams > 1 else states[0]
        gates = multiply(given, layer["input_gate"], out=np.empty_like(inputs))
        gated = activate(a.activation, gates, inputs, out=np.empty_like(inputs))
        added = multiply(gated, layer["input_projection"], out=np.empty((rows, a.width), np.float32))
        normalize(added, layer["input_post_norm"], kind="rms", epsilon=a.epsilon, out=added)
        states[min(1, a.streams - 1) :] += added

    def go_around(self, layer: Layer, normed: Floats) -> Floats | None:
        """What comes around attention; None where there is no such way."""
        if "around_left" not in layer:
            return None
        rank = len(layer["around_left"])
        left = multiply(normed, layer["around_left"], out=np.empty((len(normed), rank), np.float32))
        right = multiply(left, layer["around_right"], out=np.empty_like(normed))
        epsilon = self._architecture.epsilon
        return normed + normalize(right, layer["around_norm"], kind="rms", epsilon=epsilon, out=right)

    def end(self, states: Floats) -> Floats:
        """What becomes of all states of each token, shape (T, W): their mean, when they are as large as the first."""
        out = self._weights.streams_out
        if out is None:
            return np.asarray(states[0])
        total = states[0].copy()
        for state, matrix in zip(states[1:], out, strict=True):
            total += _project(state, matrix, states[0])
        return np.asarray(total / np.float32(len(states)))

    def _route(self, layer: Layer, state: Floats) -> Floats:
        """How much of each state counts for a token, from -1 to 1; shape (T, N)."""
        a = self._architecture
        normed = normalize(state, layer["stream_router_norm"], kind="rms", epsilon=a.epsilon, out=np.empty_like(state))
        normed *= np.float32(1 / a.width)
        return np.tanh(multiply(normed, layer["stream_router"], out=np.empty((len(state), a.streams), np.float32)))


def _project(state: Floats, matrix: Floats, like: Floats) -> Floats:
    """A projection of a state, made as large as another."""
    made = multiply(state, matrix, out=np.empty_like(state))
    size = np.sqrt(np.maximum(np.mean(made * made, axis=-1, keepdims=True), _LEAST_SQUARE))
    return np.asarray(made * np.sqrt(np.mean(like * like, axis=-1, keepdims=True)) / size, np.float32)
