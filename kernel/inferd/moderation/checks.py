"""What a rule may be, and how many there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.moderation import ModerationAction as Action
from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.moderation.folds import By, fold
from inferd.moderation.patterns import fold_pattern
from inferd.moderation.rules import (
    MOST_ASKED_CHARS,
    MOST_LABEL_CHARS,
    MOST_LABELS,
    MOST_MODEL_CHARS,
    MOST_PATTERN_STEPS,
    MOST_PATTERNS,
    MOST_PROMPT_CHARS,
    MOST_REPLACEMENT_CHARS,
    MOST_RULES,
    MOST_SPAN,
    MOST_WORD_CHARS,
    MOST_WORDS,
    MOST_WORDS_CHARS,
    NAME_FORM,
)
from inferd.moderation.search import UNBOUNDED, compiled, width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.moderation.rules import Rule


def check_rule(rule: Rule, field: str = "rule") -> None:
    """Refuse a rule that is none. Compiles its patterns: not for an event loop.

    Raises:
        InvalidFieldError: A field is not as it may be.
    """
    if not NAME_FORM.fullmatch(rule.name):
        raise InvalidFieldError(
            f"{field}.name is {rule.name[:80]!r}; it must be 1 to 64 letters, digits, '.', '_' and '-'",
            field=f"{field}.name",
        )
    if not rule.on:
        raise InvalidFieldError(
            f"{field} {rule.name!r} looks at nothing; let it look at inputs or outputs", field=field
        )
    if not (rule.words or rule.patterns or rule.classifier):
        raise InvalidFieldError(
            f"{field} {rule.name!r} looks for nothing; give it words, patterns or a classifier", field=field
        )
    if len(rule.replacement) > MOST_REPLACEMENT_CHARS:
        raise InvalidFieldError(
            f"{field}.replacement has {len(rule.replacement)} characters; it may have {MOST_REPLACEMENT_CHARS}",
            field=f"{field}.replacement",
        )
    if not 1 <= rule.span <= MOST_SPAN:
        raise InvalidFieldError(f"{field}.span is {rule.span}; it must be from 1 to {MOST_SPAN}", field=f"{field}.span")
    for number, word in enumerate(rule.words):
        _check_word(rule, word, f"{field}.words[{number}]")
    for number, pattern in enumerate(rule.patterns):
        _check_pattern(rule, pattern, f"{field}.patterns[{number}]")
    _check_classifier(rule, f"{field}.classifier")


def _check_word(rule: Rule, word: str, field: str) -> None:
    if len(word) > MOST_WORD_CHARS:
        raise InvalidFieldError(f"{field} has {len(word)} characters; it may have {MOST_WORD_CHARS}", field=field)
    if not fold(word, By.LOOKS, rule.spaces).strip():
        raise InvalidFieldError(
            f"{field} has nothing but white space, marks and unseen characters; give it a letter", field=field
        )


def _check_pattern(rule: Rule, pattern: str, field: str) -> None:
    width(pattern, field)  # as it is written: what it is not is told of that
    compiled(pattern, field)
    folded = fold_pattern(pattern, rule.spaces, field)
    most = width(folded, field)
    if most > rule.span:
        wide = "any number of" if most >= UNBOUNDED else str(most)
        raise InvalidFieldError(
            f"{field} matches {wide} characters, and the rule's span, so what is held back of an output, is "
            f"{rule.span}; bound its repetitions, as .{{0,40}} for .*, or give the rule a larger span",
            field=field,
        )
    size = compiled(folded, field).programsize
    if size * most > MOST_PATTERN_STEPS:
        raise InvalidFieldError(
            f"{field} is too dear: each token may take {size * most} steps (matches of {most} characters, times "
            f"{size} instructions), and it may take {MOST_PATTERN_STEPS}; give its repetitions less",
            field=field,
        )


def _check_classifier(rule: Rule, field: str) -> None:
    asked = rule.classifier
    if asked is None:
        return
    if rule.action is Action.ALLOW:
        raise InvalidFieldError(f"{field}: a classifier finds, and a rule that allows finds nothing", field=field)
    if not asked.model:
        raise InvalidFieldError(f"{field}.model is empty; name the model", field=f"{field}.model")
    if not 1 <= len(asked.labels) <= MOST_LABELS or not all(asked.labels):
        raise InvalidFieldError(
            f"{field}.labels has {len(asked.labels)}; give 1 to {MOST_LABELS}, none of them empty",
            field=f"{field}.labels",
        )
    for name, chars, limit in (
        ("model", len(asked.model), MOST_MODEL_CHARS),
        ("labels[]", max(map(len, asked.labels)), MOST_LABEL_CHARS),
        ("prompt", len(asked.prompt), MOST_PROMPT_CHARS),
    ):
        if chars > limit:
            raise InvalidFieldError(
                f"{field}.{name} has {chars} characters; it may have {limit}", field=f"{field}.{name}"
            )
    for name, least, most in (("window_chars", 20, 4000), ("deadline_s", 0.001, 60), ("least_score", 0, 1)):
        if not least <= (value := getattr(asked, name)) <= most:
            raise InvalidFieldError(
                f"{field}.{name} is {value:g}; it must be from {least:g} to {most:g}", field=f"{field}.{name}"
            )
    if asked.prompt and "{text}" not in asked.prompt:
        raise InvalidFieldError(f'{field}.prompt has no "{{text}}" where the window goes', field=f"{field}.prompt")


def _asked_chars(rule: Rule) -> int:
    asked = rule.classifier
    return 0 if asked is None else len(asked.model) + len(asked.prompt) + sum(map(len, asked.labels))


def check_rules(rules: Sequence[Rule]) -> None:
    """Refuse more rules than there may be together.

    Raises:
        InvalidFieldError: Two have a name.
        LimitExceededError: They are too many, or too large.
    """
    names = [rule.name for rule in rules]
    twice = next((name for n, name in enumerate(names) if name in names[:n]), None)
    if twice is not None:
        raise InvalidFieldError(f"there is a rule {twice!r} already; give it another name", field="rule.name")
    for what, value, most in (
        ("rules", len(rules), MOST_RULES),
        ("words", sum(len(rule.words) for rule in rules), MOST_WORDS),
        ("patterns", sum(len(rule.patterns) for rule in rules), MOST_PATTERNS),
        ("characters of words", sum(sum(map(len, rule.words)) for rule in rules), MOST_WORDS_CHARS),
        ("characters of classifiers", sum(map(_asked_chars, rules)), MOST_ASKED_CHARS),
    ):
        if value > most:
            raise LimitExceededError(
                f"all rules of moderation together have {value} {what}; they may have {most}",
                metadata={"bound": f"moderation {what}", "value": str(value), "limit": str(most)},
            )
