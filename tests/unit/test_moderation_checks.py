"""What a rule may be."""

from __future__ import annotations

import pytest

from inferd.errors import InvalidFieldError
from inferd.moderation.checks import check_rule
from inferd.moderation.rules import Rule


@pytest.mark.parametrize("pattern", ["[[:alpha:]]{0,9}", "[[:^digit:]x]{1,9}"])
def test_a_class_that_only_re2_knows_is_refused(pattern: str) -> None:
    """A pattern with a named class, whose width would be measured as another's, is refused with the fix."""
    with pytest.raises(InvalidFieldError, match=r"cannot be measured; write its characters, as \[a-z\]"):
        check_rule(Rule(name="r", patterns=(pattern,)))
