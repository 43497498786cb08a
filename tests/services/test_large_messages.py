"""Messages of other sizes than by default, on their way from clients to workers and back."""

from pathlib import Path

import grpc
import pytest
from connection import Connection, read_all, reason_of, text_of
from pydantic import ValidationError

from inferd.config import FRAME_MARGIN_BYTES, LEAST_FRAME_BYTES, Limits
from inferd.testing.kernel import kernel_here
from inferd_api.v1.model_service_pb2 import CountTokensRequest, TokenizeRequest
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt, TaskSpec
from inferd_api.v1.task_service_pb2 import RunTaskRequest

MIB = 1 << 20


async def test_a_message_of_any_allowed_size_reaches_the_worker(tmp_path: Path) -> None:
    """Where larger messages and prompts are allowed, frames are as large: 18 MiB of conversation end in an answer."""
    limits = {"message_bytes": 24 * MIB, "prompt_bytes": 20 * MIB, "request_bytes": 64 * MIB}
    async with kernel_here(tmp_path, limits=limits, workers={"template_timeout_s": 60.0}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create()
        tools = (
            '[{"type": "function", "function": {"name": "' + "x" * (18 * MIB) + '"}}]'
        )  # which the template leaves out
        chat = ChatPrompt(messages=[ChatMessage(role="user", content="hello")], tools_json=tools)
        assert text_of(
            await read_all(connection.tasks.RunTask(RunTaskRequest(spec=TaskSpec(model="fake", chat=chat))))
        ) == ("hello")
        await connection.channel.close()


async def test_an_answer_that_is_too_large_is_named(tmp_path: Path) -> None:
    """An answer larger than a message may be is LIMIT_EXCEEDED with both numbers, and the connection goes on."""
    async with kernel_here(tmp_path, limits={"message_bytes": 2048}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(context_tokens=4096)
        text = "é" * 900  # whose tokens take two bytes each
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.models.Tokenize(TokenizeRequest(model="fake", prompt=text))
        reason, facts = reason_of(caught.value)
        assert (caught.value.code(), reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert (facts["bound"], facts["limit"]) == ("limits.message_bytes", "2048")
        assert int(facts["value"]) > 2048
        counted = await connection.models.CountTokens(CountTokensRequest(model="fake", prompt=text))
        assert counted.tokens == 1800
        await connection.channel.close()


def test_frames_follow_messages() -> None:
    """A frame holds what a message does: by default it grows with it, and one that is set smaller is refused."""
    assert Limits().frame_limit_bytes == LEAST_FRAME_BYTES
    assert Limits(message_bytes=64 * MIB).frame_limit_bytes == 64 * MIB + FRAME_MARGIN_BYTES
    assert Limits(frame_bytes=32 * MIB).frame_limit_bytes == 32 * MIB
    with pytest.raises(ValidationError, match="leave frame_bytes out"):
        Limits(message_bytes=64 * MIB, frame_bytes=16 * MIB)
