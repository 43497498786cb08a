"""An engine over the folder of a tiny network, for tests: its greedy answers to conversations."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_cells import cells_of

from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended, StepOutput
from inferd.engine.token.submission import Submission
from inferd.engine.work import ChatInput
from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.sampling import Sampling
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC

DEADLINE_S = 120


class TinyEngine:
    """A loop over a folder; steps are so small that a prompt takes several."""

    count = 8  # tokens of an answer

    def __init__(self, folder: Path, **settings: str) -> None:
        given = read_settings(SPEC, {"block_tokens": "4", "max_sequences": "4", "max_step_tokens": "24", **settings})
        request = LoadRequest(path=folder, device="cpu:0", settings=given, capacity_bytes=4 << 30)
        self.model: Any = TorchBackend().load(request, lambda _: None)
        self.tokens: dict[int, list[int]] = {}
        self.ended: dict[int, Ended] = {}
        self._changed = threading.Condition()
        self._loop = Loop(self.model, EngineLimits(), self._take, cells=cells_of(self.model.vocabulary))
        self._thread = threading.Thread(target=self._loop.run)
        self._thread.start()

    def ask_chat(self, chat: ChatInput, *, sent: Sequence[ChatInput] = (), **more: Any) -> list[int]:
        """The answer to a conversation, beside others that are `sent` with it."""
        handles = []
        for each in (chat, *sent):
            handles.append(len(self.tokens) + 1)
            self.tokens[handles[-1]] = []
            sampling = Sampling(temperature=0, max_tokens=self.count, ignore_eos=True)
            self._loop.submit(Submission(handles[-1], each, sampling, **more))
        with self._changed:
            assert self._changed.wait_for(lambda: all(each in self.ended for each in handles), DEADLINE_S)
        if (error := self.ended[handles[0]].error) is not None:
            raise error
        return self.tokens[handles[0]]

    def close(self) -> None:
        self._loop.stop()
        self._thread.join(DEADLINE_S)

    def _take(self, output: StepOutput) -> None:
        at = 0
        for handle, count in zip(output.handles, output.counts, strict=True):
            self.tokens[handle] += output.token_ids[at : at + count]
            at += count
        with self._changed:
            self.ended |= {ended.handle: ended for ended in output.ended}
            self._changed.notify_all()
