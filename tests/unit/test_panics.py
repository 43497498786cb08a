"""Panics of Rust code, which `except Exception` lets pass, at each edge to it; real ones of `tokenizers`."""

import json
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shared_cells import cells_of
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from inferd.core.task import FinishReason
from inferd.engine.text.quickness import LINEAR_BYTES
from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.token.intake import Intake
from inferd.engine.token.limits import Bounds, EngineLimits
from inferd.engine.token.loop import Loop
from inferd.engine.token.submission import Submission
from inferd.engine.work import TextInput
from inferd.errors import BackendFailedError, InternalError, ModelLoadError, is_failure
from inferd.plugin import LoadRequest, TokenLimits, Vocabulary
from inferd.plugin.probe import answer
from inferd.sampling import Sampling
from inferd.testing.fake import FakeBackend
from inferd.testing.kernel import write_fake_model
from inferd.worker.frames import answer_frame
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from inferd.engine.token.output import StepOutput

DEADLINE_S = 60.0
LIMITS = TokenLimits(
    vocabulary_size=300, context_tokens=1 << 20, block_tokens=16, blocks=1 << 16, max_sequences=1, max_step_tokens=16
)


def panic(*_: Any, **__: Any) -> Any:
    decoders.Strip("a", left=5, right=5).decode(["a", ""])


def definition(**model: Any) -> Vocabulary:
    """A tokenizer that panics with each text; or, by its model, when it is made."""
    inner = Inner(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.FixedLength(0)
    inner.decoder = decoders.ByteLevel()
    text = json.loads(inner.to_str())
    text["model"] |= model
    return Vocabulary(algorithm="json", definition=json.dumps(text).encode(), eos_ids=(1,))


def panicking_intake() -> Intake:
    vocabulary = definition()
    return Intake(vocabulary, Bounds.of(LIMITS, EngineLimits()), cells=cells_of(vocabulary), limits=EngineLimits())


def test_what_a_panic_is() -> None:
    """A panic is no Exception, and is a failure all the same; ends of the process are none."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - its class has no name to import
        panic()
    assert not isinstance(caught.value, Exception)
    assert is_failure(caught.value)
    assert is_failure(ValueError())
    assert not is_failure(SystemExit())
    assert not is_failure(KeyboardInterrupt())


def test_while_a_tokenizer_is_made() -> None:
    """A tokenizer that panics when it is made is a model that cannot be loaded, with the cause."""
    with pytest.raises(ModelLoadError, match="PanicException"):
        Tokenizer(definition(continuing_subword_prefix="##", merges=[["a", "b"]]), size=300)


def test_while_a_question_is_answered() -> None:
    """A question whose text makes the tokenizer panic is answered with an error."""
    frame = answer_frame(panicking_intake(), task_pb2.Query(query_id=1, input=task_pb2.Input(prompt="abc")))
    assert frame.answer.failure.reason == "INTERNAL"
    assert "chunk size must be non-zero" in frame.answer.failure.message


def test_while_a_long_text_is_encoded_elsewhere() -> None:
    """A panic in the process that encodes long texts is an error of the task."""
    with pytest.raises(InternalError, match="chunk size must be non-zero"):
        panicking_intake().tokenize(TextInput("a" * (LINEAR_BYTES + 1)))


def run(loop: Loop, outputs: "queue.SimpleQueue[StepOutput]", count: int) -> dict[int, Any]:
    thread = threading.Thread(target=loop.run)
    thread.start()
    ends: dict[int, Any] = {}
    while len(ends) < count:
        ends |= {ended.handle: ended.error or ended.reason for ended in outputs.get(timeout=DEADLINE_S).ended}
    loop.stop()
    thread.join(DEADLINE_S)
    return ends


def make_loop(folder: Path) -> tuple[Loop, "queue.SimpleQueue[StepOutput]"]:
    outputs: queue.SimpleQueue[StepOutput] = queue.SimpleQueue()
    request = LoadRequest(path=write_fake_model(folder), device="fake:0", capacity_bytes=1 << 30)
    return Loop(FakeBackend().load(request, lambda _: None), EngineLimits(), outputs.put), outputs


def test_while_a_task_is_prepared(tmp_path: Path) -> None:
    """A text that makes the tokenizer panic costs its task, and the next one ends as ever."""
    loop, outputs = make_loop(tmp_path)
    tokenizer = loop._reception._intake._tokenizer
    encode = tokenizer.encode
    tokenizer.encode = lambda text, **more: panic() if text == "!" else encode(text, **more)  # type: ignore[method-assign]
    loop.submit(Submission(1, TextInput("!"), Sampling(temperature=0, max_tokens=3)))
    loop.submit(Submission(2, TextInput("ab"), Sampling(temperature=0, max_tokens=3)))
    ends = run(loop, outputs, 2)
    assert isinstance(ends[1], InternalError)
    assert ends[2] == FinishReason.MAX_TOKENS


def test_while_a_step_is_computed(tmp_path: Path) -> None:
    """A backend that panics in a step fails the tasks of the step, and not the worker."""
    loop, outputs = make_loop(tmp_path)
    session = loop._forward._session
    step = session.step
    faults = [panic]
    session.step = lambda batch: faults.pop()() if faults else step(batch)  # type: ignore[method-assign]
    loop.submit(Submission(1, TextInput("ab"), Sampling(temperature=0, max_tokens=3)))
    ends = run(loop, outputs, 1)
    assert isinstance(ends[1], BackendFailedError)
    assert "PanicException" in ends[1].message


def test_while_a_plugin_is_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose import panics is one that failed, with the cause."""
    (tmp_path / "panicking_plugin.py").write_text(
        "from tokenizers import decoders\ndecoders.Strip('a', left=5, right=5).decode(['a', ''])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert str(answer("panicking_plugin")["error"]).startswith("PanicException")
