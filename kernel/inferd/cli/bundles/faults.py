"""What is said of a bundle that is not taken: a typed error that names what of it."""

from __future__ import annotations

from inferd.cli.output import CommandError


def damaged(what: str, **facts: object) -> CommandError:
    """A byte of a bundle is not what was written, or is missing."""
    return _fault("BUNDLE_DAMAGED", f"the bundle is damaged: {what}; get it again", facts)


def unknown(what: str, **facts: object) -> CommandError:
    """A file is no bundle, or one that this inferd cannot read."""
    return _fault("BUNDLE_UNKNOWN", what, facts)


def not_trusted(what: str, **facts: object) -> CommandError:
    """Nobody who is trusted has signed a bundle."""
    return _fault("BUNDLE_NOT_TRUSTED", what, facts)


def sealed(what: str, **facts: object) -> CommandError:
    """A bundle cannot be opened with what was given."""
    return _fault("BUNDLE_SEALED", what, facts)


def lacks_base(what: str, **facts: object) -> CommandError:
    """A bundle of what has changed needs what it has changed from."""
    return _fault("BUNDLE_BASE_MISSING", what, facts)


def older(what: str, **facts: object) -> CommandError:
    """A bundle is of before the one that was imported last."""
    return _fault("BUNDLE_OLDER", what, facts)


def too_much(bound: str, value: int, limit: int, what: str) -> CommandError:
    """A bound of the configuration was hit."""
    return _fault(
        "LIMIT_EXCEEDED",
        f"the bundle has {value} {what} and {bound} is {limit}; raise that setting if you expect so many",
        {"bound": bound, "value": value, "limit": limit},
    )


def _fault(reason: str, message: str, facts: dict[str, object]) -> CommandError:
    return CommandError(message, reason=reason, metadata={name: str(value) for name, value in facts.items()})
