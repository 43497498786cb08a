from pathlib import Path

from inferd.core.task import ChatInput, FinishReason, Message, Sampling, TextInput, TokenInput, Usage
from inferd.engine.limits import EngineLimits
from inferd.engine.output import Ended, PrefillProgress, StepOutput
from inferd.errors import InvalidFieldError, PromptTooLongError
from inferd.plugin import LoadRequest
from inferd.worker.frames import failure, read_input, read_load, read_sampling, step_frame
from inferd_api.worker.v1 import worker_pb2 as wire


def test_load() -> None:
    """A load comes with its settings in their types, None where the backend derives one, and the engine's bounds."""
    settings = {
        "none": wire.SettingValue(),
        "int": wire.SettingValue(int_value=0),
        "float": wire.SettingValue(float_value=0.5),
        "bool": wire.SettingValue(bool_value=False),
        "str": wire.SettingValue(str_value=""),
    }
    limits = wire.EngineLimits(step_tokens=7, template_timeout_s=0.5, max_output_tokens=9)
    request, bounds = read_load(wire.Load(path="/a/model", device="cpu:0", settings=settings, limits=limits))
    expected = {"none": None, "int": 0, "float": 0.5, "bool": False, "str": ""}
    assert request == LoadRequest(path=Path("/a/model"), device="cpu:0", settings=expected)
    assert {name: type(value) for name, value in request.settings.items()} == {n: type(v) for n, v in expected.items()}
    assert bounds == EngineLimits(step_tokens=7, template_timeout_s=0.5, max_output_tokens=9)


def test_inputs() -> None:
    """Each kind of input keeps its kind, an empty text too."""
    chat = wire.Chat(messages=[wire.Message(role="user", content="hi")])
    assert read_input(wire.Submit(prompt="")) == TextInput("")
    assert read_input(wire.Submit(chat=chat)) == ChatInput((Message("user", "hi"),))
    assert read_input(wire.Submit(tokens=wire.Tokens(ids=[1, 2]))) == TokenInput((1, 2))


def test_sampling() -> None:
    """Every parameter arrives; `max_tokens` may be unset, and zero is a value."""
    full = wire.Sampling(
        max_tokens=0, temperature=0.5, top_k=3, top_p=0.25, seed=2**64 - 1, stop=["a"], ignore_eos=True
    )
    assert read_sampling(full) == Sampling(
        max_tokens=0, temperature=0.5, top_k=3, top_p=0.25, seed=2**64 - 1, stop=("a",), ignore_eos=True
    )
    assert read_sampling(wire.Sampling()).max_tokens is None


def test_step() -> None:
    """The columns of a step arrive as they are, with how tasks ended."""
    error = PromptTooLongError("too long", metadata={"limit_tokens": "5"})
    output = StepOutput(
        handles=[4, 2],
        counts=[1, 2],
        token_ids=[7, 8, 9],
        texts=["a", "é"],
        ended=[
            Ended(
                handle=4,
                reason=FinishReason.STOP_STRING,
                usage=Usage(prompt_tokens=1, cached_tokens=2, output_tokens=3),
            ),
            Ended(handle=5, error=error),
        ],
        prefills=[PrefillProgress(6, 0.5)],
    )
    ended = wire.Ended(
        handle=4,
        finish_reason=FinishReason.STOP_STRING.value,
        prompt_tokens=1,
        cached_tokens=2,
        output_tokens=3,
    )
    refused = wire.Ended(
        handle=5,
        failure=wire.Failure(reason="PROMPT_TOO_LONG", message="too long", metadata={"limit_tokens": "5"}),
    )
    assert step_frame(output).step == wire.StepOutput(
        handles=[4, 2],
        counts=[1, 2],
        token_ids=[7, 8, 9],
        texts=["a", "é"],
        ended=[ended, refused],
        prefills=[wire.PrefillProgress(handle=6, fraction=0.5)],
    )


def test_failure_is_bounded() -> None:
    """An error names its field, and a message of any length fits into a frame."""
    sent = failure(InvalidFieldError("x" * 10**7, field="spec.input", metadata={"cause": "y" * 10**7}))
    assert sent.metadata["field"] == "spec.input"
    assert sent.ByteSize() < 10_000
