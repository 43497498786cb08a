"""Who may still say something: finds in the record of a run whatever was taken from who had lost the right to it.

There are three fences. The **epoch** of a store is that of the kernel which leads; the **incarnation** of a host is its
agent's life; the **attempt** of a task is the instance that runs it. Of each the numbers rise, one holds at a time, and
what one that is over says must come to nothing, however late it comes. The check is pure, and knows nothing of kernels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Fence(Enum):
    """What is counted; see above."""

    EPOCH = "epoch"
    INCARNATION = "incarnation"
    ATTEMPT = "attempt"


@dataclass(frozen=True, slots=True)
class Began:
    """From here on this number holds, and none before.

    Attributes:
        fence: What is counted.
        of: Of which store, host or task.
        number: It.
        who: Who has it; "" where that is not known.
    """

    fence: Fence
    of: str
    number: int
    who: str = ""


@dataclass(frozen=True, slots=True)
class Over:
    """The number that holds, holds no more; the next one is greater. What is `forgotten` never comes again."""

    fence: Fence
    of: str
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """Something was taken from who has this number, as if it held: a commit, a report, an output.

    Attributes:
        fence: What is counted.
        of: Of which store, host or task.
        number: By which it was said.
        who: Who said it; "" where that is not known.
        what: It, for people.
    """

    fence: Fence
    of: str
    number: int
    who: str = ""
    what: str = "something"


Entry = Began | Over | Accepted


@dataclass(slots=True)
class _Standing:
    number: int
    who: str
    holds: bool


@dataclass(slots=True)
class Fencing:
    """The check, entry by entry: what it holds are the last numbers of what is not forgotten."""

    _standing: dict[tuple[Fence, str], _Standing] = field(default_factory=dict)

    def add(self, entry: Entry) -> str:
        """What is wrong with the next entry of a history; "" for nothing."""
        key = entry.fence, entry.of
        known = self._standing.get(key)
        match entry:
            case Began():
                self._standing[key] = _Standing(entry.number, entry.who, holds=True)
                if known is not None and entry.number <= known.number:
                    return f"{_name(entry)} begins behind {known.number}"
            case Over():
                if entry.forgotten:
                    self._standing.pop(key, None)
                elif known is not None:
                    known.holds = False
            case Accepted():
                return self._judge(entry, known)
        return ""

    @staticmethod
    def _judge(entry: Accepted, known: _Standing | None) -> str:
        said = f"{entry.what} of {_name(entry)} was accepted"
        if known is None:
            return f"{said}, which never began or is long over"
        if entry.number != known.number:
            return f"{said}, and {entry.fence.value} {known.number} holds"
        if not known.holds:
            return f"{said}, which is over"
        if entry.who and known.who and entry.who != known.who:
            return f"{said} from {entry.who}, and {known.who} has it"
        return ""


def losers(history: Iterable[Entry]) -> list[str]:
    """What was accepted from who had lost, a sentence each, in the order of the history."""
    fencing = Fencing()
    return [wrong for entry in history if (wrong := fencing.add(entry))]


def _name(entry: Began | Accepted) -> str:
    return f"{entry.fence.value} {entry.number} of {entry.of}"
