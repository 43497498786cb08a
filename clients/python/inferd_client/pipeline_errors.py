"""Errors of pipelines; see `inferd_client.errors`."""

from inferd_client.error import InferdError


class PipelineRunNotFoundError(InferdError):
    """No run of a pipeline of this id is known to this tenant."""

    reason = "PIPELINE_RUN_NOT_FOUND"
    code = "NOT_FOUND"
