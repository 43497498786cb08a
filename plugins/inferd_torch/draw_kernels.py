"""Choosing tokens on CUDA: what `sampling.py` states, for all rows of a step in one Triton kernel.

A program has a row and reads it again and again, out of the cache. Nothing is sorted: the logit at which a sum is
reached is searched for, halving the range in which it lies, and each look tells the nearest logits that there are on
both sides: those of bfloat16 are few. Nothing is decided by the host, so that the kernel can be recorded, and a row's
token depends on nothing beside it.

Sums are made in float32 by lane and added up in float64: a point within some 1e-7 of the border between two tokens may
give the other one than torch does.
"""

import triton
import triton.language as tl
from torch import Tensor

from inferd_torch.sampling import NO_TOKEN

BLOCK = 8192  # logits that a program reads at a time
WARPS = 16
BEHIND: tl.constexpr = tl.constexpr(1 << 30)  # a place that is none
DEEP: tl.constexpr = tl.constexpr(104.0)  # temperatures below the peak: what lies deeper weighs nothing in float32
LOWEST: tl.constexpr = tl.constexpr(-3.0e38)
NOTHING: tl.constexpr = tl.constexpr(NO_TOKEN)


def draw(logits: Tensor, table: Tensor, tokens: Tensor) -> None:
    """See `inferd_torch.sampling.Draw`."""
    rows, size = logits.shape
    if rows:
        _draw[(rows,)](
            logits.contiguous(), table, tokens, table.stride(0), VOCABULARY=size, BLOCK=BLOCK, num_warps=WARPS
        )


@triton.jit
def _read(row, begin, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Some logits of a row, as float32; behind its end -inf."""
    places = begin + tl.arange(0, BLOCK)
    return tl.load(row + places, mask=places < VOCABULARY, other=float("-inf")).to(tl.float32)


@triton.jit
def _peak(row, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest logit, the first place where it stands, and whether the row is finite."""
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    first = tl.zeros((BLOCK,), tl.int32)
    wrong = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, VOCABULARY, BLOCK):
        own = _read(row, begin, VOCABULARY, BLOCK)
        wrong |= (own != own).to(tl.int32)  # noqa: PLR0124 - NaN
        first = tl.where(own > best, begin + tl.arange(0, BLOCK), first)
        best = tl.where(own > best, own, best)
    peak = tl.max(best, 0)
    place = tl.min(tl.where(best == peak, first, BEHIND), 0)
    sound = (tl.max(wrong, 0) == 0) & (peak > float("-inf")) & (peak < float("inf"))
    return peak, place, sound


@triton.jit
def _look(  # type: ignore[no-untyped-def]
    row, peak, temperature, least, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr, COUNTS: tl.constexpr
):
    """What the logits from `least` on weigh, or how many they are; the lowest of them; the highest that is lower."""
    total = tl.zeros((BLOCK,), tl.float32)
    above = tl.full((BLOCK,), float("inf"), tl.float32)
    below = tl.full((BLOCK,), float("-inf"), tl.float32)
    for begin in range(0, VOCABULARY, BLOCK):
        own = _read(row, begin, VOCABULARY, BLOCK)
        there = own >= least
        if COUNTS:
            total += there.to(tl.float32)
        else:
            total += tl.where(there, tl.exp((own - peak) / temperature), 0.0)
        above = tl.minimum(above, tl.where(there, own, float("inf")))
        below = tl.maximum(below, tl.where(there, float("-inf"), own))
    return tl.sum(total.to(tl.float64), 0), tl.min(above, 0), tl.max(below, 0)


@triton.jit
def _find(  # type: ignore[no-untyped-def]
    row,
    peak,
    temperature,
    low,
    goal,
    VOCABULARY: tl.constexpr,
    BLOCK: tl.constexpr,
    COUNTS: tl.constexpr,
    BEYOND: tl.constexpr,
):
    """The highest logit from which on the row reaches the goal, or is `BEYOND` it; `low`, one of them, if none is."""
    high = peak
    while low < high:
        middle = low + (high - low) * 0.5
        middle = tl.where(middle > low, middle, high)
        total, above, below = _look(row, peak, temperature, middle, VOCABULARY, BLOCK, COUNTS)
        enough = total > goal if BEYOND else total >= goal
        high = tl.where(enough, high, tl.maximum(below, low))
        low = tl.where(enough, above, low)
    return high


@triton.jit
def _split(row, peak, temperature, at, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """What the logits above one weigh, how many they are, and how many are equal to it."""
    total = tl.zeros((BLOCK,), tl.float32)
    above = tl.zeros((BLOCK,), tl.int32)
    equal = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, VOCABULARY, BLOCK):
        own = _read(row, begin, VOCABULARY, BLOCK)
        total += tl.where(own > at, tl.exp((own - peak) / temperature), 0.0)
        above += (own > at).to(tl.int32)
        equal += (own == at).to(tl.int32)
    return tl.sum(total.to(tl.float64), 0), tl.sum(above, 0), tl.sum(equal, 0)


@triton.jit
def _likely(row, peak, temperature, min_p, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """What the tokens weigh that min-p leaves."""
    total = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, VOCABULARY, BLOCK):
        weights = tl.exp((_read(row, begin, VOCABULARY, BLOCK) - peak) / temperature)
        total += tl.where(weights.to(tl.float64) < min_p, 0.0, weights)
    return tl.sum(total.to(tl.float64), 0)


@triton.jit
def _nth(row, at, number, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The place of the logit of that number, from 0 on, of those that are equal to one."""
    found = tl.full((), 0, tl.int32)
    seen = tl.full((), 0, tl.int32)
    for begin in range(0, VOCABULARY, BLOCK):
        equal = (_read(row, begin, VOCABULARY, BLOCK) == at).to(tl.int32)
        here = tl.sum(equal, 0)
        if (seen <= number) & (seen + here > number):
            order = seen + tl.cumsum(equal, 0) - equal
            places = begin + tl.arange(0, BLOCK)
            found = tl.min(tl.where((equal == 1) & (order == number), places, BEHIND), 0)
        seen += here
    return found


@triton.jit
def _by_id(  # type: ignore[no-untyped-def]
    row, peak, temperature, min_p, target, first, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr
):
    """The first place at which the weights up to it are beyond the target; `first` if that is lost in rounding."""
    found = first
    before = tl.full((), 0.0, tl.float64)
    for begin in range(0, VOCABULARY, BLOCK):
        weights = tl.exp((_read(row, begin, VOCABULARY, BLOCK) - peak) / temperature).to(tl.float64)
        weights = tl.where(weights < min_p, 0.0, weights)
        here = tl.sum(weights, 0)
        if (before <= target) & (before + here > target):
            sums = before + tl.cumsum(weights, 0)
            places = begin + tl.arange(0, BLOCK)
            place = tl.min(tl.where((sums > target) & (weights > 0.0), places, BEHIND), 0)
            found = tl.where(place < VOCABULARY, place, found)
        before += here
    return found


@triton.jit
def _ranked(  # type: ignore[no-untyped-def]
    row, peak, temperature, least, total, top_k, top_p, min_p, point, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr
):
    """The place that a row with top-k or top-p draws."""
    last, mass, kept = least, total, BEHIND
    if top_k > 0:
        last = _find(row, peak, temperature, least, top_k.to(tl.float64), VOCABULARY, BLOCK, True, False)
        above, higher, equal = _split(row, peak, temperature, last, VOCABULARY, BLOCK)
        kept = tl.minimum(equal, tl.maximum(top_k - higher, 1))
        mass = above + kept * tl.exp((last - peak) / temperature).to(tl.float64)
    if top_p < 1.0:
        goal = top_p * mass
        nucleus = _find(row, peak, temperature, last, goal, VOCABULARY, BLOCK, False, False)
        above, _, equal = _split(row, peak, temperature, nucleus, VOCABULARY, BLOCK)
        own = tl.exp((nucleus - peak) / temperature).to(tl.float64)
        most = tl.where(nucleus > last, equal, tl.minimum(equal, kept))
        wanted = tl.ceil((goal - above) / own)
        mass = above + tl.minimum(tl.maximum(wanted, 1.0), most.to(tl.float64)) * own
        last = nucleus
    if tl.exp((last - peak) / temperature).to(tl.float64) < min_p:
        mass = _likely(row, peak, temperature, min_p, VOCABULARY, BLOCK)
    target = tl.minimum(point * mass, mass * (1.0 - 1.2e-16))
    at = _find(row, peak, temperature, last, target, VOCABULARY, BLOCK, False, True)
    above, _, equal = _split(row, peak, temperature, at, VOCABULARY, BLOCK)
    number = tl.floor((target - above) / tl.exp((at - peak) / temperature).to(tl.float64))
    number = tl.minimum(tl.maximum(number, 0.0), (equal - 1).to(tl.float64)).to(tl.int32)
    return _nth(row, at, number, VOCABULARY, BLOCK)


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["table", "tokens"])
def _draw(  # type: ignore[no-untyped-def]
    logits, table, tokens, stride, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr
):
    number = tl.program_id(0)
    row = logits + number.to(tl.int64) * VOCABULARY
    temperature = tl.load(table + number).to(tl.float32)
    top_k = tl.load(table + stride + number).to(tl.int32)
    top_p = tl.load(table + 2 * stride + number)
    min_p = tl.load(table + 3 * stride + number)
    point = tl.load(table + 4 * stride + number)
    peak, found, sound = _peak(row, VOCABULARY, BLOCK)
    if sound & (temperature > 0.0):
        deepest = tl.maximum(peak - DEEP * temperature, LOWEST)
        total, least, _ = _look(row, peak, temperature, deepest, VOCABULARY, BLOCK, False)
        if (top_k > 0) | (top_p < 1.0):
            found = _ranked(
                row, peak, temperature, least, total, top_k, top_p, min_p, point, VOCABULARY, BLOCK
            )  # fmt: skip
        else:
            if min_p > 0.0:
                total = _likely(row, peak, temperature, min_p, VOCABULARY, BLOCK)
            target = tl.minimum(point * total, total * (1.0 - 1.2e-16))
            found = _by_id(row, peak, temperature, min_p, target, found, VOCABULARY, BLOCK)
    tl.store(tokens + number, tl.where(sound, found, NOTHING).to(tl.int64))
