"""An engine in front of which a recipe stands: requests are prepared beside the threads that compute."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from inferd.core.vigil import STEPPING, Doing, Pulse
from inferd.engine.cause import last_line
from inferd.engine.recipe.room import WANTED, UnwantedError
from inferd.engine.tensor.request import TensorResult
from inferd.engine.token.output import Ended
from inferd.errors import InferdError, InternalError, is_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.engine.recipe.dictation import Dictation
    from inferd.engine.recipe.preparation import Preparation
    from inferd.engine.tensor.loop import TensorLoop
    from inferd.engine.tensor.request import Request
    from inferd.plugin import Tensor

_log = logging.getLogger(__name__)


class RecipeEngine:
    """Prepares requests, then has them computed.

    Requests outside a sequence are prepared by several threads, those of sequences by one, in the order in which they
    came. A suspect, which must run alone, is prepared when it does. As many are prepared as the loop has places.

    Args:
        loop: What computes.
        preparation: The recipe, held against the model.
        deliver: As the loop's.
        threads: That prepare.
    """

    def __init__(
        self,
        loop: TensorLoop | Dictation,
        preparation: Preparation,
        deliver: Callable[[TensorResult], None],
        *,
        threads: int,
    ) -> None:
        self._loop = loop
        self._preparation = preparation
        self._deliver = deliver
        self._free = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
        self._ordered = ThreadPoolExecutor(1, thread_name_prefix="prepare in order")
        self._lock = threading.Lock()
        self._preparing: dict[int, bool] = {}  # outside sequences, by handle: whether somebody waits for it
        self._in_line: set[int] = set()  # of sequences
        self._stopped = False

    def submit(self, request: Request) -> None:
        """Run a task, as `TensorLoop.submit`."""
        with self._lock:
            if self._stopped:
                return
            if request.sequence is not None:
                self._in_line.add(request.handle)
                self._ordered.submit(self._pass_on, request)
            else:
                self._preparing[request.handle] = True
                self._free.submit(self._pass_on, request)

    def cancel(self, handle: int, *, again: bool = False) -> None:
        """Forget a task, as `TensorLoop.cancel`; one that is prepared goes no further."""
        with self._lock:
            known = handle in self._preparing
            if known:
                self._preparing[handle] = False
            elif handle in self._in_line and not self._stopped:
                self._ordered.submit(self._loop.cancel, handle, again=again)  # the loop knows what is behind it
                return
        if known:
            self._preparation.forget()
        else:
            self._loop.cancel(handle, again=again)

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """As `TensorLoop.hold`."""
        self._loop.hold(lease_id, fencing_token, sequences=sequences, kv_tokens=kv_tokens)

    def stop(self) -> None:
        """Let `run` return; nothing more is prepared."""
        with self._lock:
            self._stopped = True
        self._free.shutdown(wait=False, cancel_futures=True)
        self._ordered.shutdown(wait=False, cancel_futures=True)
        self._loop.stop()

    def run(self) -> None:
        """Compute until `stop`."""
        self._loop.run()

    def pulse(self) -> Pulse:
        """What is done for longest, by the threads that compute or by those that decode pictures and sounds."""
        pulse, decoded = self._loop.pulse(), self._preparation.longest()
        if decoded is None or (pulse.doing in STEPPING and pulse.seconds >= decoded[1]):
            return replace(pulse, turn=2 * pulse.turn)
        turn, seconds = decoded
        return Pulse(doing=Doing.DECODE, turn=2 * turn + 1, seconds=seconds, usual_s=None, steps=pulse.steps)

    def _pass_on(self, request: Request) -> None:
        """Prepare a request and have it computed, or tell why it cannot be. The life of one task of a pool."""
        handle = request.handle
        mark = WANTED.set(lambda: self._preparing.get(handle, True))  # one of a sequence has its turn in any case
        try:
            ready = self._prepare(request)
        except UnwantedError:
            with self._lock:
                self._leave(request)
            return
        except BaseException as error:
            if not is_failure(error):
                raise
            if not isinstance(error, InferdError):
                _log.exception("a request could not be prepared")
                error = InternalError(f"the inputs cannot be prepared: {last_line(error)}")
            with self._lock:
                wanted = self._leave(request)
            if wanted:
                self._deliver(TensorResult(ended=[Ended(handle=request.handle, error=error)]))
            return
        finally:
            WANTED.reset(mark)
        with self._lock:  # so that no cancel comes between
            if self._leave(request):
                self._loop.submit(ready)

    def _leave(self, request: Request) -> bool:
        """A request is prepared; whether somebody waits for it."""
        self._in_line.discard(request.handle)
        return self._preparing.pop(request.handle, True)

    def _prepare(self, request: Request) -> Request:
        if not WANTED.get()():
            raise UnwantedError
        preparation, carried = self._preparation, request.sequence is not None
        wanted = request.outputs

        def finish(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return preparation.finish(wanted, inputs, outputs)

        def prepare() -> Mapping[str, Tensor]:
            return preparation.prepare(request.inputs, carried=carried)

        outputs = preparation.choose(wanted)
        if request.alone and not carried:
            return replace(request, inputs={}, outputs=outputs, finish=finish, prepare=prepare)
        return replace(request, inputs=prepare(), outputs=outputs, finish=finish)
