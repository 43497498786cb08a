"""A loop over the fake model, whose outputs follow grammars."""

import json
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferd.core.task import FinishReason
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.submission import Continuation, Submission
from inferd.engine.work import ChatInput, Message
from inferd.errors import InferdError
from inferd.plugin import LoadRequest
from inferd.sampling import Grammar, GrammarKind, Sampling
from inferd.testing.fake import FakeBackend
from inferd.testing.kernel import write_fake_model

if TYPE_CHECKING:
    from inferd.engine.token.output import StepOutput

DEADLINE_S = 60.0


def schema(value: Any) -> Grammar:
    """The grammar of a JSON schema."""
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(value))


class Answers:
    """A loop over the fake model, which answers a chat with its words."""

    def __init__(self, folder: Path) -> None:
        request = LoadRequest(path=write_fake_model(folder), device="fake:0", capacity_bytes=1 << 30)
        self.outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
        self.loop = Loop(FakeBackend().load(request, lambda _: None), EngineLimits(), self.outputs.put)

    def run(
        self, *tasks: tuple[str, Sampling], continuation: Continuation | None = None
    ) -> list[tuple[str, FinishReason | InferdError]]:
        """Text and end of each task, all run at once; as what each has told in another engine, if it has."""
        for handle, (words, sampling) in enumerate(tasks):
            chat = ChatInput((Message("user", words),))
            self.loop.submit(Submission(handle, chat, sampling, continuation=continuation))
        thread = threading.Thread(target=self.loop.run)
        thread.start()
        texts = [""] * len(tasks)
        ends: dict[int, FinishReason | InferdError] = {}
        try:
            while len(ends) < len(tasks):
                output = self.outputs.get(timeout=DEADLINE_S)
                for handle, text in zip(output.handles, output.texts, strict=True):
                    texts[handle] += text
                ends |= {ended.handle: ended.error or ended.reason for ended in output.ended}
        finally:
            self.loop.stop()
            thread.join(DEADLINE_S)
        return [(texts[handle], ends[handle]) for handle in range(len(tasks))]


def greedy(grammar: Grammar | None = None, **more: Any) -> Sampling:
    """The likeliest token each time."""
    return Sampling(temperature=0, grammar=grammar, **({"max_tokens": 40} | more))
