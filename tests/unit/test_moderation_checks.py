"""What a rule may be."""

from __future__ import annotations

import pytest

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.moderation.checks import check_rule, check_rules
from inferd.moderation.rules import Classifier, Rule


@pytest.mark.parametrize("pattern", ["[[:alpha:]]{0,9}", "[[:^digit:]x]{1,9}"])
def test_a_class_that_only_re2_knows_is_refused(pattern: str) -> None:
    """A pattern with a named class, whose width would be measured as another's, is refused with the fix."""
    with pytest.raises(InvalidFieldError, match=r"cannot be measured; write its characters, as \[a-z\]"):
        check_rule(Rule(name="r", patterns=(pattern,)))


def test_a_pattern_that_is_none_is_told_so() -> None:
    """And not that it cannot be measured, with a fix for another mistake."""
    with pytest.raises(InvalidFieldError, match=r"is no pattern of RE2: missing \)"):
        check_rule(Rule(name="r", patterns=("(a",)))


@pytest.mark.parametrize(
    "asked",
    [
        Classifier(model="m" * 501, labels=("bad",)),
        Classifier(model="m", labels=("good", "b" * 201)),
        Classifier(model="m", labels=("bad",), prompt="{text}" + "p" * 8000),
    ],
)
def test_a_classifier_that_is_too_large_is_refused(asked: Classifier) -> None:
    """The name, labels and prompt of a classifier have bounds, however the rule was made."""
    with pytest.raises(InvalidFieldError, match=r"has \d+ characters; it may have \d+"):
        check_rule(Rule(name="r", classifier=asked))


def test_classifiers_of_all_rules_have_a_bound_together() -> None:
    """Many classifiers of a size that each may have are refused by what they have together."""
    asked = Classifier(model="m", labels=("bad",), prompt="{text}" + "p" * 7994)
    rules = [Rule(name=f"r{n}", classifier=asked) for n in range(132)]
    check_rules(rules[:131])
    with pytest.raises(LimitExceededError, match="characters of classifiers; they may have 1048576"):
        check_rules(rules)


@pytest.mark.parametrize("pattern", ["[a-z ]{1,999}x", "(a|b).{0,998}c"])
def test_a_pattern_that_is_too_dear_is_refused(pattern: str) -> None:
    """A pattern that may take tens of milliseconds a token is refused, with both numbers; one with less passes."""
    with pytest.raises(InvalidFieldError, match=r"each token may take \d+ steps .* and it may take 1048576"):
        check_rule(Rule(name="r", patterns=(pattern,), span=1000))
    check_rule(Rule(name="r", patterns=(pattern.replace("99", "2"),), span=1000))
