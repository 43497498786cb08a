"""Explanations of answers. `Explanations` and its async twin differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.explanation_pb2 import ExplanationMethod, ExplanationSpec, SpanUnit, TextSpan
from inferd_api.v1.explanation_service_pb2 import ExplainRequest, PlanExplanationRequest
from inferd_api.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import class_number
from inferd_client.options import ExplainOptions, strict
from inferd_client.prompts import write_prompt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from typing import Unpack

    from inferd_api.v1.explanation_pb2 import Explanation, ExplanationPlan
    from inferd_api.v1.explanation_service_pb2 import ExplainResponse
    from inferd_api.v1.explanation_service_pb2_grpc import ExplanationServiceAsyncStub
    from inferd_client.prompts import Prompt


@strict
class Explanations(Connection):
    """The explanations of a synchronous client."""

    @cached_property
    def _explanations(self) -> ExplanationServiceStub:
        return ExplanationServiceStub(self._channel)

    def explain(self, model: str, prompt: Prompt, **options: Unpack[ExplainOptions]) -> Explanation:
        """Explain which parts of a prompt matter for an answer; waits for it.

        Args:
            model: Name of a language model.
            prompt: A text, or a conversation; not token ids.
            options: As `ExplainOptions` says.

        Raises:
            InferdError: InvalidFieldError; LimitExceededError where it would cost more than may be; PromptTooLongError
                and others, of its tasks.
            ValueError: The prompt is none that can be explained.
        """
        explanation = None
        for response in self.follow_explanation(model, prompt, **options):
            if response.HasField("explanation"):
                explanation = response.explanation
        if explanation is None:
            raise ValueError("the kernel ended the call without an explanation")
        return explanation

    def follow_explanation(
        self, model: str, prompt: Prompt, **options: Unpack[ExplainOptions]
    ) -> Generator[ExplainResponse]:
        """As `explain`, with what it costs first, how far it is meanwhile, and the explanation last.

        Closing the generator ends it.
        """
        request = ExplainRequest(spec=explanation_spec(model, prompt, options))
        yield from self._stream(self._explanations.Explain, request, options.get("timeout_s"), options.get("lease"))

    def plan_explanation(self, model: str, prompt: Prompt, **options: Unpack[ExplainOptions]) -> ExplanationPlan:
        """What `explain` would cost with the same arguments; the model is loaded for that, and computes nothing."""
        request = PlanExplanationRequest(spec=explanation_spec(model, prompt, options))
        timeout_s, lease = options.get("timeout_s"), options.get("lease")
        return self._wait(self._explanations.PlanExplanation, request, timeout_s, lease).plan


@strict
class AsyncExplanations(AsyncConnection):
    """The explanations of an asynchronous client; each method is as its namesake in `Explanations`."""

    @cached_property
    def _explanations(self) -> ExplanationServiceAsyncStub:
        return ExplanationServiceStub(self._channel)

    async def explain(self, model: str, prompt: Prompt, **options: Unpack[ExplainOptions]) -> Explanation:
        """Explain which parts of a prompt matter for an answer. As `explain` of `Explanations`."""
        explanation = None
        async for response in self.follow_explanation(model, prompt, **options):
            if response.HasField("explanation"):
                explanation = response.explanation
        if explanation is None:
            raise ValueError("the kernel ended the call without an explanation")
        return explanation

    async def follow_explanation(
        self, model: str, prompt: Prompt, **options: Unpack[ExplainOptions]
    ) -> AsyncGenerator[ExplainResponse]:
        """What it costs, how far it is, and the explanation. As `follow_explanation` of `Explanations`."""
        request = ExplainRequest(spec=explanation_spec(model, prompt, options))
        responses = self._stream(self._explanations.Explain, request, options.get("timeout_s"), options.get("lease"))
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def plan_explanation(self, model: str, prompt: Prompt, **options: Unpack[ExplainOptions]) -> ExplanationPlan:
        """What `explain` would cost. As `plan_explanation` of `Explanations`."""
        request = PlanExplanationRequest(spec=explanation_spec(model, prompt, options))
        timeout_s, lease = options.get("timeout_s"), options.get("lease")
        return (await self._wait(self._explanations.PlanExplanation, request, timeout_s, lease)).plan


def explanation_spec(model: str, prompt: Prompt, options: ExplainOptions) -> ExplanationSpec:
    """What is to be explained, for the wire.

    Raises:
        ValueError: The prompt is none that can be explained.
    """
    method, unit = options.get("method") or "leave-one-out", options.get("unit") or "word"
    spec = ExplanationSpec(
        model=model,
        answer=options.get("answer") or "",
        max_answer_tokens=options.get("max_answer_tokens"),
        against=options.get("against") or "",
        method=ExplanationMethod.Value(f"EXPLANATION_METHOD_{method.upper().replace('-', '_')}"),
        unit=SpanUnit.Value(f"SPAN_UNIT_{unit.upper()}"),
        spans=[_span(each) for each in options.get("spans") or ()],
        samples=options.get("samples"),
        seed=options.get("seed") or 0,
        random_orders=options.get("random_orders"),
        alternatives=options.get("alternatives"),
        steps=options.get("steps"),
        examples=options.get("examples"),
        adapter=options.get("adapter") or "",
        priority=class_number(options.get("priority")),
    )
    write_prompt(spec, prompt)
    return spec


def _span(span: TextSpan | tuple[int, int]) -> TextSpan:
    return span if isinstance(span, TextSpan) else TextSpan(begin=span[0], end=span[1])
