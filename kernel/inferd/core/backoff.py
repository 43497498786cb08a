"""How long a model that failed is left alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The wait after failures in a row: `first_s`, doubled with each, at most `most_s`.

    A worker that dies once, after it had loaded its model, is replaced at once.
    """

    first_s: float = 0.5
    most_s: float = 30.0

    def wait_s(self, failures: int) -> float:
        """The wait after this many failures in a row."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60)) if failures else 0.0
