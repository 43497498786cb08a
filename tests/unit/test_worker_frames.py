from array import array
from pathlib import Path

from inferd.core.commands import SendTask
from inferd.core.ids import InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import (
    ChatInput,
    Embedding,
    FinishReason,
    Grammar,
    GrammarKind,
    Message,
    Pooling,
    Sampling,
    TaskSpec,
    TextInput,
    TokenInput,
    Usage,
)
from inferd.core.task_events import Logprobs, PromptOutput
from inferd.engine.limits import EngineLimits, GrammarLimits
from inferd.engine.output import Ended, PrefillProgress, SampleEnd, StepOutput
from inferd.errors import InvalidFieldError, PromptTooLongError
from inferd.plugin import LoadRequest
from inferd.runtime.frames import read_logprobs, read_prompt, submit_frame
from inferd.worker.frames import failure, read_embedding, read_input, read_load, read_sampling, step_frame
from inferd_api.worker.v1 import failure_pb2, load_pb2, step_pb2, task_pb2


def test_load() -> None:
    """A load comes with its settings in their types, None where the backend derives one, and the engine's bounds."""
    settings = {
        "none": load_pb2.SettingValue(),
        "int": load_pb2.SettingValue(int_value=0),
        "float": load_pb2.SettingValue(float_value=0.5),
        "bool": load_pb2.SettingValue(bool_value=False),
        "str": load_pb2.SettingValue(str_value=""),
    }
    grammar = load_pb2.GrammarLimits(compile_s=1.5, step_s=2.5, wait_s=0.25, most=3)
    limits = load_pb2.EngineLimits(
        step_tokens=7, template_timeout_s=0.5, max_output_tokens=9, gap_s=0.5, cell_memory_bytes=99, grammar=grammar
    )
    load = load_pb2.Load(path="/a/model", device="cpu:0", settings=settings, limits=limits, capacity_bytes=2**40)
    request, bounds = read_load(load)
    expected = {"none": None, "int": 0, "float": 0.5, "bool": False, "str": ""}
    assert request == LoadRequest(path=Path("/a/model"), device="cpu:0", settings=expected, capacity_bytes=2**40)
    assert {name: type(value) for name, value in request.settings.items()} == {n: type(v) for n, v in expected.items()}
    assert bounds == EngineLimits(
        step_tokens=7,
        template_timeout_s=0.5,
        max_output_tokens=9,
        gap_s=0.5,
        cell_memory_bytes=99,
        grammar=GrammarLimits(compile_s=1.5, step_s=2.5, wait_s=0.25, most=3),
    )


def test_inputs() -> None:
    """Each kind of input keeps its kind, an empty text too."""
    chat = task_pb2.Chat(messages=[task_pb2.Message(role="user", content="hi")])
    assert read_input(task_pb2.Submit(prompt="")) == TextInput("")
    assert read_input(task_pb2.Submit(chat=chat)) == ChatInput((Message("user", "hi"),))
    assert read_input(task_pb2.Submit(tokens=task_pb2.Tokens(ids=[1, 2]))) == TokenInput(array("I", [1, 2]))


def test_task() -> None:
    """Every field of a task that the kernel sends arrives in the worker as it was; unset ones stay unset."""
    full = Sampling(
        max_tokens=0,
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        seed=2**64 - 1,
        stop=("a",),
        ignore_eos=True,
        min_p=0.125,
        repetition_penalty=1.5,
        frequency_penalty=-0.5,
        presence_penalty=0.75,
        logit_bias=((3, -1.5), (7, 2.0)),
        bad_words=("b", "c"),
        n=4,
        logprobs=0,
        prompt_logprobs=2,
        min_tokens=5,
        stop_token_ids=(8, 9),
        echo=True,
        grammar=Grammar(GrammarKind.CHOICE, texts=("yes", "no")),
    )
    message = Message("user", "hi", name="n", tool_calls_json="[]", tool_call_id="1")
    spec = TaskSpec(
        task_id=TaskId("t"),
        tenant=Tenant("x"),
        model=ModelName("m"),
        input=ChatInput((message,), "[{}]"),
        sampling=full,
        priority=Priority.HIGH,
        lease_id=LeaseId("l"),
    )
    submit = submit_frame(1, SendTask(InstanceId("i"), spec, 1, fencing_token=2**63)).submit
    assert read_sampling(submit.sampling) == full
    assert read_input(submit) == spec.input
    assert read_embedding(submit) is None
    assert (submit.priority, submit.lease_id, submit.fencing_token) == (Priority.HIGH, "l", 2**63)
    wanted = Embedding(pooling=Pooling.MEAN, normalize=False)
    plain = TaskSpec(
        task_id=TaskId("t"),
        tenant=Tenant("x"),
        model=ModelName("m"),
        input=TextInput(""),
        prefix_cache=False,
        adapter="a",
        embedding=wanted,
    )
    submit = submit_frame(1, SendTask(InstanceId("i"), plain, 1)).submit
    assert read_sampling(submit.sampling) == Sampling()
    assert (submit.priority, submit.lease_id, submit.fencing_token) == (Priority.NORMAL, "", 0)
    assert (submit.prefix_cache, submit.adapter, read_embedding(submit)) == (False, "a", wanted)


def test_details_of_a_step() -> None:
    """Samples, their ends, probabilities and what is told of a prompt leave the worker as they came from the engine."""
    told = Logprobs((7,), (-0.5,), (7, 8), (-0.5, -1.5))
    output = StepOutput(
        handles=[4, 4],
        counts=[1, 1],
        token_ids=[7, 8],
        texts=["a", "b"],
        samples=[0, 1],
        sample_ends=[SampleEnd(4, 1, FinishReason.MAX_TOKENS)],
        logprobs={1: told},
        prompts={4: PromptOutput("p", array("I", (1, 2)), told)},
    )
    step = step_frame(output).step
    assert list(step.samples) == [0, 1]
    assert list(step.sample_ends) == [
        step_pb2.SampleEnd(handle=4, sample=1, finish_reason=FinishReason.MAX_TOKENS.value),
    ]
    arrived = Logprobs(array("I", [7]), array("f", [-0.5]), array("I", [7, 8]), array("f", [-0.5, -1.5]))
    assert {place: read_logprobs(each) for place, each in step.logprobs.items()} == {1: arrived}
    assert [(each.handle, read_prompt(each)) for each in step.prompts] == [
        (4, PromptOutput("p", array("I", (1, 2)), arrived))
    ]


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
    ended = step_pb2.Ended(
        handle=4,
        finish_reason=FinishReason.STOP_STRING.value,
        prompt_tokens=1,
        cached_tokens=2,
        output_tokens=3,
    )
    refused = step_pb2.Ended(
        handle=5,
        failure=failure_pb2.Failure(reason="PROMPT_TOO_LONG", message="too long", metadata={"limit_tokens": "5"}),
    )
    assert step_frame(output).step == step_pb2.StepOutput(
        handles=[4, 2],
        counts=[1, 2],
        token_ids=[7, 8, 9],
        texts=["a", "é"],
        ended=[ended, refused],
        prefills=[step_pb2.PrefillProgress(handle=6, fraction=0.5)],
    )


def test_failure_is_bounded() -> None:
    """An error names its field, and a message of any length fits into a frame."""
    sent = failure(InvalidFieldError("x" * 10**7, field="spec.input", metadata={"cause": "y" * 10**7}))
    assert sent.metadata["field"] == "spec.input"
    assert sent.ByteSize() < 10_000
