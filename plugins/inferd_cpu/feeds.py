"""The feed-forward part of a block: dense, and with experts (arXiv:1701.06538)."""

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.family import Activation
from inferd_cpu.norms import multiply, normalize
from inferd_cpu.shapes import Architecture, LayerShape, Routing
from inferd_cpu.weights import Layer
from inferd_cpu.workspace import Workspace

Floats = NDArray[np.float32]
_CLAMP, _SLOPE = np.float32(7.0), np.float32(1.702)
_NEARLY = 0.02  # of the better logit, or of the other where that is larger
_ROOT_2_PI, _CUBE = np.float32(0.7978845608028654), np.float32(0.044715)
# Abramowitz and Stegun 7.1.26, and the sum of its polynomial, are good to 1.5e-7.
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def activate(kind: Activation, gate: Floats, up: Floats | None, *, out: Floats) -> Floats:
    """Set `out` to what the gate gives, times what goes up if there is any; `gate` and `up` may change."""
    if kind == "clamped":
        np.minimum(gate, _CLAMP, out=gate)
        np.divide(gate, 1 + np.exp(-_SLOPE * gate), out=out)
        if up is not None:
            out *= np.clip(up, -_CLAMP, _CLAMP) + 1
        return out
    if kind == "silu":
        np.negative(gate, out=out)
        np.exp(out, out=out)
        out += 1
        np.divide(gate, out, out=out)
    elif kind == "gelu_tanh":
        np.tanh(_ROOT_2_PI * (gate + _CUBE * gate**3), out=out)
        out += 1
        out *= gate
        out *= np.float32(0.5)
    elif kind == "gelu":
        out[:] = gate * np.float32(0.5) * (1 + _erf(gate * np.float32(2**-0.5)))
    else:
        np.square(np.maximum(gate, 0), out=out)
    if up is not None:
        out *= up
    return out


def _erf(x: Floats) -> Floats:
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * size)
    polynomial = np.zeros_like(x)
    for factor in reversed(_ERF):
        polynomial += np.float32(factor)
        polynomial *= t
    return np.asarray(np.copysign(1 - polynomial * np.exp(-size * size), x), np.float32)


def feed(a: Architecture, shape: LayerShape, layer: Layer, normed: Floats, work: Workspace, *, out: Floats) -> None:
    """Set `out` to what the feed-forward part makes of `normed`, both of shape (rows, width)."""
    if shape.routed and a.routing and not shape.feed_width:
        _feed_experts(a, a.routing, layer, normed, work, out=out)
        return
    rows, width = len(normed), shape.feed_width
    gated = work.gated[: rows * width].reshape(rows, width)
    if "gate_up" in layer:
        bias, sparsity = layer.get("gate_up_bias"), shape.sparsity
        _gate(a.activation, layer["gate_up"], bias, normed, work, out=gated, sparsity=sparsity)
    else:
        up = work.gate_up[: rows * width].reshape(rows, width)
        activate(a.activation, multiply(normed, layer["up"], layer.get("up_bias"), out=up), None, out=gated)
    multiply(gated, layer["down"], layer.get("down_bias"), out=out)


def _gate(
    kind: Activation,
    matrix: Floats,
    bias: Floats | None,
    normed: Floats,
    work: Workspace,
    *,
    out: Floats,
    sparsity: float | None = None,
) -> None:
    """Gates and ups from one matrix (arXiv:2002.05202)."""
    rows, width = out.shape
    both = work.gate_up[: rows * 2 * width].reshape(rows, 2 * width)
    multiply(normed, matrix, bias, out=both)
    gates = both[:, :width]
    if sparsity is not None:  # as many as a normal distribution has above that
        cutoff = gates.mean(axis=-1, keepdims=True) + gates.std(axis=-1, keepdims=True) * np.float32(sparsity)
        np.maximum(gates - cutoff, 0, out=gates)
    activate(kind, gates, both[:, width:], out=out)


def route(routing: Routing, logits: Floats, bias: Floats | None) -> tuple[NDArray[np.intp], Floats]:
    """The experts of each row and their weights, both of shape (rows, used); logits: (rows, count)."""
    weights = logits
    if routing.gating == "sigmoid":
        weights = _sigmoid(logits)
    elif routing.gating == "softmax":
        weights = _softmax(logits)
    choice = weights if bias is None else np.add(weights, bias)
    if routing.gating == "mixer":
        return _mix_sparsely(routing, logits)
    if routing.groups > 1:
        choice = _keep_groups(routing, choice)
    chosen = np.argsort(-choice, axis=-1, kind="stable")[:, : routing.used]
    taken: Floats = np.take_along_axis(weights, chosen, axis=-1)
    if routing.gating == "chosen":
        taken = _softmax(taken)
    if routing.normalised:
        taken = np.divide(taken, np.maximum(taken.sum(axis=-1, keepdims=True), np.float32(1e-20)))
    return chosen, np.multiply(taken, np.float32(routing.scale))


def _mix_sparsely(routing: Routing, logits: Floats) -> tuple[NDArray[np.intp], Floats]:
    """One expert after the other; each with its softmax among those that are nearly as good."""
    left = logits.copy()
    rows = np.arange(len(logits))
    chosen = np.empty((len(logits), routing.used), np.intp)
    weights = np.empty(chosen.shape, np.float32)
    for place in range(routing.used):
        best = left.argmax(axis=-1)
        most = left[rows, best][:, None]
        far = (most - logits) / np.maximum(np.abs(logits), most) > np.float32(_NEARLY)
        near = np.where(far, -np.inf, left)
        weights[:, place] = _softmax(near)[rows, best]
        chosen[:, place] = best
        left[rows, best] = -np.inf
    return chosen, weights * np.float32(routing.scale)


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def _keep_groups(routing: Routing, choice: Floats) -> Floats:
    """Experts outside the best groups are not chosen. A group is as good as its best expert, or its best two."""
    each = choice.reshape(len(choice), routing.groups, -1)
    counted = 1 if routing.gating == "softmax" else 2
    score = np.sort(each, axis=-1)[..., -counted:].sum(axis=-1)
    best = np.argsort(-score, axis=-1, kind="stable")[:, : routing.groups_used]
    kept = np.zeros(score.shape, bool)
    np.put_along_axis(kept, best, True, axis=-1)
    return np.asarray(np.where(kept[..., None], each, -np.inf), np.float32).reshape(choice.shape)


def add_experts_beside(
    a: Architecture, routing: Routing, layer: Layer, residual: Floats, work: Workspace, *, out: Floats
) -> None:
    """Make the sum, in `out`, of what the dense part gave and of what experts make of `residual`."""
    normalize(out, layer["dense_post_norm"], kind="rms", epsilon=a.epsilon, out=out)
    routed = normalize(residual, layer["router_scale"], kind="rms", epsilon=a.epsilon, out=np.empty_like(residual))
    routed *= np.float32(a.width**-0.5)
    given = normalize(residual, layer["expert_norm"], kind="rms", epsilon=a.epsilon, out=np.empty_like(residual))
    added = np.empty_like(residual)
    _feed_experts(a, routing, layer, given, work, out=added, routed=routed)
    out += normalize(added, layer["expert_post_norm"], kind="rms", epsilon=a.epsilon, out=added)


def _feed_experts(
    a: Architecture,
    routing: Routing,
    layer: Layer,
    normed: Floats,
    work: Workspace,
    *,
    out: Floats,
    routed: Floats | None = None,
) -> None:
    """Rows that share an expert are computed together; `routed`: by what they are chosen, if not by `normed`."""
    by = normed if routed is None else routed
    logits = multiply(
        by, layer["router"], layer.get("router_bias"), out=np.empty((len(normed), routing.count), np.float32)
    )
    chosen, weights = route(routing, logits, layer.get("choice_bias"))
    if "expert_scale" in layer:
        weights *= layer["expert_scale"][chosen]
    out[:] = 0
    for expert in np.unique(chosen):
        rows, places = np.nonzero(chosen == expert)
        some, width = normed[rows], routing.feed_width
        gate = np.empty((len(rows), width), np.float32)
        up, gated = np.empty_like(gate), np.empty_like(gate)
        biases = [
            None if each is None else each[expert]
            for each in (layer.get("expert_gate_bias"), layer.get("expert_up_bias"), layer.get("expert_down_bias"))
        ]
        if "expert_both" in layer:
            both = multiply(some, layer["expert_both"][expert], out=np.empty((len(rows), 2 * width), np.float32))
            gate, up = both[:, :width], both[:, width:]
        else:
            multiply(some, layer["expert_gate"][expert], biases[0], out=gate)
            multiply(some, layer["expert_up"][expert], biases[1], out=up)
        activate(a.activation, gate, up, out=gated)
        down = multiply(gated, layer["expert_down"][expert], biases[2], out=np.empty_like(some))
        out[rows] += down * weights[rows, places][:, None]
    if "shared_gate_up" in layer:
        out += _feed_shared(a, routing, layer, normed, work)


def _feed_shared(a: Architecture, routing: Routing, layer: Layer, normed: Floats, work: Workspace) -> Floats:
    """What the experts give that every row goes to."""
    rows, width = len(normed), routing.shared_width
    gated = work.gated[: rows * width].reshape(rows, width)
    _gate(a.activation, layer["shared_gate_up"], layer.get("shared_gate_up_bias"), normed, work, out=gated)
    shared = multiply(gated, layer["shared_down"], layer.get("shared_down_bias"), out=np.empty_like(normed))
    if "shared_router" in layer:
        logit = normed @ layer["shared_router"].reshape(-1)
        shared *= _sigmoid(logit)[:, None]
    return shared
