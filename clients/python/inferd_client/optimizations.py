"""Finding settings of models that serve a target better. `Optimizations` and its async twin differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.optimize_pb2 import OptimizationTarget, OptimizeModelRequest
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from inferd_api.v1.optimize_pb2 import OptimizeModelResponse


@strict
class Optimizations(Connection):
    """The optimisations of models, of a synchronous client."""

    @cached_property
    def _optimizations(self) -> ModelServiceStub:
        return ModelServiceStub(self._channel)

    def optimize_model(
        self,
        name: str,
        text: str,
        *,
        target: str | None = None,
        most_loss: float | None = None,
        least_agreement: float | None = None,
        vary: Sequence[str] = (),
        trials: int | None = None,
        in_flight: int | None = None,
        prompt_tokens: int | None = None,
        output_tokens: int | None = None,
        text_tokens: int | None = None,
        seed: int | None = None,
        most_weights_bytes: int | None = None,
    ) -> Generator[OptimizeModelResponse]:
        """Try settings of a model on its host: the plan, each trial as it begins and ends, and last the report.

        Nothing of the model changes; give `report.settings` to `update_model`. Closing the generator ends the trials.

        Args:
            name: Of the model.
            text: Like those that it is used with; quality is measured on it.
            target: "throughput", "latency" or "memory"; default: "throughput".
            most_loss: By which part the perplexity may be higher than with the settings as they are; default: 0.01.
            least_agreement: At which part of places the likeliest token must be the same; default: 0.
            vary: The settings that are varied; default: all that the backend has of those that can be.
            trials: Most of them; default: `optimize.trials` of the kernel.
            in_flight: Tasks at once; default: 8.
            prompt_tokens: Of the prompt of each; default: 128.
            output_tokens: That each gives; default: 64.
            text_tokens: On so many of the text quality is measured; default: `optimize.text_tokens` of the kernel.
            seed: In which order values are tried; default: 0.
            most_weights_bytes: Weights of at most so many: narrow layers beside wide ones, which trials choose;
                excludes `target`, `vary`, `trials` and `seed`.

        Raises:
            InferdError: ModelNotFoundError; InvalidFieldError; LimitExceededError while another model is optimised;
                NoMemoryError when there is no room beside the model; ModelBusyError when others needed that.
        """
        yield from self._stream(
            self._optimizations.OptimizeModel,
            _request(
                name,
                text,
                target,
                most_loss,
                least_agreement,
                vary,
                trials,
                in_flight,
                prompt_tokens,
                output_tokens,
                text_tokens,
                seed,
                most_weights_bytes,
            ),
        )


@strict
class AsyncOptimizations(AsyncConnection):
    """The optimisations of models, of an asynchronous client; the method is as its namesake in `Optimizations`."""

    @cached_property
    def _optimizations(self) -> ModelServiceAsyncStub:
        return ModelServiceStub(self._channel)

    async def optimize_model(
        self,
        name: str,
        text: str,
        *,
        target: str | None = None,
        most_loss: float | None = None,
        least_agreement: float | None = None,
        vary: Sequence[str] = (),
        trials: int | None = None,
        in_flight: int | None = None,
        prompt_tokens: int | None = None,
        output_tokens: int | None = None,
        text_tokens: int | None = None,
        seed: int | None = None,
        most_weights_bytes: int | None = None,
    ) -> AsyncGenerator[OptimizeModelResponse]:
        """Try settings of a model on its host. As `optimize_model` of `Optimizations`."""
        responses = self._stream(
            self._optimizations.OptimizeModel,
            _request(
                name,
                text,
                target,
                most_loss,
                least_agreement,
                vary,
                trials,
                in_flight,
                prompt_tokens,
                output_tokens,
                text_tokens,
                seed,
                most_weights_bytes,
            ),
        )
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()


def _request(  # noqa: PLR0917 - as the methods, of each its keyword
    name: str,
    text: str,
    target: str | None,
    most_loss: float | None,
    least_agreement: float | None,
    vary: Sequence[str],
    trials: int | None,
    in_flight: int | None,
    prompt_tokens: int | None,
    output_tokens: int | None,
    text_tokens: int | None,
    seed: int | None,
    most_weights_bytes: int | None,
) -> OptimizeModelRequest:
    return OptimizeModelRequest(
        model=name,
        text=text,
        target=OptimizationTarget.Value(f"OPTIMIZATION_TARGET_{(target or 'unspecified').upper()}"),
        most_loss=most_loss,
        least_agreement=least_agreement,
        vary=vary,
        trials=trials,
        in_flight=in_flight,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        text_tokens=text_tokens,
        seed=seed or 0,
        most_weights_bytes=most_weights_bytes,
    )
