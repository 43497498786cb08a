"""Stop strings across token borders."""

from collections.abc import Sequence


class StopFinder:
    """Lets text through until a stop string is complete; holds back what might be the beginning of one.

    The first stop string to become complete ends the text, which is cut before it; of several that are complete at the
    same character, the longest. So the result does not depend on how the text was split into tokens.

    Args:
        stops: The stop strings; none is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._first = frozenset(stop[0] for stop in stops)
        self._longest = max(len(stop) for stop in stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What may be shown after `text` came; sets `found` when it ended by a stop string."""
        text = self._held + text
        self._held = ""
        hits = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            self.found = True
            return text[: min(hits)[1]]
        keep = self._first_possible(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """What was held back, when nothing follows any more."""
        held, self._held = self._held, ""
        return held

    def _first_possible(self, text: str) -> int:
        """Where the longest end of `text` begins that begins a stop string; its length when there is none."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self._first and any(stop.startswith(text[at:]) for stop in self._stops):
                return at
        return len(text)
