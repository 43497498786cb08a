"""What a rule is: about whom, what it looks for, and what happens then."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self

from inferd.core.moderation import ModerationAction as Action
from inferd.core.moderation import ModerationSpaces as Spaces

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME_FORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST_RULES: Final = 1000
MOST_WORDS: Final = 100_000  # of all rules together
MOST_WORD_CHARS: Final = 200
MOST_WORDS_CHARS: Final = 1 << 20  # of all words of all rules: they go to each worker in a frame
MOST_PATTERNS: Final = 200  # of all rules together
MOST_PATTERN_CHARS: Final = 2000
MOST_SPAN: Final = 1000  # characters that a match of a pattern may have, at most
MOST_PATTERN_STEPS: Final = 1 << 20
"""Characters of a pattern's longest match, times instructions of its program: a token may take as many steps."""
MOST_REPLACEMENT_CHARS: Final = 200
MOST_LABELS: Final = 64
MOST_LABEL_CHARS: Final = 200
MOST_MODEL_CHARS: Final = 500
MOST_PROMPT_CHARS: Final = 8000
MOST_ASKED_CHARS: Final = 1 << 20  # of names, labels and prompts of all classifiers: they go to each worker, too


class On(Enum):
    """What a rule looks at."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A model that is asked about windows of a text.

    Attributes:
        model: Its name: a model with a recipe that reads a text and gives labels, or one that writes text.
        labels: Those that count as a finding.
        least_score: From which score on a label of a recipe counts.
        prompt: What one that writes text is asked, with "{text}" where the window goes; it answers with one of `labels`
            or with "none". "" for a model with a recipe.
        window_chars: How much of the text it is asked about at once.
        deadline_s: How long an answer may take.
        open_on_failure: Whether the text goes on where there is no answer; else the task ends.
    """

    model: str
    labels: tuple[str, ...]
    least_score: float = 0.5
    prompt: str = ""
    window_chars: int = 400
    deadline_s: float = 2.0
    open_on_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule.

    Attributes:
        name: It is told by, and unique.
        tenants: Pattern of the tenants that it is about.
        models: Pattern of the models that it is about.
        on: What it looks at.
        words: What it looks for, whatever they are written with that looks alike.
        patterns: Of RE2, found in the text without marks and unseen characters, in any case.
        span: Most folded characters of a match of its patterns.
        spaces: What becomes of white space before it is searched.
        whole_words: Whether a word counts only where no letter or digit is next to it.
        action: What becomes of what it finds.
        replacement: What stands in its place, where that is `REDACT`.
        classifier: Who is asked besides; None for nobody.
        origin: Where it was made: "config" or "stored".
        unsound: Why it cannot be gone by, as one that was kept by another version; then what it is about is refused.
    """

    name: str
    tenants: str = "*"
    models: str = "*"
    on: frozenset[On] = frozenset(On)
    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    span: int = 128
    spaces: Spaces = Spaces.RUNS
    whole_words: bool = False
    action: Action = Action.STOP
    replacement: str = "[removed]"
    classifier: Classifier | None = None
    origin: str = "config"
    unsound: str = ""

    def write(self) -> dict[str, Any]:
        """As plain values."""
        plain = asdict(self)
        if not self.unsound:
            del plain["unsound"]
        plain["on"] = sorted(each.value for each in self.on)
        plain["spaces"], plain["action"] = self.spaces.name.lower(), self.action.name.lower()
        return plain

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Self:
        """Of plain values.

        Raises:
            KeyError, TypeError, ValueError: They are no rule's.
        """
        given = dict(plain)
        given["on"] = frozenset(map(On, given["on"]))
        given["spaces"], given["action"] = Spaces[given["spaces"].upper()], Action[given["action"].upper()]
        given["words"], given["patterns"] = tuple(given["words"]), tuple(given["patterns"])
        if (asked := given.get("classifier")) is not None:
            given["classifier"] = Classifier(**{**asked, "labels": tuple(asked["labels"])})
        return cls(**given)


def write_rules(rules: Iterable[Rule]) -> bytes:
    """Rules, for a store or a worker."""
    return json.dumps([rule.write() for rule in rules], separators=(",", ":"), ensure_ascii=False).encode()


def read_rules(written: bytes) -> list[Rule]:
    """Rules that were written so."""
    return [Rule.read(plain) for plain in json.loads(written)]
