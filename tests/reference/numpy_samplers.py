"""The samplers of llama.cpp as their definitions read, in plain numpy: everything sorted, float64, one row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def probabilities(logits: NDArray[np.float32], s: Any, *, excludes_top: bool) -> Numbers:
    """How likely each token is behind all filters, shape (V,); `excludes_top` is whether XTC is done this time."""
    scores = logits.astype(np.float64)
    if s.top_n_sigma > 0:
        allowed = scores[np.isfinite(scores)]
        scores = np.where(scores < allowed.max() - s.top_n_sigma * allowed.std(), -np.inf, scores)
    order = sorted((n for n in range(len(scores)) if np.isfinite(scores[n])), key=lambda n: (-scores[n], n))
    if s.top_k > 0:
        order = order[: s.top_k]
    weights = {n: float(np.exp((scores[n] - scores[order[0]]) / s.temperature)) for n in order}
    weights = _normalised({n: w for n, w in weights.items() if w > 0})
    if s.typical_p < 1:
        entropy = -sum(p * np.log(p) for p in weights.values())
        nearest = sorted(weights, key=lambda n: (abs(-np.log(weights[n]) - entropy), n))
        weights = _normalised(_until(weights, nearest, s.typical_p))
    if s.top_p < 1:
        weights = _normalised(_until(weights, sorted(weights, key=lambda n: (-weights[n], n)), s.top_p))
    weights = _normalised({n: p for n, p in weights.items() if p >= s.min_p * max(weights.values())})
    if excludes_top:
        ranked = sorted(weights, key=lambda n: (-weights[n], n))
        last = max((place for place, n in enumerate(ranked) if weights[n] >= s.xtc_threshold), default=0)
        weights = _normalised({n: weights[n] for n in ranked[last:]})
    told = np.zeros(len(scores))
    for n, p in weights.items():
        told[n] = p
    return told


def unsurprising(logits: NDArray[np.float32], temperature: float, bound: float) -> Numbers:
    """How likely each token is behind mirostat 2, shape (V,), where `bound` (mu) is what it goes by now."""
    scores = logits.astype(np.float64)
    order = sorted((n for n in range(len(scores)) if np.isfinite(scores[n])), key=lambda n: (-scores[n], n))
    weights = _normalised({n: float(np.exp((scores[n] - scores[order[0]]) / temperature)) for n in order})
    count = next((place for place, n in enumerate(order) if -np.log2(weights[n]) > bound), len(order))
    told = np.zeros(len(scores))
    for n, p in _normalised({n: weights[n] for n in order[: max(1, count)]}).items():
        told[n] = p
    return told


def penalised(logits: NDArray[np.float32], tokens: list[int], prompt_tokens: int, s: Any) -> Numbers:
    """Logits behind the three penalties, over the last `penalty_window` tokens."""
    first = max(0, len(tokens) - s.penalty_window) if s.penalty_window else 0
    changed = logits.astype(np.float64)
    for n in range(len(changed)):
        if n in tokens[first:]:
            changed[n] = changed[n] / s.repetition_penalty if changed[n] > 0 else changed[n] * s.repetition_penalty
        count = tokens[max(first, prompt_tokens) :].count(n)
        changed[n] -= s.frequency_penalty * count + s.presence_penalty * (count > 0)
    return changed


def dried(logits: NDArray[np.float32], tokens: list[int], texts: list[bytes], s: Any) -> Numbers:
    """Logits behind DRY; at most 512 tokens of a stretch count, and at most 10000 is taken."""
    changed = logits.astype(np.float64)
    broken = [
        any(_completes(texts, tokens, place, each.encode()) for each in s.dry_sequence_breakers)
        for place in range(len(tokens))
    ]
    first, end = max(0, len(tokens) - s.dry_window), len(tokens) - 1
    longest: dict[int, int] = {}
    for place in range(first, end):
        size = 0
        while size < 512 and place - size >= first and tokens[place - size] == tokens[end - size]:
            if broken[end - size]:
                break
            size += 1
        longest[tokens[place + 1]] = max(longest.get(tokens[place + 1], 0), size)
    for n, size in longest.items():
        if size >= s.dry_allowed_length:
            changed[n] -= min(s.dry_multiplier * s.dry_base ** (size - s.dry_allowed_length), 10_000)
    return changed


def _completes(texts: list[bytes], tokens: list[int], place: int, text: bytes) -> bool:
    """Whether a text ends inside the text of the token at this place."""
    before = b"".join(texts[n] for n in tokens[:place])
    whole = before + texts[tokens[place]]
    return any(whole[: at + 1].endswith(text) for at in range(len(before), len(whole)))


def _until(weights: dict[int, float], order: list[int], mass: float) -> dict[int, float]:
    """The first of an order that have this much together."""
    kept, total = {}, 0.0
    for n in order:
        kept[n] = weights[n]
        total += weights[n]
        if total >= mass:
            break
    return kept


def _normalised(weights: dict[int, float]) -> dict[int, float]:
    total = sum(weights.values())
    return {n: w / total for n, w in weights.items()}
