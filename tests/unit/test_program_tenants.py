"""A program that keeps states by the id of their sequence is told no two tenants' sequences by the same id."""

from typing import Any

import numpy as np
import pytest

from inferd.core.ids import DEFAULT_TENANT, Tenant
from inferd.engine.program import utils as pb
from inferd.engine.program.correlation import Correlation
from inferd.engine.program.lane import Lane
from inferd.engine.program.session import ProgramSession
from inferd.engine.program.signature import signature_of
from inferd.engine.tensor.loop import TensorLoop
from inferd.engine.tensor.request import Request, SequenceStep, TensorLimits, TensorResult
from inferd.errors import InvalidFieldError, UnsupportedInputError
from inferd.plugin import ElementType, LoadedTensorModel, ModelDescription, Tensor
from inferd.repository.programs import program_of
from inferd_api.inference import model_config_pb2 as cp

A, B = Tenant("a"), Tenant("b")


def config(kind: str) -> dict[str, Any]:
    control = {"kind": "CONTROL_SEQUENCE_CORRID", "data_type": kind}
    return {
        "input": [{"name": "x", "data_type": "TYPE_INT32", "dims": [1]}],
        "output": [{"name": "y", "data_type": "TYPE_INT32", "dims": [-1]}],
        "sequence_batching": {"control_input": [{"name": "ID", "control": [control]}]},
    }


def tensor(value: Any, kind: ElementType, dtype: Any) -> Tensor:
    return Tensor(element_type=kind, shape=(1,), array=np.array([value], dtype))


def told(kind: str, tenant: Tenant, name: str, said: Tensor) -> Any:
    step = SequenceStep(tenant=tenant, name=name)
    return Correlation(config(kind), "m").tell({"ID": said}, step)["ID"].array[0]


class Sums:
    """Keeps what each sequence was given, by its id."""

    def __init__(self) -> None:
        self.states: dict[Any, list[int]] = {}

    def execute(self, requests: list[pb.InferenceRequest]) -> Any:
        (request,) = requests
        given = pb.get_input_tensor_by_name(request, "x")
        assert given is not None
        state = self.states.setdefault(request.correlation_id(), [])
        state.append(int(given.as_numpy()[0]))
        return [pb.InferenceResponse([pb.Tensor("y", np.array(state, np.int32))])]


def test_two_tenants_with_one_name_meet_in_no_state() -> None:
    """However a task comes, and whatever it says in the input of the id: a state is of a tenant and a sequence."""
    results: list[TensorResult] = []
    whole = config("TYPE_UINT64")
    session = ProgramSession(
        Sums(), Lane(), name="m", path="model.py", signature=signature_of(whole), decoupled=False,
        correlation=Correlation(whole, "m"),
    )  # fmt: skip
    about = ModelDescription(architecture="", parameters=0, weight_format="", compute_format="")
    loop: TensorLoop

    def deliver(result: TensorResult) -> None:
        results.append(result)
        if sum(len(each.ended) for each in results) == 6:
            loop.stop()

    loop = TensorLoop(LoadedTensorModel(session=session, description=about), TensorLimits(), deliver)
    inputs = {"ID": tensor(7, ElementType.UINT64, np.uint64)}
    for handle, (tenant, value) in enumerate([(A, 1), (B, 2), (DEFAULT_TENANT, 3), (A, 4), (B, 5)], start=1):
        step = SequenceStep(tenant=tenant, name="7", start=handle < 4)
        given = {"x": tensor(value, ElementType.INT32, np.int32), **inputs}
        loop.submit(Request(handle=handle, inputs=given, sequence=step))
    loop.submit(Request(handle=6, inputs={"x": tensor(6, ElementType.INT32, np.int32), **inputs}))
    loop.run()
    outputs = {handle: sets["y"].array.tolist() for each in results for handle, sets in each.outputs}
    assert outputs == {1: [1], 2: [2], 3: [3], 4: [1, 4], 5: [2, 5]}
    errors = {each.handle: each.error for result in results for each in result.ended}
    assert isinstance(errors[6], InvalidFieldError)  # it names no sequence


def test_ids_are_those_of_clients_where_no_other_tenant_can_have_them() -> None:
    """The default tenant's are as they are said, in numbers and texts; those of others cannot be chosen or guessed."""
    number, text = tensor(7, ElementType.UINT64, np.uint64), tensor("7", ElementType.STRING, np.object_)
    most = str(2**64 - 1)
    assert told("TYPE_UINT64", DEFAULT_TENANT, most, number) == 2**64 - 1
    assert told("TYPE_STRING", DEFAULT_TENANT, "chat", text) == "chat"
    names = ["7", "07", "+7", "chat", "\u0667", most, "1" * 30]
    for kind, said in (("TYPE_UINT64", number), ("TYPE_INT64", tensor(7, ElementType.INT64, np.int64))):
        ids = {told(kind, tenant, name, said) for tenant in (A, B, DEFAULT_TENANT) for name in names}
        assert len(ids) == 3 * len(names)
    assert told("TYPE_STRING", A, "7", text) not in {"7", told("TYPE_STRING", B, "7", text)}
    small = tensor(7, ElementType.INT32, np.int32)
    assert told("TYPE_INT32", DEFAULT_TENANT, "7", small) == 7
    with pytest.raises(UnsupportedInputError, match="32 bits, too few"):
        told("TYPE_INT32", A, "7", small)


def test_a_program_that_could_not_tell_sequences_apart_is_refused() -> None:
    """Without a control for the id all sequences would be one state: the configuration is refused in words."""
    with pytest.raises(InvalidFieldError, match="has no control of kind CONTROL_SEQUENCE_CORRID"):
        program_of(cp.ModelConfig(sequence_batching=cp.ModelSequenceBatching()))
