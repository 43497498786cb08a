"""What becomes of an exception in a thread that a program has started: it ends that thread, and fails its requests."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import inferd
from inferd.engine.program.session import failed, is_fault, place
from inferd.engine.program.utils import InferenceRequest, InferenceResponseSender, TritonModelException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.engine.program.reply import Reply

PROGRAM: Final = "inferd_program"
"""The module that a `model.py` becomes."""
OURS: Final = str(Path(inferd.__file__).parent)
THEIRS: Final = sys.modules[InferenceRequest.__module__].__file__ or ""
"""What programs call may be all that a thread of theirs does."""

_log = logging.getLogger(__name__)


def spares(args: threading.ExceptHookArgs) -> bool:
    """Whether the failed thread is a program's own; its requests, which have no end yet, have failed with it then."""
    error, module = args.exc_value, sys.modules.get(PROGRAM)
    if module is None or error is None or not is_fault(error) or _is_ours(error):
        return False
    _log.error("a thread of the program failed", exc_info=error)
    for each in _held(error):
        each.fail_if_open(failed(place(error, str(module.__file__)), each.model))
    return True


def _is_ours(error: BaseException) -> bool:
    """Whether the thread began in code of the kernel."""
    files = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    first = next((file for file in files if file != threading.__file__), "")
    return first.startswith(OURS) and first != THEIRS


def _held(error: BaseException) -> Iterator[Reply]:
    """Those of the requests and senders that the thread had at hand."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, InferenceRequest | InferenceResponseSender):
                with suppress(TritonModelException):  # a request that the program has made
                    yield value.reply
