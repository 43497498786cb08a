"""How requests for a model of tensors come to be computed as one: what a session says of it, or a model's settings."""

from __future__ import annotations

from dataclasses import dataclass

FILLED_TIMES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """A dimension of an input that is filled up behind its end.

    Attributes:
        input_name: The input; not one that is a state.
        dimension: Which, from 1 on: 0 is the batch.
        value: What it is filled up with: a number of the input's type, True or False, or a text.
    """

    input_name: str
    dimension: int
    value: float | str = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A dimension of an output that has the size that was filled up: each request is told as much of it as it gave.

    Attributes:
        output_name: The output; not one that is a state.
        dimension: Which, from 1 on.
    """

    output_name: str
    dimension: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """A size in which requests may differ and are computed as one nevertheless: the shorter ones are filled up.

    Whoever states the rule vouches for it: a request that is filled up must give, once its outputs are cut back, what
    it gives alone. A request whose own sizes differ here is computed with such as are equal to it.

    Attributes:
        fills: The dimensions that have this size, which are filled up to that of the longest request.
        cuts: The dimensions of outputs that have it.
    """

    fills: tuple[Fill, ...]
    cuts: tuple[Cut, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How requests come to be computed as one, beside the `most_batch` of their signature.

    Attributes:
        preferred: Numbers of rows that are computed at once, without waiting for more: the largest that is there.
        delay_s: Most seconds that a request waits for others; None for what the kernel's configuration says.
        paddings: Sizes in which they may differ; all others must be equal.
        filled_times: A batch that is filled up has at most so many times the elements that its requests gave.
    """

    preferred: tuple[int, ...] = ()
    delay_s: float | None = None
    paddings: tuple[Padding, ...] = ()
    filled_times: float = FILLED_TIMES
