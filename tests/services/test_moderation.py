"""Rules of moderation by the wire, with real workers: inputs, outputs, events, classifiers and what goes on."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import Connection, read_all, read_failing, reason_of

from inferd.moderation.rules import Rule
from inferd.runtime.kept_moderation import write_rule
from inferd.store.store import NO_TENANT, Kind, Put
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import audit_service_pb2 as aus
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import model_service_pb2
from inferd_api.v1 import moderation_pb2 as mp
from inferd_api.v1 import moderation_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.audit_service_pb2_grpc import AuditServiceStub
from inferd_api.v1.moderation_service_pb2_grpc import ModerationServiceStub
from inferd_api.v1.sampling_pb2 import SamplingParams

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES: list[dict[str, Any]] = [
    {"name": "cut", "words": ["hate"], "action": "redact", "replacement": "[x]", "on": ["output"]},
    {"name": "end", "words": ["forbidden"], "on": ["output"]},
    {"name": "in", "words": ["secret plan"], "on": ["input"]},
    {"name": "look", "words": ["curious"], "action": "flag"},
    {"name": "other", "models": "another-*", "words": ["la"]},
]


def asks(model: str, **more: Any) -> dict[str, Any]:
    asked = {"model": model, "labels": ["bad"], "prompt": "{text}", "window_chars": 20, "deadline_s": 20, **more}
    return {"name": f"asks-{model}", "models": f"by-{model}", "on": ["output"], "classifier": asked}


@asynccontextmanager
async def moderated(folder: Path, rules: list[dict[str, Any]], **settings: Any) -> AsyncIterator[Connection]:
    async with kernel_here(folder, moderation={"rules": rules}, workers={"restart_backoff_s": 0.01}, **settings) as k:
        made = Connection(k, folder)
        yield made
        await made.channel.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connection]:
    """A kernel with rules, a model that repeats what it is told, and classifiers that answer, die or are late."""
    asking = [asks("judge"), asks("dying"), asks("late", deadline_s=0.3), asks("missing")]
    async with moderated(tmp_path_factory.mktemp("moderated"), [*RULES, *asking]) as made:
        for name in ("fake", "judge", "by-judge", "by-dying", "by-late", "by-missing"):
            await made.create(name)
        await made.create("dying", die_on_token=ord("b"))
        await made.create("late", step_s=0.5)
        yield made


def said(events: list[tp.TaskEvent]) -> str:
    return "".join(event.output.text for event in events)


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("kept.sqlite*"))


def cuts(events: list[tp.TaskEvent]) -> list[tuple[str, int, int]]:
    return [(e.moderated.rule, e.moderated.action, e.moderated.spans) for e in events if e.HasField("moderated")]


async def test_what_a_rule_finds_is_replaced_and_said(kernel: Connection) -> None:
    """The text and the ids that a client gets have the replacement; an event names the rule and counts the spans."""
    events = await read_all(kernel.chat("I h\u0430te and h\u200bATE it"))
    assert said(events) == "I [x] and [x] it"
    ids = [token_id for event in events for token_id in event.output.token_ids if token_id < 256]
    assert bytes(ids).decode() == "I [x] and [x] it"
    assert {(rule, action) for rule, action, _ in cuts(events)} == {("cut", mp.MODERATION_ACTION_REDACT)}
    assert sum(spans for *_, spans in cuts(events)) == 2
    assert events[-1].finished.usage.output_tokens == len("I h\u0430te and h\u200bATE it".encode()) + 1
    again = await read_all(kernel.tasks.WatchTask(ts.WatchTaskRequest(task_id=events[0].task_id)))
    assert (said(again), sum(spans for *_, spans in cuts(again))) == ("I [x] and [x] it", 2)


async def test_a_rule_that_stops_ends_the_task(kernel: Connection) -> None:
    """What was told stays, and the error names the rule, not what it found."""
    events, error = await read_failing(kernel.chat("this is forBidden, and so on"))
    assert said(events) == "this is "
    assert reason_of(error)[0] == "MODERATED"
    assert reason_of(error)[1]["rule"] == "end"
    assert reason_of(error)[1]["on"] == "output"
    assert "forbidden" not in str(error).lower()
    assert cuts(events) == [("end", mp.MODERATION_ACTION_STOP, 1)]
    assert events[-1].finished.usage.output_tokens > len("this is ")
    stub: Any = AuditServiceStub(kernel.channel)  # type: ignore[no-untyped-call]
    lines = (await stub.ListAuditLines(aus.ListAuditLinesRequest(page_size=1000))).lines
    told = [each for each in map(json.loads, lines) if each.get("event") == "moderation"]
    assert [each["action"] for each in told if each["task_id"] == events[0].task_id] == ["stop"]
    assert not any("forbidden" in line.lower() for line in lines)


async def test_an_input_is_refused_before_it_is_read(kernel: Connection) -> None:
    """Whichever message has it, the task ends before its prompt is computed; so does one that wants an embedding."""
    messages = [tp.ChatMessage(role="system", content="the S3cret", name="x"), tp.ChatMessage(role="user", content="a")]
    messages[0].content = "a se\u00adcret  PLAN"
    spec = tp.TaskSpec(model="fake", chat=tp.ChatPrompt(messages=messages))
    events, error = await read_failing(kernel.tasks.RunTask(ts.RunTaskRequest(spec=spec)))
    assert (reason_of(error)[0], reason_of(error)[1]["on"]) == ("MODERATED", "input")
    assert not said(events)
    assert not events[-1].finished.usage.output_tokens
    spec = tp.TaskSpec(model="fake", tokens=tp.TokenPrompt(token_ids=list(b"the secret plan")))
    _, error = await read_failing(kernel.tasks.RunTask(ts.RunTaskRequest(spec=spec)))
    assert reason_of(error)[0] == "MODERATED"


async def test_several_samples_and_their_ends_are_held_each_for_itself(kernel: Connection) -> None:
    """Each sample is cut by itself, and tells why it ended."""
    spec = tp.TaskSpec(model="fake", sampling=SamplingParams(n=2, temperature=0, logprobs=0))
    spec.chat.messages.add(role="user", content="we hate ham")
    events = await read_all(kernel.tasks.RunTask(ts.RunTaskRequest(spec=spec)))
    for sample in (0, 1):
        own = [event.output for event in events if event.HasField("output") and event.output.sample == sample]
        assert "".join(each.text for each in own) == "we [x] ham"
        assert [each.finish_reason for each in own if each.finish_reason] == [tp.FINISH_REASON_END_OF_TEXT]
        likely = bytes(each.token_id for output in own for each in output.logprobs if each.token_id < 256)
        assert likely == b"we  ham"


async def test_a_task_goes_on_behind_what_was_shown_and_is_cut_alike(kernel: Connection) -> None:
    """Suspended in the middle and resumed, an output under rules has no gap, no repetition and the same cuts."""
    await kernel.create("slow", step_s=0.01)
    spec = tp.TaskSpec(model="slow", sampling=SamplingParams(max_tokens=120, temperature=0, stop=["hab"]))
    spec.prompt = "we hate ham. "
    want = ("we [x] ham. " * 12)[: len("we [x] ham. ") * 9]
    call = kernel.tasks.RunTask(ts.RunTaskRequest(spec=spec))
    events: list[tp.TaskEvent] = []
    stopped = 0
    async for response in call:
        events.append(response.event)
        if len(said(events)) > 20 * (stopped + 1) and stopped < 3:
            stopped += 1
            await kernel.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=events[0].task_id))
            await kernel.tasks.ResumeTask(ts.ResumeTaskRequest(task_id=events[0].task_id))
    assert said(events).startswith(want), said(events)
    assert events[-1].finished.usage.output_tokens == 120


async def test_a_classifier_lets_through_or_ends(kernel: Connection) -> None:
    """A model is asked about each window by a task of its own; what it finds ends the output before that window."""
    assert said(await read_all(kernel.chat("none of it", model="by-judge"))) == "none of it"
    events, error = await read_failing(kernel.chat("bad is it", model="by-judge"))
    assert (said(events), reason_of(error)[0]) == ("", "MODERATED")


@pytest.mark.parametrize("model", ["dying", "late", "missing"])
async def test_without_an_answer_nothing_is_shown(kernel: Connection, model: str) -> None:
    """A classifier that dies of each question, is late, or is not there closes the stream, and the kernel lives."""
    events, error = await read_failing(kernel.chat("bad", model=f"by-{model}"))
    assert (said(events), reason_of(error)[0]) == ("", "MODERATION_UNAVAILABLE")
    assert reason_of(error)[1]["classifier"] == model
    assert said(await read_all(kernel.chat("all is well"))) == "all is well"


async def test_no_rules_hold_nothing(kernel: Connection) -> None:
    """A rule about other models is none."""
    assert said(await read_all(kernel.chat("la la"))) == "la la"


async def test_rules_of_calls_hold_at_once_and_are_refused_with_the_fix(kernel: Connection) -> None:
    """A rule that is made holds for the next task and no longer than until it is deleted; a pattern needs a bound."""
    stub: Any = ModerationServiceStub(kernel.channel)  # type: ignore[no-untyped-call]

    async def make(**rule: Any) -> Any:
        return await stub.CreateModerationRule(ms.CreateModerationRuleRequest(rule=mp.ModerationRule(**rule)))

    await make(name="new", words=["tulip"], action=mp.MODERATION_ACTION_REDACT, skip_inputs=True)
    assert said(await read_all(kernel.chat("a TULIP b"))) == "a [removed] b"
    listed = (await stub.ListModerationRules(ms.ListModerationRulesRequest())).rules
    assert [rule.name for rule in listed if not rule.configured] == ["new"]
    await stub.DeleteModerationRule(ms.DeleteModerationRuleRequest(name="new"))
    assert said(await read_all(kernel.chat("a TULIP b"))) == "a TULIP b"
    for wrong, words in (
        ({"name": "wide", "patterns": ["a.*b"]}, "bound its repetitions"),
        ({"name": "wider", "patterns": ["a{3,200}"]}, "matches 200 characters"),
        ({"name": "none", "patterns": ["(a"]}, "is no pattern of RE2: missing"),
        ({"name": "cut", "words": ["x"]}, "another name"),
        ({"name": "empty", "words": ["\u200b "]}, "give it a letter"),
        ({"name": "nothing"}, "looks for nothing"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
            await make(**wrong)
        assert reason_of(caught.value)[0] == "INVALID_FIELD"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.DeleteModerationRule(ms.DeleteModerationRuleRequest(name="cut"))
    assert reason_of(caught.value)[0] == "RULE_NOT_FOUND"


async def test_what_is_flagged_waits_for_a_person_and_outlives_the_kernel(tmp_path: Path) -> None:
    """What is given and what is given back are flagged, with what stands around; a decision is kept."""
    store = {"url": f"sqlite:{tmp_path / 'kept.sqlite'}"}
    async with moderated(tmp_path, RULES, store=store) as made:
        await made.create()
        assert said(await read_all(made.chat("how curious"))) == "how curious"
        stub: Any = ModerationServiceStub(made.channel)  # type: ignore[no-untyped-call]
        flags = (await stub.ListFlags(ms.ListFlagsRequest())).flags
        assert {(flag.rule, flag.input, flag.excerpt) for flag in flags} == {
            ("look", True, "how curious"),
            ("look", False, "how curious"),
        }
        request = ms.ResolveFlagRequest(flag_id=flags[0].flag_id, state=mp.FLAG_STATE_DISMISSED, note="fine")
        assert (await stub.ResolveFlag(request)).flag.note == "fine"
        rule = mp.ModerationRule(name="kept", words=["tulip"])
        await stub.CreateModerationRule(ms.CreateModerationRuleRequest(rule=rule))
    async with moderated(tmp_path, RULES, store=store) as made:
        stub = ModerationServiceStub(made.channel)  # type: ignore[no-untyped-call]
        left = (await stub.ListFlags(ms.ListFlagsRequest(states=[mp.FLAG_STATE_OPEN]))).flags
        assert [flag.flag_id for flag in left] == [flags[1].flag_id]
        flag = (await stub.GetFlag(ms.GetFlagRequest(flag_id=flags[0].flag_id))).flag
        assert (flag.state, flag.resolved_by) == (mp.FLAG_STATE_DISMISSED, "local")
        assert "kept" in [rule.name for rule in (await stub.ListModerationRules(ms.ListModerationRulesRequest())).rules]


async def test_a_kernel_that_starts_again_goes_on_behind_what_was_shown(tmp_path: Path) -> None:
    """What is kept of a task under rules has nothing of what was cut, and a kernel after this one goes on behind it."""
    store = {"url": f"sqlite:{tmp_path / 'kept.sqlite'}", "sealing": "off"}
    spec = tp.TaskSpec(model="fake", prompt="we h4te ham. ", sampling=SamplingParams(max_tokens=90, temperature=0))
    rules = [{"name": "cut", "words": ["h4te"], "action": "redact", "replacement": "[x]", "on": ["output"]}]
    async with moderated(tmp_path, rules, store=store) as made:
        await made.create(step_s=0.02)
        task = (await made.tasks.CreateTask(ts.CreateTaskRequest(spec=spec))).task
        before: list[tp.TaskEvent] = []
        async for response in made.tasks.WatchTask(ts.WatchTaskRequest(task_id=task.task_id)):
            before.append(response.event)
            if len(said(before)) > 30:
                break
    async with moderated(tmp_path, rules, store=store) as made:
        events = await read_all(made.tasks.WatchTask(ts.WatchTaskRequest(task_id=task.task_id)))
    assert said(events).startswith(said(before))
    assert "h4te" not in said(events)
    assert "[x]" in said(events)
    assert events[-1].finished.state == tp.TASK_STATE_SUCCEEDED
    shown = written(tmp_path)
    assert b"[x]" in shown
    assert shown.count(b"h4te") <= 2, "what the client gave is kept, and nothing of what was cut"


async def test_a_kept_rule_that_would_be_refused_now_is_told_and_lets_nothing_pass(tmp_path: Path) -> None:
    """One of another version, and one that nobody can read: by name, about what they are; until they are deleted."""
    store = {"url": f"sqlite:{tmp_path / 'kept.sqlite'}"}
    kept = {
        "old": write_rule(Rule(name="old", models="fake", patterns=("[[:alpha:]]x",), origin="stored")),
        "newer": json.dumps({"name": "newer", "models": "b*", "means": "harm"}).encode(),
        "good": write_rule(Rule(name="good", words=("tulip",), origin="stored")),
    }
    async with moderated(tmp_path, [], store=store) as made:
        assert made.kernel.driver.keeper is not None
        await made.kernel.driver.keeper.keep_records(
            [Put(NO_TENANT, Kind.MODERATION, name, value) for name, value in kept.items()]
        )
        for name in ("fake", "but", "other"):
            await made.create(name)
    async with moderated(tmp_path, [], store=store) as made:
        stub: Any = ModerationServiceStub(made.channel)  # type: ignore[no-untyped-call]
        rules = {rule.name: rule for rule in (await stub.ListModerationRules(ms.ListModerationRulesRequest())).rules}
        assert "cannot be measured" in rules["old"].unsound
        assert ("another version" in rules["newer"].unsound, rules["newer"].models) == (True, "b*")
        assert not rules["good"].unsound
        warnings = (await made.hosts.GetHost(hs.GetHostRequest())).host.warnings
        assert {name for name in rules for warning in warnings if repr(name) in warning} == {"old", "newer"}
        for model, rule in (("fake", "old"), ("but", "newer")):
            _, error = await read_failing(made.chat("hello", model=model))
            assert (reason_of(error)[0], f"rule {rule!r} is about this task" in (error.details() or "")) == (
                "MODERATION_UNAVAILABLE",
                True,
            )
        assert said(await read_all(made.chat("hello", model="other"))) == "hello"
        await stub.DeleteModerationRule(ms.DeleteModerationRuleRequest(name="old"))
        assert said(await read_all(made.chat("hello"))) == "hello"


async def test_a_rule_about_a_model_is_about_its_versions_and_one_that_looks_at_nothing_is_told(tmp_path: Path) -> None:
    """Who names a version passes no rule about its model; rules about an alias, no model and tensors are told."""
    rules = [
        {"name": "own", "models": "fake", "words": ["hate"]},
        {"name": "alias", "models": "prod", "words": ["hate"]},
        {"name": "typo", "models": "fqke", "words": ["hate"]},
        {"name": "tensors", "models": "net", "words": ["hate"]},
        {"name": "some", "models": "f*", "words": ["hate"]},
    ]
    async with moderated(tmp_path, rules) as made:
        await made.create("fake")
        await made.models.UpdateModel(model_service_pb2.UpdateModelRequest(name="fake", add_aliases=["prod"]))
        await made.create("net", tensor="identity")
        await made.models.LoadModel(model_service_pb2.LoadModelRequest(name="net"))
        for name in ("fake", "fake@1", "prod"):
            _, error = await read_failing(made.chat("I hate it", model=name))
            assert reason_of(error)[0] == "MODERATED"
        warnings = (await made.hosts.GetHost(hs.GetHostRequest())).host.warnings
        assert [warning.partition("looks at nothing")[0] for warning in warnings] == [
            f"rule of moderation {name!r} " for name in ("alias", "typo", "tensors")
        ]
        assert "an alias of 'fake'" in warnings[0]
