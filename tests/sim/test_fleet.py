"""The kernel machine with many hosts that come, are cut off and go under load; `make sim` has ten thousand of them."""

import pytest
from fleet import Fleet
from rules import BrokenRuleError, Rule

from inferd.core.atlas import Atlas


def test_rules_hold_with_many_hosts() -> None:
    """Tasks end once, attempts are one at a time, and instances are where they may be, whatever happens to hosts."""
    seen = Fleet(7, hosts=120, tasks=800).run().seen
    assert seen["SUCCEEDED"] == 800
    assert min(seen["losses"], seen["starts"], seen["late words"]) > 0


def test_a_broken_rule_is_noticed_among_many_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that passes over selectors is stopped by that rule."""
    monkeypatch.setattr(Atlas, "selected", lambda *_: -1)
    with pytest.raises(BrokenRuleError) as caught:
        Fleet(7, hosts=100, tasks=3000).run()
    assert caught.value.rule is Rule.PLACEMENT
