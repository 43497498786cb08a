"""Labels of tasks that the kernel alone gives."""

import pytest

from inferd.core.ids import LeaseId, Tenant
from inferd.core.task import EVALUATION_LABEL, EXPLANATION_LABEL, TRAINING_LABEL, TRIAL_LABEL
from inferd.errors import InvalidFieldError
from inferd.runtime.functions import LABEL
from inferd.services.pipeline_values import PIPELINE_LABEL
from inferd.services.task_values import check_task_labels, read_spec
from inferd_api.v1 import task_pb2 as tp


def read(**labels: str) -> dict[str, str]:
    spec = tp.TaskSpec(model="m", prompt="x", labels=labels)
    made = read_spec(
        spec,
        task_id="1",
        tenant=Tenant("t"),
        deadline=None,
        request_id="",
        lease_id=LeaseId(""),
        prompt_limit_bytes=100,
    )
    return dict(made.labels)


@pytest.mark.parametrize(
    "label", [TRIAL_LABEL, TRAINING_LABEL, EVALUATION_LABEL, EXPLANATION_LABEL, PIPELINE_LABEL, LABEL]
)
def test_a_client_cannot_claim_that_the_kernel_has_made_its_task(label: str) -> None:
    """A label by which lists leave tasks out, or that says who made one, is refused, and the field is named."""
    with pytest.raises(InvalidFieldError, match=f"label '{label}' begins with 'inferd.'") as refused:
        read(**{label: "x"})
    assert refused.value.field == "spec.labels"
    with pytest.raises(InvalidFieldError) as refused:
        check_task_labels({label: "x"}, "labels")
    assert refused.value.field == "labels"


def test_labels_of_clients_and_gateways_stay_theirs() -> None:
    """Other labels are taken as they are, those of the gateway among them."""
    labels = {"inferd": "a", "openai.batch": "b", "traceparent": "c", "team.inferd.x": "d"}
    assert read(**labels) == labels
