"""Explanations of answers, by tasks of the caller; workers of the FakeBackend go on with what was there."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, reason_of
from time_limits import LONG_S

from inferd.core.ids import ModelName
from inferd.core.priority import Priority
from inferd.core.task import EXPLANATION_LABEL
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import explanation_pb2 as pb
from inferd_api.v1 import explanation_service_pb2 as es
from inferd_api.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt
from inferd_api.v1.task_service_pb2 import ListTasksRequest
from inferd_client import AsyncClient
from inferd_client.errors import InvalidFieldError, LimitExceededError
from inferd_client.explanation_pages import explanation_page

TEXT = "one two three four five six seven. "


def client(connection: Connection) -> AsyncClient:
    return AsyncClient(connection.kernel.addresses[0])


async def test_an_answer_is_explained_by_what_it_repeats(connection: Connection) -> None:
    """The span that the answer repeats has the highest score; its cost is what was stated, and no task of it stays."""
    await connection.create()
    async with client(connection) as made:
        told = [each async for each in made.follow_explanation("fake", TEXT, answer="one two", seed=5)]
        plan = await made.plan_explanation("fake", TEXT, answer="one two", seed=5)
        again = await made.explain("fake", TEXT, answer="one two", seed=5)
    first, *progress, last = told
    assert first.plan == plan
    assert [each.WhichOneof("kind") for each in progress] == ["progress"] * len(progress)
    assert progress[-1].progress.sequences_done == progress[-1].progress.sequences == last.explanation.cost.sequences
    found = last.explanation
    assert again.spans == found.spans
    assert again.faithfulness == found.faithfulness
    assert [each.text for each in found.spans] == ["one", " two", " three", " four", " five", " six", " seven. "]
    scores = [each.scores[0].score for each in found.spans]
    assert scores.index(max(scores)) == 0
    assert found.targets[0].value > found.targets[0].baseline
    assert b"".join(each.piece for each in found.tokens) == b"one two"
    assert all(each.logprob <= 0 <= each.entropy for each in found.tokens)
    assert {len(each.alternatives) for each in found.tokens} == {5}
    judged = found.faithfulness
    assert judged.ranked.deletion_area <= min(each.deletion_area for each in judged.random)
    assert found.cost.computed_tokens == pytest.approx(found.planned.computed_tokens, rel=0.1)
    assert found.cost.computed_tokens < found.cost.tokens
    assert abs(found.cost.sequences - found.planned.sequences) <= 4
    tasks = connection.tasks
    assert not (await tasks.ListTasks(ListTasksRequest(trials=True))).tasks


async def test_a_conversation_is_explained_by_shapley_and_against_another_answer(connection: Connection) -> None:
    """The own answer is explained where none is given; scores add up, those of two answers are their difference."""
    await connection.create()
    messages = [{"role": "system", "content": "be so kind"}, {"role": "user", "content": "say <b> aloud"}]
    async with client(connection) as made:
        found = await made.explain("fake", messages, method="shapley", samples=6, unit="word", max_answer_tokens=8)
        other = await made.explain("fake", messages, answer="say", against="sag", unit="message", random_orders=0)
    assert found.answer == "say <b> "
    assert [(each.span.message, each.text) for each in found.spans][2:4] == [(0, " kind"), (1, "say")]
    total = sum(each.scores[0].score for each in found.spans)
    assert total == pytest.approx(found.targets[0].value - found.targets[0].baseline)
    assert found.samples == 6
    assert all(each.scores[0].HasField("standard_error") for each in found.spans)
    assert [each.name for each in other.targets] == ["answer - against", "answer", "against"]
    for each in other.spans:
        assert each.scores[0].score == pytest.approx(each.scores[1].score - each.scores[2].score)
    assert [each.text for each in other.spans] == ["be so kind", "say <b> aloud"]
    assert not other.HasField("faithfulness")
    page = explanation_page(found)
    assert "&lt;b&gt;" in page
    assert "<b> aloud" not in page
    assert not [word for word in ("http:", "https:", "<script", "src=", "url(") if word in page]


async def test_named_spans_leave_the_rest_in_its_place(connection: Connection) -> None:
    """Only what is named is taken out; what is no span of the input is INVALID_FIELD that names it."""
    await connection.create()
    async with client(connection) as made:
        found = await made.explain("fake", TEXT, answer="one", spans=[(4, 7), (0, 3)], random_orders=0, alternatives=0)
        assert [each.text for each in found.spans] == ["one", "two"]
        assert found.cost.sequences == 4
        with pytest.raises(InvalidFieldError, match=r"spec\.spans\[0\] is from byte 4 to 99"):
            await made.explain("fake", TEXT, answer="one", spans=[(4, 99)])
        with pytest.raises(InvalidFieldError, match="the input has none there"):
            await made.explain("fake", TEXT, answer="one", spans=[pb.TextSpan(message=1, begin=0, end=1)])
        alone = await made.explain("fake", "one", answer="one")
        assert [each.text for each in alone.spans] == ["one"]


@pytest.mark.parametrize(
    ("spec", "reason", "said"),
    [
        ({}, "INVALID_FIELD", "spec has no input"),
        ({"prompt": " "}, "INVALID_FIELD", "nothing that could be taken out"),
        ({"prompt": TEXT, "samples": 7}, "INVALID_FIELD", "must be even"),
        ({"prompt": TEXT, "samples": 1000}, "INVALID_FIELD", "from 2 to 256"),
        ({"prompt": TEXT, "random_orders": 65}, "INVALID_FIELD", "from 0 to 64"),
        ({"prompt": TEXT, "method": 9}, "INVALID_FIELD", "method is 9"),
        ({"prompt": TEXT, "answer": "x" * 600}, "INVALID_FIELD", "600 tokens"),
        ({"prompt": "a " * 300}, "LIMIT_EXCEEDED", "explanations.spans is 256"),
        ({"prompt": "a " * 256, "method": 2, "samples": 256}, "LIMIT_EXCEEDED", "explanations.sequences is 8192"),
        ({"prompt": "long " * 210, "answer": "x"}, "PROMPT_TOO_LONG", "context of 1024 tokens"),
        ({"prompt": TEXT, "model": "no"}, "MODEL_NOT_FOUND", "'no'"),
    ],
)
async def test_what_cannot_be_explained_is_refused(
    connection: Connection, spec: dict[str, Any], reason: str, said: str
) -> None:
    """Each bound and each wrong field is a typed error that names it, before anything is computed."""
    await connection.create()
    stub: Any = ExplanationServiceStub(connection.channel)
    asked = pb.ExplanationSpec(**{"model": "fake", "answer": "one", **spec})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PlanExplanation(es.PlanExplanationRequest(spec=asked))
    assert reason_of(caught.value)[0] == reason, caught.value.details()
    assert said in (caught.value.details() or "")


async def test_one_that_is_given_up_ends_its_tasks_and_another_finds_its_place(connection: Connection) -> None:
    """Its tasks are of class LOW, have its label and are in no list; they are gone with its call."""
    await connection.create(step_s=0.05)
    driver = connection.kernel.driver
    stub: Any = ExplanationServiceStub(connection.channel)
    chat = ChatPrompt(messages=[ChatMessage(role="user", content=TEXT * 4)])
    call = stub.Explain(es.ExplainRequest(spec=pb.ExplanationSpec(model="fake", chat=chat, answer="one")))
    async with asyncio.timeout(LONG_S):
        assert (await call.read()).HasField("plan")
        assert (await call.read()).HasField("progress")
        tasks = (await connection.tasks.ListTasks(ListTasksRequest(trials=True))).tasks
        assert {(each.priority, len(each.labels[EXPLANATION_LABEL])) for each in tasks} == {(Priority.LOW, 32)}
        assert not (await connection.tasks.ListTasks(ListTasksRequest())).tasks
        call.cancel()
        with driver.watchers.models.watch(ModelName("fake")) as changed:
            while driver.views.census.all.living:
                await changed.wait(changed.version, 0.05)
        async with client(connection) as made:
            assert (await made.explain("fake", "a b", answer="a", spans=[(1, 3)], random_orders=0)).spans


async def test_sequences_are_held_up_to_a_bound(tmp_path: Path) -> None:
    """What all sequences would take of the kernel's memory is bounded before they are made."""
    async with kernel_here(tmp_path, explanations={"held_tokens": 500}) as kernel:
        made = Connection(kernel, tmp_path)
        await made.create()
        async with client(made) as asking:
            with pytest.raises(LimitExceededError, match=r"held_tokens and explanations\.held_tokens is 500"):
                await asking.plan_explanation("fake", TEXT, answer="one")
        await made.channel.close()


async def test_as_many_run_as_may(connection: Connection) -> None:
    """What would run beside more than `explanations.at_once`, or than the tenant's share, is LIMIT_EXCEEDED."""
    await connection.create(step_s=0.2)
    async with client(connection) as made, asyncio.timeout(LONG_S):
        others = [made.follow_explanation("fake", TEXT * 3, answer="one") for _ in range(8)]
        for other in others:
            try:
                assert (await anext(other)).HasField("plan")
            except LimitExceededError as error:
                assert error.metadata["bound"] in {"explanations.at_once", "scheduler.tenant_share"}  # noqa: PT017
                break
        else:
            pytest.fail("none was refused")
        for other in others:
            await other.aclose()
