"""What requests of OpenAI's and Ollama's interfaces ask the kernel for. Pure."""

from typing import Any

import pytest

from inferd.http.bodies import parse
from inferd.http.chat import read_chat
from inferd.http.completions import read_completion
from inferd.http.messages import read_messages
from inferd.http.ollama_fields import read_prompt, read_talk, read_task
from inferd.http.problems import Refusal, problem_of
from inferd.http.response_fields import read_request
from inferd_client import Grammar
from inferd_client.errors import LimitExceededError, ModelNotFoundError, QueueFullError

TALK = [{"role": "user", "content": "hi"}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": TALK, **more}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"max_tokens": "all"}),
        ({"max_tokens": 5}, {"max_tokens": 5, "fit_max_tokens": True}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0, "top_p": 0.5, "min_p": 0.1}, {"temperature": 0, "top_p": 0.5, "min_p": 0.1}),
        ({"temperature": None}, {}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"seed": -1}, {"seed": 2**64 - 1}),
        ({"logit_bias": {"7": -100}}, {"logit_bias": {7: -100}}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"n": 2}, {"n": 2}),
        ({"service_tier": "flex"}, {"priority": "low"}),
        ({"metadata": {"team": "a"}}, {"labels": {"team": "a"}}),
        ({"response_format": {"type": "json_object"}}, {"grammar": Grammar(json_schema='{"type":"object"}')}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "null"}}}},
            {"grammar": Grammar(json_schema='{"type":"null"}')},
        ),
        ({"guided_regex": "a+"}, {"grammar": Grammar(regex="a+")}),
        ({"structured_outputs": {"regex": "a+"}}, {"grammar": Grammar(regex="a+")}),
    ],
)
def test_what_a_chat_asks_for(given: dict[str, Any], asked: dict[str, Any]) -> None:
    """Fields of a chat are options of a task, and what is left out stays the model's and the kernel's to say."""
    options = read_chat(chat(**given)).options
    assert {name: options[name] for name in asked} == asked
    assert options.keys() - asked.keys() <= {"max_tokens", "fit_max_tokens"}


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"model": None}, "model", "is missing"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type", "text, im"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "the role"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"temperature": True}, "temperature", "must be a number"),
        ({"max_tokens": -1}, "max_tokens", "from 0 on"),
        ({"functions": [{"name": "f"}]}, "functions", "not supported"),
        ({"store": True}, "store", "/v1/responses"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "for streams"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format", "leave one out"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"use_beam_search": True}, "use_beam_search", "one after the other"),
        ({"skip_special_tokens": False}, "skip_special_tokens", "no text here"),
        ({"service_tier": "gold"}, "service_tier", "flex"),
    ],
)
def test_what_a_chat_is_refused_for(given: dict[str, Any], param: str, words: str) -> None:
    """What is wrong, unknown or not offered is refused by its name; nothing of a request is passed over in silence."""
    with pytest.raises(Refusal) as caught:
        read_chat(chat(**given))
    assert caught.value.param == param
    assert words in caught.value.message


def test_fields_that_ask_for_nothing_are_taken() -> None:
    """What programs send that means what is so anyway, or says who asks, is no error."""
    read_chat(chat(user="me", store=False, function_call="none", modalities=["text"], audio=None, tools=[]))


def test_values_that_others_have_for_none() -> None:
    """What vLLM, Ollama and OpenAI have for "no such bound", or as the default of a field of their own, is taken."""
    said = {"use_beam_search": False, "best_of": 1, "skip_special_tokens": True, "top_k": -1, "top_p": 0, "stop": ""}
    options = read_chat(chat(**said)).options
    assert (options["top_k"], options["stop"]) == (0, [])
    assert 0 < options["top_p"] < 1e-5
    (read,) = read_messages([{"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}}])
    assert read == {"role": "user", "content": "x"}


def test_tools_that_a_server_would_run() -> None:
    """Of a response's tools those that OpenAI runs itself are left out, which shows; others must be functions."""
    function = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    hosted = [{"type": "web_search"}, {"type": "web_search_preview_2025_03_11"}]
    wanted = read_request({"model": "m", "input": "x", "tools": [function, *hosted]})
    assert wanted.shown["tools"] == [function]
    assert [tool["function"]["name"] for tool in wanted.wish.tools] == ["f"]
    with pytest.raises(Refusal, match=r"tools\[0\].type is 'custom'"):
        read_request({"model": "m", "input": "x", "tools": [{"type": "custom", "name": "g"}]})
    with pytest.raises(Refusal):
        read_request({"model": "m", "input": "x", "tools": [{"type": ["web_search"]}]})


def test_messages_as_others_send_them_back() -> None:
    """An answer of any server can be sent back as it came: empty fields of it say nothing."""
    sent = {
        "role": "assistant", "content": None, "refusal": None, "audio": None, "annotations": [],
        "reasoning": "hm", "tool_calls": [CALL],
    }  # fmt: skip
    (read,) = read_messages([sent])
    assert read == {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]}


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1, 2], [3]]])
def test_prompts_of_completions(prompt: Any) -> None:
    """A completion takes a text, several, tokens, or several lists of them; 16 tokens where it does not say more."""
    asked = read_completion({"model": "m", "prompt": prompt}, most_inputs=2)
    assert len(asked.prompt) == (2 if prompt in (["a", "b"], [[1, 2], [3]]) else 1)
    assert asked.options["max_tokens"] == 16


@pytest.mark.parametrize("prompt", [[], ["a", 1], [""] * 3, 7, [[]]])
def test_prompts_that_are_none(prompt: Any) -> None:
    """Prompts that mix kinds, are none, or are too many are refused."""
    with pytest.raises(Refusal):
        read_completion({"model": "m", "prompt": prompt}, most_inputs=2)


def test_what_ollama_asks_for() -> None:
    """Ollama's options have their names in the kernel, and -1 means all that there can be."""
    options = {"num_predict": 9, "repeat_penalty": 1.5, "num_ctx": 4096, "seed": 1}
    asked = read_task({"options": options, "format": "json"})
    assert asked["max_tokens"] == 9
    assert asked["repetition_penalty"] == 1.5
    assert asked["grammar"].json_schema == '{"type":"object"}'
    assert read_task({"options": {"num_predict": -1}})["max_tokens"] == "all"
    last = {"repeat_last_n": -1, "typical_p": 0.5, "mirostat": 2, "mirostat_eta": 0.2}
    asked = read_task({"options": last})
    assert [asked[name] for name in ("penalty_window", "typical_p", "mirostat_tau", "mirostat_eta")] == [0, 0.5, 5, 0.2]
    asked = read_task({"options": {"repeat_last_n": 0, "repeat_penalty": 2.0, "mirostat_tau": 4}})
    assert asked["repetition_penalty"] == 1
    assert "mirostat_tau" not in asked
    with pytest.raises(Refusal, match="mirostat is 1; it must be 0 or 2"):
        read_task({"options": {"mirostat": 1}})
    assert read_prompt({"prompt": "x", "system": "s"}) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "x"},
    ]
    assert read_prompt({"prompt": "x", "raw": True}) == "x"
    (read,) = read_talk({"messages": [{"role": "assistant", "content": "a", "thinking": "t", "images": None}]})
    assert read == {"role": "assistant", "content": "a", "reasoning_content": "t"}


def test_pictures_as_ollama_has_them() -> None:
    """Pictures come in base64 alone, or as data URLs, and stand before the words, as Ollama has them."""
    urls = ("data:image/*;base64,QUJD", "data:image/png;base64,QUJD")
    for sent, url in zip(("QUJD", urls[1]), urls, strict=True):
        (read,) = read_talk({"messages": [{"role": "user", "content": "x", "images": [sent]}]})
        assert read["content"] == [{"type": "image_url", "image_url": url}, {"type": "text", "text": "x"}]


def test_a_call_that_must_be_as_mistral_says_it() -> None:
    """`tool_choice` "any" is what others call "required"."""
    wish = read_chat(chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="any")).wish
    assert wish.choice == "required"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[1]", "object"),
        (b"{", "cannot be read"),
        (b'{"a": NaN}', "no number"),
        (b'{"a":' * 99 + b"1" + b"}" * 99, "deep"),
    ],
)
def test_bodies_that_are_no_requests(body: bytes, words: str) -> None:
    """A body that is no JSON object, or nested beyond its bound, is refused before anything looks at it."""
    with pytest.raises(Refusal, match=words):
        parse(body, 64)


def test_errors_have_the_status_that_clients_act_by() -> None:
    """The reason stays, the status says whether to try again, and paths of fields are those of the request."""
    full = QueueFullError("full", retry_after_s=0.2)
    full.code = "RESOURCE_EXHAUSTED"
    told = problem_of(full)
    assert told is not None
    assert (told.status, told.code, told.headers["retry-after"], told.kind) == (
        429, "QUEUE_FULL", "1", "rate_limit_error",
    )  # fmt: skip
    wrong = ModelNotFoundError("no", field="spec.model")
    told = problem_of(wrong)
    assert told is not None
    assert (told.status, told.param) == (404, "model")
    large = problem_of(LimitExceededError("large", metadata={"bound": "limits.prompt_bytes"}))
    assert large is not None
    assert large.status == 413
    assert problem_of(KeyError("x")) is None
    died = problem_of(LimitExceededError("died", metadata={"cause": "signal 9", "log": "/var/log/inferd/1.log"}))
    assert died is not None
    assert died.openai["error"]["metadata"] == {"cause": "signal 9"}
