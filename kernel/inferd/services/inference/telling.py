"""The output of a language model in the words of the Open Inference Protocol."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from inferd.core import task_events as te
from inferd.core.task import FinishReason
from inferd.services.inference.language import OUTPUTS
from inferd.services.inference.tensors import write_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.services.inference.language import Wish
    from inferd_api.inference import grpc_service_pb2 as gp

REASONS: Final = {
    FinishReason.UNSPECIFIED: "None",
    FinishReason.END_OF_TEXT: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.MAX_TOKENS: "length",
}
"""As vLLM says them."""


class Telling:
    """What has come of a task of a language model and was not told yet.

    Args:
        wish: How it is told.
    """

    def __init__(self, wish: Wish) -> None:
        count = wish.samples
        self._wish = wish
        self._texts = [[wish.before] for _ in range(count)]
        self._tokens = [0] * count
        self._logprobs: list[list[float]] = [[] for _ in range(count)]
        self._sums = [0.0] * count
        self._reasons = [FinishReason.UNSPECIFIED] * count
        self._prompt_tokens = 0
        self._has_new = False

    @property
    def streams(self) -> bool:
        """Whether it is told as it comes."""
        return self._wish.streams

    @property
    def has_new(self) -> bool:
        """Whether something is to be told before the end."""
        return self._wish.streams and self._has_new

    def take(self, event: te.TaskEvent) -> None:
        """Something has come."""
        if isinstance(event, te.Output) and event.sample < self._wish.samples:
            place = event.sample
            self._has_new = True
            self._texts[place].append(event.text)
            self._tokens[place] += len(event.token_ids)
            if event.logprobs is not None:
                self._logprobs[place].extend(event.logprobs.logprobs)
                self._sums[place] += sum(event.logprobs.logprobs)
            if event.reason is not FinishReason.UNSPECIFIED:
                self._reasons[place] = event.reason
        elif isinstance(event, te.Finished):
            self._prompt_tokens = event.outcome.usage.prompt_tokens
            if self._wish.samples == 1:
                self._reasons[0] = event.outcome.reason

    def write(self, into: gp.ModelInferResponse) -> None:
        """All that was not told yet, into a response without outputs."""
        for name in self._wish.told:
            shape, raw = self._output(name)
            into.outputs.add(name=name, datatype=OUTPUTS[name][0], shape=shape)
            into.raw_output_contents.append(raw)
        self._texts = [[] for _ in range(self._wish.samples)]
        self._logprobs = [[] for _ in range(self._wish.samples)]
        self._tokens = [0] * self._wish.samples
        self._has_new = False

    def _output(self, name: str) -> tuple[Sequence[int], bytes]:
        """The sizes and the elements of an output."""
        count = self._wish.samples
        match name:
            case "text_output":
                return (count,), write_texts(["".join(each) for each in self._texts])
            case "finish_reason":
                return (count,), write_texts([REASONS[each] for each in self._reasons])
            case "num_input_tokens":
                return (1,), struct.pack("<I", self._prompt_tokens)
            case "num_output_tokens":
                return (count,), struct.pack(f"<{count}I", *self._tokens)
            case "output_log_probs":
                longest = max(map(len, self._logprobs))
                rows = [number for each in self._logprobs for number in (*each, *[0.0] * (longest - len(each)))]
                return (count, longest), struct.pack(f"<{len(rows)}f", *rows)
            case _:
                return (count,), struct.pack(f"<{count}f", *self._sums)
