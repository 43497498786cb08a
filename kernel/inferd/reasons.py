"""Errors by their reasons: as they come over links, and as they were kept."""

from collections.abc import Mapping

from inferd import adapter_errors as adapter_errors  # noqa: PLC0414 - they are of the tree, too
from inferd import dataset_errors as dataset_errors  # noqa: PLC0414 - as above
from inferd.errors import InferdError, InternalError
from inferd.evaluation_errors import EvaluationNotFoundError  # noqa: F401 - likewise
from inferd.federation_errors import FederationNotFoundError  # noqa: F401 - a reason, as all of that module
from inferd.function_errors import FunctionFailedError  # noqa: F401 - a reason, as all of that module
from inferd.index_errors import IndexNotFoundError  # noqa: F401 - a reason, as all of that module
from inferd.pipeline_errors import PipelineRunNotFoundError  # noqa: F401 - a reason
from inferd.training_errors import TrainingFailedError  # noqa: F401 - a reason, as all of that module

BY_REASON: Mapping[str, type[InferdError]] = {kind.reason: kind for kind in InferdError.__subclasses__()}
"""Every error class by its reason."""


def from_reason(reason: str, message: str, metadata: Mapping[str, str] | None = None) -> InferdError:
    """Build the error of a reason that came over a link; an unknown reason is an `InternalError`.

    The wrong field of a request, if there is one, travels as the fact "field".
    """
    facts = dict(metadata or {})
    field = facts.pop("field", "")
    return BY_REASON.get(reason, InternalError)(message, metadata=facts, field=field)
