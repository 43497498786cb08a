import asyncio
import json
from typing import Any

from connection import Connection, read_all, read_failing, reason_of, text_of

from inferd_api.v1.sampling_pb2 import Choice, Grammar, SamplingParams
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt, FinishReason, TaskSpec
from inferd_api.v1.task_service_pb2 import RunTaskRequest

SCHEMA = json.dumps({"type": "array", "items": {"type": "integer", "maximum": 20, "minimum": 1}, "maxItems": 3})


def ask(connection: Connection, words: str, grammar: Grammar | None = None, **more: Any) -> Any:
    """Run a chat; the FakeBackend answers with its words, as far as the grammar allows."""
    sampling = SamplingParams(grammar=grammar, **({"temperature": 0, "max_tokens": 40} | more))
    chat = ChatPrompt(messages=[ChatMessage(role="user", content=words)])
    return connection.tasks.RunTask(RunTaskRequest(spec=TaskSpec(model="fake", chat=chat, sampling=sampling)))


async def test_each_kind_of_grammar_arrives(connection: Connection) -> None:
    """A JSON schema, a regular expression, a Lark grammar and a choice bind the outputs of tasks that run together."""
    await connection.create()
    grammars = {
        "[1, 20]": Grammar(json_schema=SCHEMA),
        "ab12": Grammar(regex="[a-z]+[0-9]{2}"),
        "1+2": Grammar(lark='start: N ("+" N)*\nN: /[0-9]/'),
        "maybe": Grammar(choice=Choice(texts=["yes", "maybe", "no"])),
    }
    calls = [read_all(ask(connection, words, grammar)) for words, grammar in grammars.items()]
    events = await asyncio.gather(*calls)
    assert [text_of(each) for each in events] == list(grammars)
    assert {each[-1].finished.reason for each in events} == {FinishReason.FINISH_REASON_END_OF_TEXT}


async def test_a_bad_schema_costs_nobody_else_anything(connection: Connection) -> None:
    """A bad schema is INVALID_ARGUMENT with its field; what runs beside it and after it is as ever."""
    await connection.create()
    beside = asyncio.create_task(read_all(ask(connection, "hello")))
    _, error = await read_failing(ask(connection, "hello", Grammar(json_schema='{"type": "strin"}')))
    assert error.code().name == "INVALID_ARGUMENT"
    assert "spec.sampling.grammar" in str(error.trailing_metadata())
    assert "strin" in (error.details() or "")
    assert text_of(await beside) == "hello"
    assert text_of(await read_all(ask(connection, "[3]", Grammar(json_schema=SCHEMA)))) == "[3]"


async def test_schemas_that_are_no_objects(connection: Connection) -> None:
    """The schema `true` allows any JSON; `false`, against which nothing is valid, and what is no schema are refused."""
    await connection.create()
    assert text_of(await read_all(ask(connection, "[12]", Grammar(json_schema=" true ")))) == "[12]"
    for schema, said in (
        ("false", "nothing is valid"),
        ("3", "must be a JSON object, true or false"),
        ("tru", "line 1"),
    ):
        _, error = await read_failing(ask(connection, "[12]", Grammar(json_schema=schema)))
        assert said in (error.details() or ""), schema
        assert "spec.sampling.grammar" in str(error.trailing_metadata())


async def test_a_grammar_that_is_not_complete_in_time(connection: Connection) -> None:
    """Where `max_tokens` are not enough for the grammar, the output is cut and its reason says so."""
    await connection.create()
    events = await read_all(ask(connection, "aaaaaaaa", Grammar(regex="a{6}"), max_tokens=4))
    assert text_of(events) == "aaaa"
    assert events[-1].finished.reason == FinishReason.FINISH_REASON_MAX_TOKENS


async def test_samples_follow_the_grammar_each(connection: Connection) -> None:
    """Several samples of one prompt follow the grammar independently of each other."""
    await connection.create()
    events = await read_all(ask(connection, "x", Grammar(regex="[a-d]{8}"), n=4, temperature=5.0, seed=1))
    texts = ["", "", "", ""]
    for event in events:
        texts[event.output.sample] += event.output.text
    assert all(len(text) == 8 and set(text) <= set("abcd") for text in texts)
    assert len(set(texts)) > 1


async def test_tools_that_are_no_json(connection: Connection) -> None:
    """Tools that the template cannot be given are refused by the name of their field."""
    await connection.create()
    chat = ChatPrompt(messages=[ChatMessage(role="user", content="x")], tools_json="{")
    _, error = await read_failing(connection.tasks.RunTask(RunTaskRequest(spec=TaskSpec(model="fake", chat=chat))))
    assert error.code().name == "INVALID_ARGUMENT"
    assert "spec.chat.tools_json" in str(error.trailing_metadata())


async def test_an_output_that_is_not_valid_fails_its_task(connection: Connection) -> None:
    """What a grammar cannot follow is found in a complete output: its text was told, and the error says where."""
    await connection.create()
    grammar = Grammar(json_schema='{"type": "array", "uniqueItems": true}')
    assert text_of(await read_all(ask(connection, "[7, 8]", grammar))) == "[7, 8]"
    events, error = await read_failing(ask(connection, "[7, 7]", grammar))
    assert text_of(events) == "[7, 7]"
    reason, facts = reason_of(error)
    assert (error.code().name, reason) == ("FAILED_PRECONDITION", "OUTPUT_INVALID")
    assert (facts["path"], facts["keyword"], facts["model"]) == ("", "uniqueItems", "fake")
