"""Errors of pipelines, as `inferd.errors`: a class per reason."""

from inferd.errors import InferdError


class PipelineRunNotFoundError(InferdError):
    """No run of a pipeline of this id is known to this tenant."""

    reason = "PIPELINE_RUN_NOT_FOUND"
    code = "NOT_FOUND"
