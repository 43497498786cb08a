"""`inferd.v1.ExplanationService`."""

from inferd.explanation_settings import Explanations as Limits
from inferd.runtime.front.explained import Told, Wanted
from inferd.runtime.front.explaining import Explaining
from inferd.services.calls import Call
from inferd.services.dataset_values import READ_DATASET
from inferd.services.explanation_values import read_wanted, write_plan, write_told
from inferd.services.indexes import READ_INDEX, check_vectors
from inferd_api.v1 import explanation_pb2 as ep
from inferd_api.v1 import explanation_service_pb2 as es


class Explanations:
    """Translates; see the proto for what each call means."""

    def __init__(self, explaining: Explaining, *, limits: Limits, prompt_limit_bytes: int) -> None:
        self._explaining = explaining
        self._limits = limits
        self._prompt_limit_bytes = prompt_limit_bytes

    async def PlanExplanation(self, request: es.PlanExplanationRequest, call: Call) -> es.PlanExplanationResponse:  # noqa: N802 - the wire's name
        """What an explanation would cost."""
        wanted = self._read(request.spec, call)
        return es.PlanExplanationResponse(plan=write_plan(await self._explaining.plan(wanted, call.caller)))

    async def Explain(self, request: es.ExplainRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Explain an answer."""

        async def tell(told: Told) -> None:
            await call.write(write_told(told))

        wanted = self._read(request.spec, call)
        await self._explaining.explain(wanted, call.caller, tell)

    def _read(self, spec: ep.ExplanationSpec, call: Call) -> Wanted:
        """What is asked for, by one who may read what examples are looked for in, and have their vectors made."""
        wanted = read_wanted(spec, self._limits, prompt_limit_bytes=self._prompt_limit_bytes)
        if (source := wanted.examples) is None:
            return wanted
        if source.index:
            call.admission.check(READ_INDEX)
            check_vectors(call, self._explaining.index_of(source, call.caller))
        else:
            call.admission.check(READ_DATASET)
            call.admission.check_models((source.model,))
        return wanted
