"""What a task asks of its model, as far as policy has to know: stated by whoever checked its work."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a task asks for; the work itself is not looked into.

    Attributes:
        prompt_tokens: About how many tokens its model has to read.
        most_output: Most tokens that each sample may have; None for as many as there can be.
        samples: Outputs that it wants, each with what an output costs.
        memory_bytes: About what its work takes of the kernel's memory while it waits and runs.
        affinity: Equal for tasks of a tenant that have the beginning of their work in common; b"" for none.
        sticky: It needs what the last task of its affinity left: it goes to the same instance as long as that is
            there, and waits for a place there rather than go to another.
        contents: Equal for tasks of which a worker would die alike; b"" where that is not known.
    """

    prompt_tokens: int = 0
    most_output: int | None = None
    samples: int = 1
    memory_bytes: int = 0
    affinity: bytes = b""
    sticky: bool = False
    contents: bytes = b""


NO_DEMAND = Demand()
"""Of a task of which nothing is known, or that has ended."""
