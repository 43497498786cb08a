"""What goes wrong with a model of the fake backend, and its tokens: without numpy, as nothing is computed yet."""

from dataclasses import dataclass
from typing import Final

from inferd.testing.hangs import hang

BYTES: Final = 256
USER: Final = 256
END: Final = 259
NOTHING: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, and when. A token acts when a step computes it, a number when it is in an input.

    Attributes:
        step_s: How long a step takes, in seconds.
        mute: It predicts the end of every text at once.
        quantization: "8bit" takes two thirds of that, "4bit" half, and its logits are flat.
        fail_step: This step raises, counted from 1; 0 for none.
        fail_on_token: A step with this token raises.
        refuse_token: A step with this token is refused: a ValueError, which changes nothing.
        die_on_token: A step with this token kills the process.
        hang_on_token: A step with this token hangs, as a driver does that never comes back.
        take_bytes: So many bytes are taken with the load, and kept.
        grow_bytes: Each step takes so many bytes more, and keeps them.
        hang_at: Where it hangs as well: "measure", "load", "step", "copy" or "close".
        hang_by: How it hangs, see `inferd.testing.hangs`.
    """

    step_s: float = 0.0
    mute: bool = False
    quantization: str = "auto"
    fail_step: int = 0
    fail_on_token: int = NOTHING
    refuse_token: int = NOTHING
    die_on_token: int = NOTHING
    hang_on_token: int = NOTHING
    take_bytes: int = 0
    grow_bytes: int = 0
    hang_at: str = ""
    hang_by: str = "stop"

    def hang(self, place: str) -> None:
        """Hang, if it is here."""
        if place == self.hang_at:
            hang(self.hang_by)
