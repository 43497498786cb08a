"""Which bundle a model was imported from last, and which are older."""

import pytest

from inferd.cli.bundles.imported import LABEL, check_newer, label_of
from inferd.cli.bundles.manifest import Facts
from inferd.cli.output import CommandError

NOON, LATER = "2026-11-29T12:00:00+00:00", "2026-11-29T14:00:00+01:00"
OLDER = [(2, LATER), (3, "2026-11-29T11:59:59"), (9, "2026-11-29T12:59:59+01:00")]


@pytest.mark.parametrize(("version", "time"), OLDER)
def test_an_older_bundle_is_refused_with_both(version: int, time: str) -> None:
    """One of a lower version, or made before what was imported last, is refused with both versions and times."""
    labels = label_of(Facts(name="chat", version=3, time=NOON))
    with pytest.raises(CommandError, match=rf"is version {version} of chat, .*version 3 of chat, made {NOON[:19]}"):
        check_newer(Facts(name="chat", version=version, time=time), labels)


def test_what_is_not_older_passes() -> None:
    """The same bundle again, a newer one, one of another model, and any where nothing is known of the last one."""
    labels = label_of(Facts(name="chat", version=3, time=NOON))
    for facts in (Facts(name="chat", version=3, time=NOON), Facts(name="chat", version=3, time=LATER)):
        check_newer(facts, labels)
    check_newer(Facts(name="chat", version=4), labels)
    check_newer(Facts(name="tiny", version=1, time="2026-01-01T00:00:00Z"), labels)
    for said in ({}, {LABEL: "mine"}, {LABEL: "3"}, {LABEL: "²² - chat"}):
        check_newer(Facts(name="chat", version=1, time=NOON), said)
