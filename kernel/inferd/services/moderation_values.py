"""Rules of moderation and flags between the wire and the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from inferd.core.moderation import FlagState, ModerationAction, ModerationSpaces
from inferd.errors import InvalidFieldError
from inferd.moderation.rules import Classifier, On, Rule
from inferd.services.auth import PATTERN_FORM
from inferd.services.times import read_seconds
from inferd_api.v1 import moderation_pb2 as pb

if TYPE_CHECKING:
    from enum import Enum

    from inferd.runtime.kept_moderation import Flag

Kind = TypeVar("Kind", bound="Enum")

NANOS = 1_000_000_000


def read_rule(given: pb.ModerationRule) -> Rule:
    """A rule that is to be made; what it looks for is checked where it is made.

    Raises:
        InvalidFieldError: A field is not as it may be.
    """
    for name in ("tenants", "models"):
        if (pattern := getattr(given, name)) and not PATTERN_FORM.fullmatch(pattern):
            raise InvalidFieldError(
                f"rule.{name} is {pattern[:80]!r}; it must be 1 to 128 of letters, digits, '._:/-' and '*'",
                field=f"rule.{name}",
            )
    on = set(On)
    if given.skip_inputs:
        on.discard(On.INPUT)
    if given.skip_outputs:
        on.discard(On.OUTPUT)
    return Rule(
        name=given.name,
        tenants=given.tenants or "*",
        models=given.models or "*",
        on=frozenset(on),
        words=tuple(given.words),
        patterns=tuple(given.patterns),
        span=given.span or 128,
        spaces=_read_enum(ModerationSpaces, given.spaces or ModerationSpaces.RUNS.value, "rule.spaces"),
        whole_words=given.whole_words,
        action=_read_enum(ModerationAction, given.action or ModerationAction.STOP.value, "rule.action"),
        replacement=given.replacement if given.HasField("replacement") else "[removed]",
        classifier=_read_classifier(given.classifier) if given.HasField("classifier") else None,
    )


def _read_enum(kind: type[Kind], number: int, field: str) -> Kind:
    try:
        return kind(number)
    except ValueError:
        known = ", ".join(f"{each.value} ({each.name})" for each in kind)
        raise InvalidFieldError(f"{field} is {number}; it must be {known}", field=field) from None


def _read_classifier(given: pb.ModerationClassifier) -> Classifier:
    deadline_s = read_seconds(given.deadline, "rule.classifier.deadline") if given.HasField("deadline") else 2.0
    return Classifier(
        model=given.model,
        labels=tuple(given.labels),
        least_score=given.least_score if given.HasField("least_score") else 0.5,
        prompt=given.prompt,
        window_chars=given.window_chars or 400,
        deadline_s=deadline_s,
        open_on_failure=given.open_on_failure,
    )


def write_rule(rule: Rule) -> pb.ModerationRule:
    """A rule for the wire."""
    written = pb.ModerationRule(
        name=rule.name,
        tenants=rule.tenants,
        models=rule.models,
        skip_inputs=On.INPUT not in rule.on,
        skip_outputs=On.OUTPUT not in rule.on,
        words=rule.words,
        patterns=rule.patterns,
        span=rule.span,
        spaces=pb.ModerationSpaces.ValueType(rule.spaces.value),
        whole_words=rule.whole_words,
        action=pb.ModerationAction.ValueType(rule.action.value),
        replacement=rule.replacement,
        configured=rule.origin == "config",
        unsound=rule.unsound,
    )
    if (asked := rule.classifier) is not None:
        told = written.classifier
        told.model, told.prompt, told.least_score = asked.model, asked.prompt, asked.least_score
        told.labels.extend(asked.labels)
        told.window_chars, told.open_on_failure = asked.window_chars, asked.open_on_failure
        told.deadline.FromNanoseconds(round(asked.deadline_s * NANOS))
    return written


def read_states(states: list[int]) -> set[FlagState]:
    """The states of flags that are asked for.

    Raises:
        InvalidFieldError: There is no such state.
    """
    return {_read_enum(FlagState, state, "states") for state in states}


def read_state(state: int) -> FlagState:
    """What was decided about a flag.

    Raises:
        InvalidFieldError: There is no such state.
    """
    return _read_enum(FlagState, state, "state")


def write_flag(flag: Flag) -> pb.Flag:
    """A flag for the wire."""
    return pb.Flag(
        flag_id=flag.flag_id,
        task_id=flag.task_id,
        tenant=flag.tenant,
        model=flag.model,
        rule=flag.rule,
        input=flag.is_input,
        excerpt=flag.excerpt,
        create_time=_timestamp(flag.created),
        state=pb.FlagState.ValueType(flag.state.value),
        resolve_time=None if flag.resolved is None else _timestamp(flag.resolved),
        resolved_by=flag.resolved_by,
        note=flag.note,
    )


def _timestamp(at: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(round(at * NANOS))
    return stamp
