import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, memory, read_all, read_until, reason_of, text_of, under

from inferd.core.ids import ModelName
from inferd.runtime.queries import Asker, Queries
from inferd.runtime.worker import Worker
from inferd.testing.fake import SPECIALS, TEMPLATE
from inferd.testing.kernel import kernel_here
from inferd_api.v1.model_pb2 import ModelState
from inferd_api.v1.model_service_pb2 import (
    CountTokensRequest,
    DetokenizeRequest,
    GetModelRequest,
    LoadModelRequest,
    TokenizeRequest,
    UnloadModelRequest,
)
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt
from inferd_api.worker.v1 import task_pb2
from inferd_client import AsyncClient
from inferd_client.errors import InvalidFieldError, LimitExceededError

HI = ChatPrompt(messages=[ChatMessage(role="user", content="hi")])
DEADLINE_S = 60.0


async def failure_of(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), *reason_of(caught.value)


async def test_a_text_becomes_tokens_and_tokens_become_text(connection: Connection) -> None:
    """Tokenize, CountTokens and Detokenize answer as the model's own tokenizer does, and load the model first."""
    await connection.create()
    models = connection.models
    assert list((await models.Tokenize(TokenizeRequest(model="fake", prompt="hé"))).token_ids) == [*"hé".encode()]
    assert list((await models.Tokenize(TokenizeRequest(model="fake", chat=HI))).token_ids) == [256, *b"hi", 257]
    assert (await models.CountTokens(CountTokensRequest(model="fake", chat=HI))).tokens == 4
    assert (await models.Detokenize(DetokenizeRequest(model="fake", token_ids=[256, *"hé".encode()]))).text == "hé"
    assert (await models.Detokenize(DetokenizeRequest(model="fake", token_ids=[0xC3]))).text == "\ufffd"
    assert (await models.Tokenize(TokenizeRequest(model="fake", prompt=""))).token_ids == []
    model = (await models.GetModel(GetModelRequest(name="fake"))).model
    assert model.state == ModelState.MODEL_STATE_READY


async def test_the_counted_tokens_are_those_of_a_task(connection: Connection) -> None:
    """CountTokens says what the usage of a task with the same conversation will say."""
    await connection.create()
    counted = (await connection.models.CountTokens(CountTokensRequest(model="fake", chat=HI))).tokens
    events = await read_all(connection.chat("hi"))
    assert text_of(events) == "hi"
    assert events[-1].finished.usage.prompt_tokens == counted


async def test_the_client_has_the_same_calls(connection: Connection) -> None:
    """The Python client tokenises texts and messages, counts, and turns tokens back."""
    await connection.create()
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        assert await client.tokenize("fake", "ab") == [97, 98]
        assert await client.count_tokens("fake", [{"role": "user", "content": "hi"}]) == 4
        assert await client.detokenize("fake", [97, 98]) == "ab"
        with pytest.raises(ValueError, match="it must be a text"):
            await client.tokenize("fake", [1, 2])
        with pytest.raises(InvalidFieldError) as caught:
            await client.detokenize("fake", [97, 260])
        assert "260 is outside the model's vocabulary of 260" in str(caught.value)
        with pytest.raises(LimitExceededError):
            await client.count_tokens("fake", "x" * ((1 << 20) + 1))


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (TokenizeRequest(model="fake"), "INVALID_FIELD", "input"),
        (TokenizeRequest(model="fake", chat=ChatPrompt()), "INVALID_FIELD", "chat.messages"),
        (
            TokenizeRequest(model="fake", chat=ChatPrompt(messages=[ChatMessage(content="x")])),
            "INVALID_FIELD",
            "chat.messages[0].role",
        ),
        (
            TokenizeRequest(model="fake", chat=ChatPrompt(messages=HI.messages, tools_json="[")),
            "INVALID_FIELD",
            "chat.tools_json",
        ),
        (
            TokenizeRequest(model="fake", chat=ChatPrompt(messages=[ChatMessage(role="nobody", content="hi")])),
            "CHAT_TEMPLATE_FAILED",
            "",
        ),
        (TokenizeRequest(model="other", prompt="x"), "MODEL_NOT_FOUND", ""),
    ],
)
async def test_a_wrong_request_is_refused(
    connection: Connection, request_: TokenizeRequest, reason: str, field: str
) -> None:
    """What cannot be tokenised is refused with the reason, and the field's path as the request spells it."""
    await connection.create()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.models.Tokenize(request_)
    assert reason_of(caught.value)[0] == reason
    assert (field or "") in str(caught.value.trailing_metadata())


async def test_a_dead_worker_answers_its_queries(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the worker dies, a query that waits for it ends with WORKER_DIED, and the next one gets a new worker."""
    await connection.create()
    await connection.models.CountTokens(CountTokensRequest(model="fake", prompt="x"))
    model = (await connection.models.GetModel(GetModelRequest(name="fake"))).model
    pid = model.instances[0].pid
    os.kill(pid, signal.SIGSTOP)  # it cannot answer before it dies
    queries = connection.kernel.driver._queries
    asked = asyncio.Event()

    def note(worker: Any, given: task_pb2.Input, asker: Asker) -> Any:
        asked.set()
        return Queries.ask(queries, worker, given, asker)

    monkeypatch.setattr(queries, "ask", note)
    call = connection.models.CountTokens(CountTokensRequest(model="fake", prompt="x"))
    await asyncio.wait_for(asked.wait(), DEADLINE_S)
    os.kill(pid, signal.SIGKILL)
    code, reason, metadata = await failure_of(call)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_DIED")
    assert "SIGKILL" in metadata["cause"]
    assert not queries._pending
    assert (await connection.models.CountTokens(CountTokensRequest(model="fake", prompt="x"))).tokens == 1


async def test_queries_run_beside_the_steps(connection: Connection) -> None:
    """A query is answered while a task is generating, and the task goes on."""
    await connection.create(step_s=0.02)
    task = connection.endless()
    await read_until(task, "output")
    assert (await connection.models.CountTokens(CountTokensRequest(model="fake", prompt="abc"))).tokens == 3
    await read_until(task, "output")
    task.cancel()


async def test_unloading_ends_what_waits(connection: Connection) -> None:
    """A model that is being unloaded takes no query."""
    await connection.create()
    await connection.models.CountTokens(CountTokensRequest(model="fake", prompt="x"))
    await connection.models.UnloadModel(UnloadModelRequest(name="fake"))
    assert (await connection.models.CountTokens(CountTokensRequest(model="fake", prompt="x"))).tokens == 1


async def test_a_broken_model_is_not_tried_for_each_question(tmp_path: Path) -> None:
    """While a model that could not be loaded waits for its next try, questions are refused with its error and when."""
    patient = {"restart_backoff_s": 1000.0, "restart_backoff_max_s": 1000.0}
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, workers=patient) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(load_error="tensor 'x' is missing")
        count = CountTokensRequest(model="fake", prompt="x")
        for _ in range(3):
            code, reason, metadata = await failure_of(connection.models.CountTokens(count))
            assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
            assert metadata["cause"] == "tensor 'x' is missing"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.models.Detokenize(DetokenizeRequest(model="fake", token_ids=[97]))
        assert b"google.rpc.RetryInfo" in str(caught.value.trailing_metadata()).encode()
        assert kernel.driver.machine.views.model(ModelName("fake")).instance_count == 1
        await connection.channel.close()


async def test_an_instance_of_another_tenant_answers_nobody_else(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tenant loaded under its lease answers calls under that lease; others get an instance for all."""
    await connection.create()
    asked: list[tuple[str, str]] = []
    ask = Queries.ask

    async def note(queries: Queries, worker: Worker, given: task_pb2.Input, asker: Asker) -> Any:
        asked.append((given.prompt, worker.instance_id))
        return await ask(queries, worker, given, asker)

    monkeypatch.setattr(Queries, "ask", note)
    mine = (("inferd-tenant", "mine"),)
    lease = await connection.claim(memory(1 << 28, "fake:0"), metadata=mine)
    mine = (*mine, *under(lease.lease_id))
    await connection.models.LoadModel(LoadModelRequest(name="fake"), metadata=mine)
    await connection.models.CountTokens(CountTokensRequest(model="fake", prompt="mine"), metadata=mine)
    await connection.models.Tokenize(TokenizeRequest(model="fake", prompt="theirs"))
    await connection.models.Tokenize(TokenizeRequest(model="fake", prompt="mine again"), metadata=mine)
    assert asked == [("mine", "fake-1"), ("theirs", "fake-2"), ("mine again", "fake-1")]


async def test_tokens_by_themselves(connection: Connection) -> None:
    """Each token is told by its bytes, control tokens by none; and how the model's texts are written."""
    await connection.create()
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        assert await client.token_pieces("fake", [0xC3, 0xA9, 97, 256]) == [b"\xc3", b"\xa9", b"a", b""]
        writing = await client.model_writing("fake")
        assert writing.chat_template == TEMPLATE
        assert dict(writing.control_tokens) == dict(enumerate(SPECIALS, start=256))
        with pytest.raises(InvalidFieldError, match="outside the model's vocabulary"):
            await client.token_pieces("fake", [99_999])
