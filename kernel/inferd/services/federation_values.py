"""Federations, between the wire and values."""

import json
import math
from typing import Any

from google.protobuf.duration_pb2 import Duration

from inferd.core.federation import (
    LEAST_MASKED,
    Federation,
    FederationAggregation,
    FederationCompression,
    FederationPlan,
    Privacy,
    RoundPhase,
    RoundReport,
)
from inferd.errors import InvalidFieldError
from inferd.runtime.front.federation_round import Complaint, Keys, Openings, Part, Shares, Update
from inferd.runtime.front.federations import Ordered
from inferd.services.status import status_of
from inferd_api.v1 import federation_pb2 as fp
from inferd_api.v1 import federation_service_pb2 as fs

NANOS = 1_000_000_000
MOST_ROUNDS, MOST_TITLE, MOST_RECIPE = 10_000, 128, 64 << 10
SPANS_S = (1.0, 86_400.0)
DEADLINE_S, ANSWER_S, WAIT_S, MOST_WAIT_S = 600.0, 30.0, 30.0, 60.0
MOST_NOISE, MOST_RATE, MOST_PROXIMAL = 1000.0, 100.0, 100.0
LEAST_NOISE, MOST_CLIP = 1e-3, 1e6
LEAST_STEP = 2.0**-24  # to which updates are rounded: less noise than that would be none
MOST_TRIMMED = 512  # clients of which it is looked whether some stay
ROBUST = frozenset({FederationAggregation.TRIMMED_MEAN, FederationAggregation.KRUM})


def read_plan(plan: fp.FederationPlan) -> FederationPlan:
    """What a federation is to do.

    Raises:
        InvalidFieldError: A field has a value outside what it allows, or two do not go together.
    """
    for name, value, most in (
        ("size", plan.size, (1 << 32) - 1),
        ("rounds", plan.rounds, MOST_ROUNDS),
        ("clients", plan.clients, (1 << 32) - 1),
    ):
        if not 1 <= value <= most:
            raise _wrong(name, f"is {value}; it must be from 1 to {most}")
    if len(plan.title) > MOST_TITLE:
        raise _wrong("title", f"has {len(plan.title)} characters; at most {MOST_TITLE}")
    adam = plan.aggregation == fp.FEDERATION_AGGREGATION_FED_ADAM
    read = FederationPlan(
        recipe=_read_recipe(plan.recipe_json),
        title=plan.title,
        size=plan.size,
        counts=plan.counts,
        rounds=plan.rounds,
        clients=plan.clients,
        least_clients=plan.least_clients or plan.clients // 2 + 1,
        deadline_s=_span(plan, "deadline", DEADLINE_S),
        answer_s=_span(plan, "answer_deadline", ANSWER_S),
        aggregation=_kind(FederationAggregation, "aggregation", plan.aggregation or 1),
        learning_rate=_number("learning_rate", plan.learning_rate or (0.01 if adam else 1.0), MOST_RATE),
        proximal=_number("proximal", plan.proximal, MOST_PROXIMAL, zero=True),
        trim=_number("trim", plan.trim or 0.1, 0.5),
        false_clients=plan.false_clients,
        keep=plan.keep or 1,
        secure=plan.secure,
        compression=_kind(FederationCompression, "compression", plan.compression or 1),
        share=_number("share", plan.share or 0.1, 1.0),
        privacy=_read_privacy(plan.privacy) if plan.HasField("privacy") else None,
    )
    _check_together(read)
    return read


def _check_together(plan: FederationPlan) -> None:
    """Refuse what does not go together."""
    least, krum = plan.least_clients, plan.aggregation is FederationAggregation.KRUM
    masked = plan.secure
    came = range(least, min(plan.clients, least + MOST_TRIMMED) + 1)  # of more, at least a whole one stays
    for wrong, name, why in (
        (
            least > plan.clients,
            "least_clients",
            f"is {least}, and clients is {plan.clients}; it may be as much at most",
        ),
        (
            plan.aggregation is FederationAggregation.TRIMMED_MEAN and any(_trims_all(plan.trim, n) for n in came),
            "trim",
            f"is {plan.trim:g}, which leaves nothing of some numbers of updates from {least} on; trim less",
        ),
        (plan.trim >= 0.5, "trim", "is 0.5; it must be below, or no update would be left"),  # noqa: PLR2004 - half
        (
            masked and (least < LEAST_MASKED or 2 * least <= plan.clients),
            "least_clients",
            f"is {least} of {plan.clients}; masked updates need at least {LEAST_MASKED} and more than half",
        ),
        (masked and plan.aggregation in ROBUST, "aggregation", "needs single updates, and secure hides them"),
        (
            masked and plan.compression is not FederationCompression.NONE,
            "compression",
            "changes updates so that they cannot be masked; leave it out, or secure",
        ),
        (
            plan.privacy is not None and plan.privacy.clip * plan.privacy.noise < LEAST_STEP * math.sqrt(least),
            "privacy.clip",
            (
                f"times noise is so little that the part of each of {least} clients is below {LEAST_STEP:g}, to which"
                " updates are rounded; take more"
            ),
        ),
        (plan.privacy is not None and plan.aggregation in ROBUST, "privacy", "needs FED_AVG or FED_ADAM"),
        (
            plan.privacy is not None and plan.compression is not FederationCompression.NONE,
            "compression",
            "sends with later updates what the bound of privacy has cut off; leave it out, or privacy",
        ),
        (plan.privacy is not None and plan.counts > 0, "counts", "are not private; leave them out, or privacy"),
        (
            krum and least < 2 * plan.false_clients + 3,
            "least_clients",
            f"is {least}; Krum with {plan.false_clients} false clients needs {2 * plan.false_clients + 3}",
        ),
        (
            krum and plan.keep > least - plan.false_clients,
            "keep",
            f"is {plan.keep}; {least - plan.false_clients} at most",
        ),
        (plan.counts == 1, "counts", "is 1; counts are at least one number and how many rows there are"),
    ):
        if wrong:
            raise _wrong(name, why)


def _trims_all(trim: float, clients: int) -> bool:
    """Whether the trimmed mean, as `inferd_federation.aggregate` has it, leaves none of so many."""
    return 2 * math.ceil(trim * clients - 1e-9) >= clients


def _wrong(name: str, why: str) -> InvalidFieldError:
    return InvalidFieldError(f"plan.{name} {why}", field=f"plan.{name}")


def _read_recipe(recipe: str) -> str:
    if not 1 <= len(recipe.encode()) <= MOST_RECIPE:
        raise _wrong("recipe_json", f"has {len(recipe.encode())} bytes; it must have 1 to {MOST_RECIPE}")
    try:
        said = json.loads(recipe)
    except (ValueError, RecursionError) as error:
        raise _wrong("recipe_json", f"is no JSON: {type(error).__name__}") from None
    if not isinstance(said, dict):
        raise _wrong("recipe_json", "is no object")
    return recipe


def _kind(kinds: Any, name: str, value: int) -> Any:
    if value not in {each.value for each in kinds}:
        names = ", ".join(f"{each.value} ({each.name})" for each in kinds)
        raise _wrong(name, f"is {value}; it must be one of {names}")
    return kinds(value)


def _number(name: str, value: float, most: float, *, zero: bool = False) -> float:
    if not (value >= 0 if zero else value > 0) or not value <= most:
        raise _wrong(name, f"is {value:g}; it must be {'from' if zero else 'above'} 0 and at most {most:g}")
    return value


def _span(plan: fp.FederationPlan, name: str, default: float) -> float:
    if not plan.HasField(name):  # type: ignore[arg-type] # one of two names
        return default
    value = _seconds(getattr(plan, name))
    if not SPANS_S[0] <= value <= SPANS_S[1]:
        raise _wrong(name, f"is {value:g} s; it must be from {SPANS_S[0]:g} to {SPANS_S[1]:g}")
    return value


def _seconds(span: Duration) -> float:
    return float(span.seconds + span.nanos / NANOS)


def _read_privacy(privacy: fp.FederationPrivacy) -> Privacy:
    delta = privacy.delta or 1e-5
    if not 0 < delta < 1:
        raise _wrong("privacy.delta", f"is {delta:g}; it must be above 0 and below 1")
    if not privacy.noise >= LEAST_NOISE:
        raise _wrong("privacy.noise", f"is {privacy.noise:g}; it must be at least {LEAST_NOISE:g}")
    return Privacy(
        clip=_number("privacy.clip", privacy.clip, MOST_CLIP),
        noise=_number("privacy.noise", privacy.noise, MOST_NOISE),
        delta=delta,
    )


def read_place(place: fs.RoundPlace) -> tuple[int, int, int]:
    """A place, as values have it."""
    return place.round, place.attempt, place.phase


def read_wait(request: fs.PollRoundRequest) -> float:
    """How long to wait, in seconds.

    Raises:
        InvalidFieldError: It is too long, or less than nothing.
    """
    value = _seconds(request.wait) if request.HasField("wait") else WAIT_S
    if not 0 <= value <= MOST_WAIT_S:
        raise InvalidFieldError(f"wait is {value:g} s; it must be from 0 to {MOST_WAIT_S:g}", field="wait")
    return value


def read_part(request: fs.SubmitRoundPartRequest) -> Part:
    """What a client gives.

    Raises:
        InvalidFieldError: It gives nothing.
    """
    match request.WhichOneof("part"):
        case "keys":
            return Keys(request.keys.sealing, request.keys.masking)
        case "shares":
            return Shares(dict(request.shares.sealed))
        case "update":
            loss = request.update.loss
            return Update(request.update.content, request.update.examples, loss if math.isfinite(loss) else 0.0)
        case "openings":
            return Openings(dict(request.openings.seeds), dict(request.openings.keys))
        case "complaint":
            return Complaint(frozenset(request.complaint.clients))
        case _:
            message = "the request has no part; set keys, shares, update, openings or complaint"
            raise InvalidFieldError(message, field="keys")


def write_ordered(ordered: Ordered, client: int) -> fs.PollRoundResponse:
    """What a client is to do, for the wire."""
    federation, answers = ordered.federation, ordered.answers
    written = fs.PollRoundResponse(state=fp.FederationState.ValueType(federation.state.value))
    if not ordered.is_wanted:
        return written
    phase = fp.RoundPhase.ValueType(federation.phase.value)
    written.place.MergeFrom(fs.RoundPlace(round=federation.round, attempt=federation.attempt, phase=phase))
    written.context = federation.context
    match federation.phase:
        case RoundPhase.KEYS:
            written.keys.SetInParent()
        case RoundPhase.SHARES:
            keys = answers[RoundPhase.KEYS]
            for each in federation.roster:
                if isinstance(given := keys[each], Keys):
                    written.shares.roster[each].MergeFrom(fs.ClientKeys(sealing=given.sealing, masking=given.masking))
            written.shares.threshold = federation.threshold
        case RoundPhase.UPDATES:
            written.update.MergeFrom(fs.UpdateWanted(weights=ordered.weights, counts=ordered.counts))
            for each, shares in answers.get(RoundPhase.SHARES, {}).items():
                if each != client and isinstance(shares, Shares):
                    written.update.sealed[each] = shares.sealed[client]
        case _:
            written.openings.survivors.extend(federation.survivors)
    return written


def write_federation(federation: Federation, answered: int, *, rounds: bool = True) -> fp.Federation:
    """A federation for the wire."""
    written = fp.Federation(
        federation_id=federation.federation_id,
        tenant=federation.tenant,
        plan=write_plan(federation.plan),
        state=fp.FederationState.ValueType(federation.state.value),
        joined=len(federation.clients),
        round=federation.round,
        attempt=federation.attempt,
        rounds=map(_write_round, federation.rounds) if rounds else (),
        epsilon=federation.epsilon,
        error=None if federation.error is None else status_of(federation.error),
    )
    written.create_time.FromNanoseconds(int(federation.created * NANOS))
    if federation.finished is not None:
        written.finish_time.FromNanoseconds(int(federation.finished * NANOS))
    if not federation.ended:
        written.phase = fp.RoundPhase.ValueType(federation.phase.value)
        written.taking_part = len(federation.roster)
        written.answered = answered
        written.phase_end_time.FromNanoseconds(int(federation.phase_ends * NANOS))
    return written


def _write_round(report: RoundReport) -> fp.FederationRound:
    written = fp.FederationRound(
        number=report.number,
        attempt=report.attempt,
        began=report.began,
        clients=len(report.clients),
        examples=report.examples,
        length=report.length,
        loss=report.loss,
        sum_digest=f"sha256:{report.digest}" if report.digest else "",
        client_numbers=report.clients,
    )
    written.start_time.FromNanoseconds(int(report.started * NANOS))
    written.finish_time.FromNanoseconds(int(report.finished * NANOS))
    return written


def write_plan(plan: FederationPlan) -> fp.FederationPlan:
    """A plan for the wire, with what it did not say."""
    privacy = plan.privacy
    written = fp.FederationPlan(
        title=plan.title,
        recipe_json=plan.recipe,
        size=plan.size,
        counts=plan.counts,
        rounds=plan.rounds,
        clients=plan.clients,
        least_clients=plan.least_clients,
        aggregation=fp.FederationAggregation.ValueType(plan.aggregation.value),
        learning_rate=plan.learning_rate,
        proximal=plan.proximal,
        trim=plan.trim,
        false_clients=plan.false_clients,
        keep=plan.keep,
        secure=plan.secure,
        compression=fp.FederationCompression.ValueType(plan.compression.value),
        share=plan.share,
        privacy=None
        if privacy is None
        else fp.FederationPrivacy(clip=privacy.clip, noise=privacy.noise, delta=privacy.delta),
    )
    written.deadline.FromNanoseconds(int(plan.deadline_s * NANOS))
    written.answer_deadline.FromNanoseconds(int(plan.answer_s * NANOS))
    return written
