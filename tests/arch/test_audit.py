"""What is said of advisories."""

from audit import judge

FOUND = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": ["CVE-1"]}
PACKAGES = [{"name": "a", "version": "1.0", "vulns": [FOUND]}, {"name": "b", "skip_reason": "not found"}]


def test_a_finding_fails_until_it_is_answered() -> None:
    """What is found is told with its fix; an answer by either name lets it pass; one that answers nothing is told."""
    told, wrong = judge(PACKAGES, {})
    assert told == "pip-audit: 1 of 2 packages looked up"
    assert wrong == ["a 1.0: PYSEC-1; fixed in 2.0"]
    assert judge(PACKAGES, {"CVE-1": "not used"})[1] == []
    assert len(judge(PACKAGES, {"CVE-1": "not used", "CVE-2": "gone"})[1]) == 1


def test_nothing_is_wrong_with_what_cannot_be_looked_up() -> None:
    """Where no package is known nothing is found, and answers stay: whether they still hold cannot be seen."""
    assert judge(PACKAGES[1:], {"CVE-1": "not used"}) == ("pip-audit: 0 of 1 packages looked up", [])
