"""GGUF models that see by a projector's file, for tests: their files, and an engine over them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_pictures as tiny
import torch
from shared_cells import cells_of
from tiny_projectors import write_decoder, write_projector

from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended, StepOutput
from inferd.engine.token.submission import Submission
from inferd.engine.work import ChatInput, Message
from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.sampling import Sampling
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC

DEADLINE_S = 240
COUNT = 8
FIRST, SECOND = tiny.make_picture(40, 25), tiny.make_picture(20, 33, seed=1)
Content = list[str | bytes]
TALKS: list[Content] = [
    ["one, two, 3:", FIRST, "what?"],
    [FIRST, "and", SECOND, "what is it?"],
    ["no picture"],
]


@dataclass(frozen=True)
class Files:
    """A decoder, its projector, and the network that both are of."""

    folder: Path
    network: Any
    kind: str

    @property
    def decoder(self) -> Path:
        return self.folder / "tiny.gguf"

    @property
    def projector(self) -> Path:
        return self.folder / "mmproj.gguf"

    def answer(self, content: Content) -> Any:
        """What transformers says."""
        parts = [
            {"type": "text", "text": each} if isinstance(each, str) else {"type": "image", "image": each}
            for each in content
        ]
        messages = [{"role": "user", "content": parts}]
        return tiny.answer(self.kind, self.network, self.folder, messages, count=COUNT)


@contextmanager
def files_of(kind: str, folder: Path) -> Iterator[Files]:
    """The files of a network of a kind, written below a folder; transformers computes on one thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Files(folder, tiny.write_folder(kind, folder), kind)
    write_decoder(made.network, folder, made.decoder)
    write_projector(made.network, made.projector)
    yield made
    torch.set_num_threads(threads)


def make_request(files: Files, **settings: str) -> LoadRequest:
    sizes = {"block_tokens": "4", "max_sequences": "4", "max_step_tokens": "24", "projector": str(files.projector)}
    given = read_settings(SPEC, {**sizes, **settings})
    return LoadRequest(path=files.decoder, device="cpu:0", settings=given, capacity_bytes=4 << 30)


class Engine:
    """A loop over a model; steps are so small that a prompt takes several."""

    def __init__(self, request: LoadRequest) -> None:
        self.model: Any = CpuBackend().load(request, lambda _: None)
        self.tokens: dict[int, list[int]] = {}
        self.ended: dict[int, Ended] = {}
        self._changed = threading.Condition()
        self._loop = Loop(self.model, EngineLimits(), self._take, cells=cells_of(self.model.vocabulary))
        self._thread = threading.Thread(target=self._loop.run)
        self._thread.start()

    def ask(self, content: Content, **more: Any) -> list[int]:
        handle = len(self.tokens) + 1
        self.tokens[handle] = []
        parts = tuple(each for each in content if isinstance(each, str))
        images = tuple(n for n, each in enumerate(content) if isinstance(each, bytes))
        given = tuple(each for each in content if isinstance(each, bytes))
        chat = ChatInput((Message("user", "", parts=parts, images=images),), files=given)
        sampling = Sampling(temperature=0, max_tokens=COUNT, ignore_eos=True)
        self._loop.submit(Submission(handle, chat, sampling, **more))
        with self._changed:
            assert self._changed.wait_for(lambda: handle in self.ended, DEADLINE_S)
        if (error := self.ended[handle].error) is not None:
            raise error
        return self.tokens[handle]

    def close(self) -> None:
        self._loop.stop()
        self._thread.join(DEADLINE_S)
        self.model.session.close()

    def _take(self, output: StepOutput) -> None:
        at = 0
        for handle, count in zip(output.handles, output.counts, strict=True):
            self.tokens[handle] += output.token_ids[at : at + count]
            at += count
        with self._changed:
            self.ended |= {ended.handle: ended for ended in output.ended}
            self._changed.notify_all()
