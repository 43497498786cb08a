"""Options of the client that do not exist, and those that it sets itself."""

import inspect
import warnings
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1.lease_pb2 import Claim
from inferd_api.v1.sampling_pb2 import SamplingDefaults
from inferd_client import AsyncClient, Client, DefaultLimitWarning, RunOptions
from inferd_client.claims import lease_request
from inferd_client.options import bounded
from inferd_client.tasks import run_request

SAID = [{"role": "user", "content": "hi"}]
WRONG: list[tuple[str, tuple[Any, ...], str, str]] = [
    ("generate", ("m", "x"), "max_tokenz", "max_tokens"),
    ("stream", ("m", "x"), "temprature", "temperature"),
    ("run", ("m", "x"), "time_out_s", "timeout_s"),
    ("embed", ("m", "x"), "normalise", "normalize"),
    ("watch", ("t",), "after", "after_sequence"),
    ("list_tasks", (), "state", "states"),
    ("tokenize", ("m", "x"), "tools_jsn", "tools_json"),
    ("count_tokens", ("m", "x"), "timeouts", "timeout_s"),
    ("detokenize", ("m", [1]), "token_id", "token_ids"),
    ("create_model", ("m", "/m"), "setings", "settings"),
    ("load_model", ("m",), "leese", "lease"),
    ("create_task", ("m", "x"), "ttl_s", "timeout_s"),
    ("plan_load", ("m",), "setting", "settings"),
    ("unload_model", ("m",), "forced", "force"),
    ("create_lease", (Claim(),), "ttl", "ttl_s"),
    ("lease", (Claim(),), "wait_timeout", "wait_timeout_s"),
    ("list_leases", (), "stats", "states"),
    ("watch_host", (), "interval", "interval_s"),
    ("health", (), "servce", "service"),
]


@pytest.mark.parametrize(("method", "given", "option", "near"), WRONG, ids=[name for name, *_ in WRONG])
async def test_an_option_that_does_not_exist(method: str, given: tuple[Any, ...], option: str, near: str) -> None:
    """Every method of both clients refuses a keyword that it lacks when it is called, and names the nearest one."""
    async with AsyncClient("127.0.0.1:1") as asynchronous:
        with Client("127.0.0.1:1") as client:
            for kind in (client, asynchronous):
                with pytest.raises(TypeError, match=rf"{method}\(\) has no '{option}'; did you mean '{near}'"):
                    getattr(kind, method)(*given, **{option: 3})
    with pytest.raises(TypeError, match="did you mean 'tenant'"):
        Client(tennant="x")  # type: ignore[call-arg]


def test_every_method_is_checked() -> None:
    """There is no public method of a client that takes a keyword which it does not know."""
    for kind in (Client, AsyncClient):
        with pytest.raises(TypeError, match="has no 'no_such_thing'"):
            kind(no_such_thing=1)  # type: ignore[call-arg]
        for name, method in inspect.getmembers(kind, callable):
            if not name.startswith("_"):
                with pytest.raises(TypeError, match=rf"{name}\(\) has no 'no_such_thing'"):
                    method(None, no_such_thing=1)


def test_options_as_a_dictionary() -> None:
    """Options that come as a dictionary are checked as well, those of a message too."""
    with pytest.raises(TypeError, match="did you mean 'top_k'"):
        run_request("m", "x", {"topk": 3})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(TypeError, match="a lease has no 'ttl'"):
        lease_request([], {"ttl": 3})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(TypeError, match="a message has no 'contents'; did you mean 'content'"):
        run_request("m", [{"role": "user", "contents": "x"}], {})


def test_messages_as_others_write_them() -> None:
    """Messages may be written as for other interfaces: parts, calls of tools as objects, no content at all."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": ""},
        {"role": "tool", "content": "c", "tool_call_id": "1", "name": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
    ]
    options: RunOptions = {"tools": [{"function": {}}], "template_variables": {"a": [1, True, None], "b": {"c": "d"}}}
    chat = run_request("m", said, options).spec.chat
    assert [part.text for part in chat.messages[0].parts] == ["a", "b"]
    assert chat.messages[1].tool_calls_json.startswith('[{"id": "1"')
    assert chat.messages[1].HasField("reasoning_content")
    assert not chat.messages[2].HasField("reasoning_content")
    assert chat.messages[3].parts[0].image.url == "https://x/y.png"
    assert chat.tools_json == '[{"function": {}}]'
    assert MessageToDict(chat.template_variables) == {"a": [1, True, None], "b": {"c": "d"}}
    with pytest.raises(ValueError, match="not of type 'video'"):
        run_request("m", [{"role": "user", "content": [{"type": "video"}]}], {})


@pytest.mark.parametrize(
    ("options", "asked", "fits"),
    [
        ({}, 512, True),
        ({"max_tokens": None}, 512, True),
        ({"max_tokens": 9000}, 9000, False),
        ({"max_tokens": "all"}, None, False),
        ({"min_tokens": 600}, 600, True),
        ({"embedding": tp.EmbeddingParams()}, None, False),
    ],
)
def test_the_bound_of_the_output(options: RunOptions, asked: int | None, fits: bool) -> None:  # noqa: FBT001 - by pytest
    """Without `max_tokens` 512 are asked for, or what fits; "all" asks for what there can be."""
    sampling = run_request("m", "x", bounded(options)).spec.sampling
    assert (sampling.max_tokens if sampling.HasField("max_tokens") else None) == asked
    assert sampling.fit_max_tokens == fits


async def test_an_output_that_the_default_cut(scripted: Any) -> None:
    """An output that ends at the client's own bound warns where it was asked for; one that ends otherwise does not."""
    scripted.models["long"] = scripted.models["echo"]
    async with AsyncClient(scripted.address) as asynchronous:
        with Client(scripted.address) as client:
            with pytest.warns(DefaultLimitWarning, match="512 tokens") as told:
                assert client.generate("long", "x").cut
            with pytest.warns(DefaultLimitWarning) as told_too:
                assert "".join(client.stream("long", "x"))
            with pytest.warns(DefaultLimitWarning):
                assert (await asynchronous.generate("long", "x")).cut
            with pytest.warns(DefaultLimitWarning):
                assert [piece async for piece in asynchronous.stream("long", "x")]
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert client.generate("long", "x", max_tokens=8).cut
                assert not client.generate("echo", "x").cut
    assert {warning.filename for warning in (*told, *told_too)} == {__file__}


def test_defaults_of_a_model_are_sent() -> None:
    """What a model's tasks take for what they leave out is part of what makes it known."""
    with Client("127.0.0.1:1") as client:
        sent: list[Any] = []
        client._call = lambda _, request: sent.append(request) or request  # type: ignore[method-assign]
        client.create_model("m", "/m.gguf", sampling_defaults=SamplingDefaults(temperature=0.5))
    assert sent[0].model.sampling_defaults == SamplingDefaults(temperature=0.5)
