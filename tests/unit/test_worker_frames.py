from array import array
from pathlib import Path
from typing import Any

import pytest

from inferd.core.commands import SendTask
from inferd.core.ids import InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import FinishReason, TaskSpec, Usage
from inferd.core.task_events import Logprobs, PromptOutput
from inferd.engine.token.limits import EngineLimits, GrammarLimits
from inferd.engine.token.output import Ended, PrefillProgress, SampleEnd, StepOutput
from inferd.engine.token.submission import Submission
from inferd.engine.work import ChatInput, Embedding, Message, TextInput, TokenInput
from inferd.errors import InvalidFieldError, PromptTooLongError, UnsupportedInputError
from inferd.plugin import LoadRequest
from inferd.plugin.backend import Pooling
from inferd.runtime.frames import read_logprobs, read_prompt, submit_frame
from inferd.sampling import ENGINE_DEFAULTS, PARAMETERS, Grammar, GrammarKind, Sampling
from inferd.services.work_values import read_work
from inferd.worker.frames import failure, read_input, read_load, read_submission, step_frame
from inferd_api.v1 import task_pb2 as pb
from inferd_api.v1.sampling_pb2 import Choice, SamplingParams
from inferd_api.v1.sampling_pb2 import Grammar as WireGrammar
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
    assert read_input(task_pb2.Input(prompt="")) == TextInput("")
    assert read_input(task_pb2.Input(chat=chat)) == ChatInput((Message("user", "hi"),))
    assert read_input(task_pb2.Input(tokens=task_pb2.Tokens(ids=[1, 2]))) == TokenInput(array("I", [1, 2]))


def sent(spec: pb.TaskSpec, **more: Any) -> Submission:
    """What a task of a client is for the engine, on its way through the kernel."""
    work, demand = read_work(spec, 1 << 20)
    told = TaskSpec(task_id=TaskId("t"), tenant=Tenant("x"), model=ModelName("m"), demand=demand, work=work, **more)
    submit = submit_frame(1, SendTask(InstanceId("i"), told, 1, fencing_token=2**63)).submit
    return read_submission(task_pb2.Submit.FromString(submit.SerializeToString()), ENGINE_DEFAULTS)


def test_task() -> None:
    """Every field of sampling that a client gives arrives in the engine as it was; what is left open is the model's."""
    full = SamplingParams(
        max_tokens=7,
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        seed=2**64 - 1,
        stop=["a"],
        ignore_eos=True,
        min_p=0.125,
        repetition_penalty=1.5,
        frequency_penalty=-0.5,
        presence_penalty=0.75,
        logit_bias={7: 2.0, 3: -1.5},
        bad_words=["b", "c"],
        n=4,
        logprobs=0,
        prompt_logprobs=2,
        min_tokens=5,
        stop_token_ids=[8, 9],
        echo=True,
        grammar=WireGrammar(choice=Choice(texts=["yes", "no"])),
        fit_max_tokens=True,
        penalty_window=64,
        dry_multiplier=0.5,
        dry_base=1.5,
        dry_allowed_length=3,
        dry_sequence_breakers=["."],
        dry_window=128,
        top_n_sigma=1.5,
        typical_p=0.5,
        xtc_probability=0.25,
        xtc_threshold=0.125,
        mirostat_tau=0.0,  # none, as there is a grammar
        mirostat_eta=0.25,
        prompt_logprobs_last=3,
        prompt_entropies=True,
    )
    assert {field.name for field, _ in full.ListFields()} == PARAMETERS.keys()  # or a new one is missing here
    message = pb.ChatMessage(role="user", content="hi", name="n", tool_calls_json="[]", tool_call_id="1")
    chat = pb.ChatPrompt(messages=[message], tools_json="[{}]")
    spec = pb.TaskSpec(chat=chat, sampling=full)
    submission = sent(spec, priority=Priority.HIGH, lease_id=LeaseId("l"))
    assert submission.task_input == ChatInput(
        (Message("user", "hi", name="n", tool_calls_json="[]", tool_call_id="1"),), "[{}]"
    )
    values: dict[str, Any] = {field.name: value for field, value in full.ListFields()} | {
        "stop": ("a",),
        "bad_words": ("b", "c"),
        "stop_token_ids": (8, 9),
        "dry_sequence_breakers": (".",),
        "logit_bias": ((3, -1.5), (7, 2.0)),
        "grammar": Grammar(GrammarKind.CHOICE, texts=("yes", "no")),
    }
    assert submission.sampling == Sampling(**values)
    assert submission.embedding is None
    assert submission.prefix_cache
    assert (submission.priority, submission.lease_id, submission.fencing_token) == (Priority.HIGH, "l", 2**63)
    plain = sent(pb.TaskSpec(prompt="")).sampling
    assert plain == Sampling(**ENGINE_DEFAULTS.numbers, seed=plain.seed)
    assert sent(pb.TaskSpec(prompt="x")).sampling.seed == plain.seed != 0  # it follows from the task's id


def test_embedding() -> None:
    """A task that wants an embedding arrives as one; pooling of the model is none."""
    params = pb.EmbeddingParams(pooling=pb.POOLING_MEAN, normalize=False)
    wanted = sent(pb.TaskSpec(prompt="", prefix_cache=False, embedding=params))
    assert (wanted.prefix_cache, wanted.embedding) == (False, Embedding(pooling=Pooling.MEAN, normalize=False))
    assert sent(pb.TaskSpec(prompt="", embedding=pb.EmbeddingParams())).embedding == Embedding()


@pytest.mark.parametrize("language", ["json_schema", "regex", "lark"])
def test_grammars(language: str) -> None:
    """Each language of grammars keeps its text."""
    grammar = WireGrammar(**{language: "text"})  # type: ignore[arg-type]
    read = sent(pb.TaskSpec(prompt="", sampling=SamplingParams(grammar=grammar))).sampling.grammar
    assert read == Grammar(GrammarKind[language.upper()], "text")


def test_work_of_no_known_kind() -> None:
    """Work that this worker has no kind for is refused as a defect, with the task's id."""
    with pytest.raises(ValueError, match="task t with work of no kind"):
        read_submission(task_pb2.Submit(task_id="t"), ENGINE_DEFAULTS)


def test_an_adapter_without_its_digest_is_not_left_out() -> None:
    """A task that names an adapter and not what it holds is refused, and never computed with none."""
    submit = task_pb2.Submit(task_id="t", work=task_pb2.Work(generate=task_pb2.Generate()))
    submit.work.adapter.name = "legal"
    with pytest.raises(UnsupportedInputError, match="'legal' came without the digest"):
        read_submission(submit, ENGINE_DEFAULTS)


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
        prompts={4: PromptOutput("p", array("I", (1, 2)), told, array("f", (0.5,)))},
    )
    step = step_frame(output).step
    assert list(step.samples) == [0, 1]
    assert list(step.sample_ends) == [
        step_pb2.SampleEnd(handle=4, sample=1, finish_reason=FinishReason.MAX_TOKENS.value),
    ]
    arrived = Logprobs(array("I", [7]), array("f", [-0.5]), array("I", [7, 8]), array("f", [-0.5, -1.5]))
    assert {place: read_logprobs(each) for place, each in step.logprobs.items()} == {1: arrived}
    assert [(each.handle, read_prompt(each)) for each in step.prompts] == [
        (4, PromptOutput("p", array("I", (1, 2)), arrived, array("f", (0.5,))))
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
