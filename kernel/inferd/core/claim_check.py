"""Whether a claim could be served at all."""

from collections.abc import Mapping

from inferd.core.admission import check_stranded, find_model
from inferd.core.broker import Broker
from inferd.core.claims import sums
from inferd.core.ids import ModelName
from inferd.core.lease import CoresClaim, LeaseSpec, MemoryClaim, ModelClaim
from inferd.core.model import Model
from inferd.core.resources import size_text
from inferd.errors import InvalidFieldError


def check_possible(spec: LeaseSpec, broker: Broker, models: Mapping[ModelName, Model]) -> None:
    """Refuse a lease that claims more than there is at all.

    Raises:
        InvalidFieldError: It does, or a device is not known.
        ModelNotFoundError: A model is not known.
        ModelLoadError: A model can be loaded nowhere any more.
    """
    memory, cores = sums(spec)
    for number, claim in enumerate(spec.claims):
        where = f"spec.claims[{number}]"
        match claim:
            case MemoryClaim():
                account = broker.account(claim.device_id, field=f"{where}.memory.device_id")
                if memory[claim.device_id] > account.capacity_bytes:
                    raise InvalidFieldError(
                        f"{size_text(memory[claim.device_id])} of {claim.device_id} are claimed, which has"
                        f" {size_text(account.capacity_bytes)} to give",
                        field=f"{where}.memory.bytes",
                    )
            case CoresClaim():
                account = broker.account(claim.device_id, field=f"{where}.cores.device_id")
                if cores[claim.device_id] > account.cores:
                    raise InvalidFieldError(
                        f"{cores[claim.device_id]} cores of {claim.device_id} are claimed, which has {account.cores}",
                        field=f"{where}.cores.cores",
                    )
            case ModelClaim():
                _check_model(claim, where, models, broker)
                if sum(isinstance(c, ModelClaim) and c.model == claim.model for c in spec.claims) > 1:
                    message = f"model {claim.model!r} is claimed twice; add the claims up"
                    raise InvalidFieldError(message, field=f"{where}.model.model")


def _check_model(claim: ModelClaim, where: str, models: Mapping[ModelName, Model], broker: Broker) -> None:
    model = find_model(models, claim.model)
    check_stranded(model, broker.atlas)
    facts = next((i.facts for i in model.shared if i.facts is not None), None)
    if facts is None:
        return
    for name, wanted, there in (
        ("sequences", claim.sequences, facts.max_tasks),
        ("kv_tokens", claim.kv_tokens, facts.kv_tokens),
    ):
        if wanted > there:
            message = f"{name} is {wanted}; an instance of {claim.model!r} has {there}"
            raise InvalidFieldError(message, field=f"{where}.model.{name}")
