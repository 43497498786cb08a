"""Calls of tools and reasoning through the gateway, before a kernel whose model repeats what is said."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

from test_http_gateway import Web, web_of
from tool_texts import TOOLS

from inferd.http.speech import Speeches
from inferd.http.token_texts import Remembered
from inferd_api.v1.model_service_pb2 import ModelWriting
from inferd_client.errors import ChatTemplateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'
PATH = "/v1/chat/completions"


@asynccontextmanager
async def web_with(folder: Path, form: str = "hermes", **settings: Any) -> AsyncIterator[Web]:
    """A gateway that takes the fake model for one of a format."""
    async with web_of(folder, tool_formats={"fake": form, "other": "none"}, **settings) as web:
        yield web


def chat(text: str, **more: Any) -> dict[str, Any]:
    """A request to which the model answers with this text."""
    return {"model": "fake", "messages": [{"role": "user", "content": text}], "tools": TOOLS, **more}


def merged(events: list[Any]) -> tuple[dict[str, Any], list[str]]:
    """The message of a stream, put together as OpenAI's libraries do; and why it ended."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, str]] = {}
    reasons = []
    for event in (each for each in events if isinstance(each, dict)):
        for choice in event["choices"]:
            reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
            for name, value in choice["delta"].items():
                if name != "tool_calls":
                    message[name] = message.get(name, "") + value
                    continue
                for part in value:
                    call = calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
                    call["id"] += part.get("id", "")
                    for key, text in part["function"].items():
                        call[key] += text
    return {**message, "calls": [calls[index] for index in sorted(calls)]}, reasons


async def test_a_call_is_told_whole_and_in_pieces(tmp_path: Path) -> None:
    """What the model writes as a call comes as one, beside what it says before, with an id and the end "tool_calls"."""
    async with web_with(tmp_path) as web:
        [choice] = (await web.post(PATH, **chat(f"Well.\n{CALL}\n{CALL}")))["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "Well."
        first, second = choice["message"]["tool_calls"]
        assert first["function"] == {"name": "get_weather", "arguments": '{"city": "Bern"}'}
        assert (first["type"], len(first["id"])) == ("function", 9)
        assert first["id"] != second["id"]
        message, reasons = merged(await web.events(PATH, **chat(f"Well.\n{CALL}\n{CALL}")))
        assert (message["content"], reasons) == ("Well.", ["tool_calls"])
        assert [(each["name"], json.loads(each["arguments"])) for each in message["calls"]] == [
            ("get_weather", {"city": "Bern"})
        ] * 2
        assert all(len(each["id"]) == 9 for each in message["calls"])


async def test_a_long_call_comes_as_it_is_written(tmp_path: Path) -> None:
    """Arguments longer than what is held back come in several pieces: as many as their readers keep up with."""
    async with web_with(tmp_path, held_chars=0, behaviour={"step_s": 0.02}) as web:
        events = await web.events(PATH, **chat(CALL))
        pieces = [
            c["delta"]["tool_calls"]
            for e in events
            if isinstance(e, dict)
            for c in e["choices"]
            if "tool_calls" in c["delta"]
        ]
        assert len(pieces) > 1
        message, _ = merged(events)
        assert message["calls"][0]["arguments"] == '{"city": "Bern"}'


async def test_an_answer_that_is_cut_off_in_a_call_has_none(tmp_path: Path) -> None:
    """Where an answer ends at its longest in a call, that is no call and no content, and the end is "length"."""
    async with web_with(tmp_path) as web:
        asked = chat(f"Well.\n{CALL}", max_tokens=30)
        [choice] = (await web.post(PATH, **asked))["choices"]
        message, reasons = merged(await web.events(PATH, **asked))
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] == "Well."
        assert "tool_calls" not in choice["message"]
        assert choice["message"]["unparsed"] == f"Well.\n{CALL}"[6:30]
        assert (message["content"], message["unparsed"], reasons) == ("Well.", f"Well.\n{CALL}"[6:30], ["length"])
        tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
        response = await web.post(
            "/v1/responses", model="fake", input=f"Well.\n{CALL}", tools=tools, max_output_tokens=30
        )
        assert (response["status"], response["unparsed"]) == ("incomplete", f"Well.\n{CALL}"[6:30])
        del asked["max_tokens"]
        told = await web.post("/api/chat", **asked, options={"num_predict": 30}, stream=False)
        assert (told["message"]["content"], told["unparsed"]) == ("Well.", f"Well.\n{CALL}"[6:30])


async def test_thoughts_are_reasoning(tmp_path: Path) -> None:
    """Where a template knows thoughts, they are told apart from content; of another format the text is as it is."""
    async with web_with(tmp_path) as web:
        asked = chat("<think>\nHm.\n</think>\n\nYes.")
        told = await web.post(PATH, **asked)
        [choice] = told["choices"]
        assert told["usage"]["completion_tokens_details"] == {"reasoning_tokens": len("Hm.")}  # a token each
        *_, last, _ = await web.events(PATH, **asked, stream_options={"include_usage": True})
        assert last["usage"]["completion_tokens_details"] == told["usage"]["completion_tokens_details"]
        assert choice["message"] == {
            "role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "refusal": None,
        }  # fmt: skip
        [choice] = (await web.post(PATH, **{**chat(CALL), "model": "other"}))["choices"]
        assert choice["message"]["content"] == CALL


async def test_a_call_is_enforced(tmp_path: Path) -> None:
    """With a tool that must be called the model calls it, whatever it would say; with "none" it is told of none."""
    async with web_with(tmp_path) as web:
        now = {"type": "function", "function": {"name": "now"}}
        [choice] = (await web.post(PATH, **chat("hello", tool_choice=now, parallel_tool_calls=False, temperature=0)))[
            "choices"
        ]
        assert [call["function"] for call in choice["message"]["tool_calls"]] == [{"name": "now", "arguments": "{}"}]
        assert choice["message"]["content"] is None
        [choice] = (await web.post(PATH, **chat(CALL, tool_choice="none")))["choices"]
        assert choice["message"]["content"] == CALL


async def test_what_is_wrong_with_tools_is_said(tmp_path: Path) -> None:
    """Errors name the field: tools that are none, choices that there are not, a format that has no calls."""
    async with web_with(tmp_path) as web:
        for more, param in (
            ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
            ({"tool_choice": "some"}, "tool_choice"),
            ({"tool_choice": {"type": "function", "function": {"name": "none_such"}}}, "tool_choice"),
            ({"tools": None, "tool_choice": "required"}, "tool_choice"),
            ({"model": "other", "tool_choice": "required"}, "tool_choice"),
            ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
        ):
            status, error = await web.refused(PATH, **{**chat("hello"), **more})
            assert (status, error["param"]) == (400, param), error


async def test_ollamas_chats_have_calls_and_thoughts(tmp_path: Path) -> None:
    """Ollama's chats take tools too: a call has its arguments as an object, in one line; thoughts are `thinking`."""
    async with web_with(tmp_path) as web:
        asked = chat(f"<think>Hm.</think>Well.\n{CALL}")
        whole = (await web.post("/api/chat", **asked, stream=False))["message"]
        assert (whole["content"], whole["thinking"]) == ("Well.", "Hm.")
        [call] = whole["tool_calls"]
        assert call["function"] == {"name": "get_weather", "arguments": {"city": "Bern"}}
        lines = [json.loads(line) for line in (await web.http.post("/api/chat", json=asked)).text.splitlines()]
        [told] = [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]]
        assert told[0]["function"] == call["function"]
        assert "".join(line["message"]["content"] for line in lines) == "Well."
        assert lines[-1]["done_reason"] == "stop"


def items_of(events: list[Any]) -> list[tuple[str, str]]:
    """Types and texts of the items of a stream of a response, by its deltas."""
    found: dict[int, list[str]] = {}
    for event in (each for each in events if isinstance(each, dict)):
        if event["type"] == "response.output_item.added":
            found[event["output_index"]] = [event["item"]["type"], ""]
        elif event["type"].endswith(".delta"):
            found[event["output_index"]][1] += event["delta"]
    return [(kind, text) for kind, text in found.values()]


async def test_responses_have_items_for_thoughts_and_calls(tmp_path: Path) -> None:
    """A response thinks, says and calls in items of their own, the same when it is read again from any event on."""
    async with web_with(tmp_path, kernel={"store": {}}) as web:
        tool = {"type": "function", **TOOLS[0]["function"]}
        asked = {"model": "fake", "input": f"<think>Hm.</think>Well.\n{CALL}", "tools": [tool]}
        whole = await web.post("/v1/responses", **asked)
        assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call"]
        assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": len("Hm.")}
        call = whole["output"][2]
        assert (call["name"], call["arguments"], call["status"]) == ("get_weather", '{"city": "Bern"}', "completed")
        again = (await web.http.get(f"/v1/responses/{whole['id']}")).json()
        assert (again["output"], again["usage"]) == (whole["output"], whole["usage"])
        events = await web.events("/v1/responses", **asked)
        expected = [("reasoning", "Hm."), ("message", "Well."), ("function_call", '{"city": "Bern"}')]
        assert items_of(events) == expected
        numbers = [event["sequence_number"] for event in events if isinstance(event, dict)]
        done = next(event for event in events if isinstance(event, dict) and event["type"] == "response.completed")
        follow = f"/v1/responses/{done['response']['id']}?stream=true&starting_after={numbers[len(numbers) // 2]}"
        rest = [line[6:] for line in (await web.http.get(follow)).text.splitlines() if line.startswith("data: ")]
        told = [json.loads(line)["sequence_number"] for line in rest]
        assert told[0] > numbers[len(numbers) // 2]
        assert (told[-1], told) == (numbers[-1], sorted(told))
        on = {"input": [{"type": "function_call_output", "call_id": call["call_id"], "output": "7"}]}
        _, error = await web.refused("/v1/responses", **{**asked, **on, "previous_response_id": whole["id"]})
        assert "unknown role tool" in error["message"]  # by the template of the fake model: it got that far


async def test_a_template_that_takes_no_short_conversation_is_no_hindrance() -> None:
    """Where the end of a prompt cannot be had, its thoughts have not begun, and the chat is answered."""

    async def refused(*_: object, **__: object) -> list[int]:
        raise ChatTemplateError("no system message")

    client = AsyncMock()
    client.tokenize = refused
    client.model_writing.return_value = ModelWriting(chat_template="<think>…</think> <tool_call>")
    speech = await Speeches(Remembered(10, 10), {}, 0).of(client, "m", 1, {"tools": TOOLS}, streamed=True)
    assert (speech.form.name, speech.prompt_end, speech.thinks) == ("hermes", "", True)
