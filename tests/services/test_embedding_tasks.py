import grpc
import pytest
from connection import Connection, read_all, read_failing, reason_of

from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import CreateModelRequest
from inferd_api.v1.task_pb2 import EmbeddingParams, Pooling, TaskSpec, TaskState
from inferd_api.v1.task_service_pb2 import RunTaskRequest
from inferd_client import AsyncClient

RAW = EmbeddingParams(pooling=Pooling.POOLING_MEAN, normalize=False)


async def test_an_embedding_is_the_only_output(connection: Connection) -> None:
    """A task that asks for an embedding gives one output with the vector, and succeeds with no output tokens."""
    await connection.create()
    spec = TaskSpec(model="fake", prompt="abc", embedding=RAW)
    events = await read_all(connection.tasks.RunTask(RunTaskRequest(spec=spec)))
    outputs = [event.output for event in events if event.HasField("output")]
    assert [list(output.embedding.values) for output in outputs] == [[98.0, 1.0, 1.0]]
    finished = events[-1].finished
    assert finished.state == TaskState.TASK_STATE_SUCCEEDED
    assert (finished.usage.prompt_tokens, finished.usage.output_tokens) == (3, 0)


async def test_the_client_embeds(connection: Connection) -> None:
    """The client gives the vector, by default that of the last token with length 1."""
    await connection.create()
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        vector = await client.embed("fake", "abc")
        assert sum(value * value for value in vector) == pytest.approx(1)
        assert vector[0] / vector[1] == pytest.approx(99 / 2)
        assert await client.embed("fake", "abc", mean=True, normalize=False) == [98.0, 1.0, 1.0]


async def test_what_a_backend_does_not_offer(connection: Connection) -> None:
    """Embeddings of a backend that has none are unsupported, and adapters of a model that has none are not found."""
    await connection.create("plain", embedding_size=0)
    for spec, reason, told in (
        (TaskSpec(model="plain", prompt="abc", embedding=RAW), "UNSUPPORTED_INPUT", "spec.embedding"),
        (TaskSpec(model="plain", prompt="abc", adapter="poet"), "ADAPTER_NOT_FOUND", "poet"),
    ):
        _, error = await read_failing(connection.tasks.RunTask(RunTaskRequest(spec=spec)))
        assert reason_of(error)[0] == reason
        assert told in str(error.trailing_metadata())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.models.CreateModel(
            CreateModelRequest(model=Model(name="x", source="/x", adapters={"poet": "/poet"}))
        )
    assert reason_of(caught.value)[0] == "INVALID_FIELD"


async def test_scores_are_of_models_that_give_some(connection: Connection) -> None:
    """A model without a head has no scores, and a query is for scores of a prompt only."""
    await connection.create()
    rank = EmbeddingParams(pooling=Pooling.POOLING_RANK, query="which")
    for spec, reason, field in (
        (TaskSpec(model="fake", prompt="abc", embedding=rank), "UNSUPPORTED_INPUT", "spec.embedding.pooling"),
        (
            TaskSpec(model="fake", prompt="abc", embedding=EmbeddingParams(query="which")),
            "INVALID_FIELD",
            "spec.embedding.query",
        ),
        (
            TaskSpec(model="fake", tokens={"token_ids": [1]}, embedding=rank),
            "INVALID_FIELD",
            "spec.embedding.query",
        ),
    ):
        _, error = await read_failing(connection.tasks.RunTask(RunTaskRequest(spec=spec)))
        assert reason_of(error)[0] == reason
        assert field in str(error.trailing_metadata())
