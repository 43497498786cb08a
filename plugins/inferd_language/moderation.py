"""Whether a text may stand: by rules as the kernel's, and by what a model makes of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask, find_by_rules, function
from inferd_language.choices import decide

QUESTION = "This message is"
UNSAFE, SAFE = ("offensive", "hateful", "insulting"), ("polite", "friendly", "harmless")


class Match(BaseModel):
    """Where a rule has found something.

    Attributes:
        start, end: Characters of the text, from 0; `end` is the one behind it.
        rule: The word or the pattern.
    """

    start: int
    end: int
    rule: str


class Moderated(BaseModel):
    """What was found.

    Attributes:
        allowed: Whether neither a rule nor the model found something.
        matches: What rules found.
        score: How likely the text is what it may not be, from 0 to 1, as the model says; None where it was not asked.
        label: Of a classifier, what it found most; "" for none.
    """

    allowed: bool
    matches: list[Match]
    score: float | None = None
    label: str = ""


@function(asks=2, timeout_s=120)
def moderate(
    *,
    text: str,
    words: list[str] | None = None,
    patterns: list[str] | None = None,
    whole_words: bool = False,
    spaces: Literal["runs", "each", "none"] = "runs",
    model: str = "",
    labels: list[str] | None = None,
    least_score: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Moderated:
    """Find whether a text may stand, by rules as those of moderation, a model, or both.

    Args:
        text: What is looked at.
        words: Words and phrases, found however they are written.
        patterns: RE2.
        whole_words: Words are found only with no letter or digit next to them.
        spaces: As for rules of moderation.
        model: A classifier of texts with a recipe, whose `labels` count; or a language model, which says how likely the
            text is offensive. "" for none.
        labels: Those of a classifier that count.
        least_score: From which score of the model on it counts.
    """
    if not (words or patterns or model):
        raise ValueError("there is nothing to go by; give words, patterns or model")
    found = find_by_rules(text, words or [], patterns or [], whole_words=whole_words, spaces=spaces)
    rules = [*(words or ()), *(patterns or ())]
    matches = [Match(start=start, end=end, rule=rules[which]) for start, end, which in found]
    score, label = _asked(model, text, labels) if model else (None, "")
    return Moderated(
        allowed=not matches and (score is None or score < least_score), matches=matches, score=score, label=label
    )


def _asked(model: str, text: str, labels: list[str] | None) -> tuple[float, str]:
    if labels:
        told = ask(Ask(model=model, do="label", prompt=text)).labels
        counted = {
            label: 1.0 if told[label] is None else float(told[label] or 0.0) for label in labels if label in told
        }
        label = max(counted, key=lambda name: counted[name], default="")
        return round(counted.get(label, 0.0), 6), label
    prompts = [f'Message: "{each.strip()[:1500]}"\n{QUESTION}' for each in (text, "N/A")]
    found = decide(model, prompts, [*UNSAFE, *SAFE])
    return round(sum(found.scores[word] for word in UNSAFE), 6), ""
