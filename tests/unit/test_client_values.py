"""Values of options that are of a wrong kind, out of range, or more than the transport counts."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

from inferd_api.v1.sampling_pb2 import Choice
from inferd_client import AsyncClient, Client, Grammar, claims
from inferd_client.channel import target
from inferd_client.claims import lease_request
from inferd_client.options import KINDS
from inferd_client.tasks import run_request
from inferd_client.values import OPTIONS

# Checked where they are written.
UNCHECKED = {"prompt", "text", "pipeline", "value", "metadata", "data", "held", "credential"}
TASK: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"stop": "Paris"}, TypeError, r"stop is 'Paris' of type str; it must be a list of texts; write \['Paris'\]"),
    ({"bad_words": "x"}, TypeError, r"bad_words is 'x'.*write \['x'\]"),
    ({"stop": ["a", 3]}, TypeError, r"stop\[1\] is 3 of type int; it must be a text"),
    ({"stop": b"ab"}, TypeError, "stop is b'ab'"),
    ({"stop_token_ids": 5}, TypeError, r"stop_token_ids is 5.*write \[5\]"),
    ({"stop_token_ids": [-1]}, ValueError, r"stop_token_ids\[0\] is -1"),
    ({"max_tokens": "3"}, TypeError, r"max_tokens is '3' of type str; it must be a whole number from 0.*or \"all\""),
    ({"max_tokens": -1}, ValueError, "max_tokens is -1; it must be a whole number from 0"),
    ({"max_tokens": 3.0}, TypeError, "max_tokens is 3.0 of type float"),
    ({"n": "2"}, TypeError, "n is '2'"),
    ({"seed": -1}, ValueError, "seed is -1"),
    ({"temperature": "hot"}, TypeError, "temperature is 'hot' of type str; it must be a number"),
    ({"temperature": True}, TypeError, "temperature is True of type bool"),
    ({"logprobs": True}, TypeError, "logprobs is True"),
    ({"echo": 1}, TypeError, "echo is 1 of type int; it must be True or False"),
    ({"priority": 3}, TypeError, 'priority is 3 of type int; it must be "low", "normal" or "high"'),
    ({"priority": "urgent"}, ValueError, "priority is 'urgent'"),
    ({"lease": 5}, TypeError, "lease is 5"),
    ({"grammar": "x"}, TypeError, r"grammar is 'x'.*write Grammar\(regex="),
    ({"logit_bias": [1]}, TypeError, r"logit_bias is \[1\] of type list; it must be a mapping"),
    ({"logit_bias": {1: "x"}}, TypeError, r"logit_bias\[1\] is 'x'"),
    ({"labels": [1]}, TypeError, r"labels is \[1\]"),
    ({"labels": {"a": 1}}, TypeError, r"labels\['a'\] is 1"),
    ({"timeout_s": math.nan}, ValueError, "timeout_s is nan"),
    ({"timeout_s": -1}, ValueError, "timeout_s is -1"),
    ({"timeout_s": "3"}, TypeError, "timeout_s is '3'"),
    ({"output_interval_s": math.inf}, ValueError, "output_interval_s is inf"),
    ({"json_schema": "{}"}, TypeError, r"no 'json_schema'; write grammar=Grammar\(json_schema="),
    ({"regex": "a"}, TypeError, r"no 'regex'; write grammar=Grammar\(regex="),
    ({"tools": "x"}, TypeError, "tools is 'x'"),
]
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("generate", ("m", 5), {}, "prompt is 5 of type int"),
    ("generate", ("m", b"ab"), {}, "prompt is b'ab'"),
    ("generate", ("m", {"role": "user", "content": "x"}), {}, r"write \[message\]"),
    ("generate", ("m", [{"role": 5, "content": "x"}]), {}, r"messages\[0\].role is 5"),
    ("generate", ("m", [{"role": "user", "content": 5}]), {}, r"messages\[0\].content is 5"),
    ("generate", (None, "x"), {}, "model is None"),
    ("tokenize", ("m", 5), {}, "prompt is 5"),
    ("detokenize", ("m", "abc"), {}, "token_ids is 'abc'"),
    ("get_task", (5,), {}, "task_id is 5"),
    ("watch", ("t", "1"), {}, "after_sequence is '1'"),
    ("list_tasks", (), {"states": 3}, r"states is 3.*write \[3\]"),
    ("keep_alive", ("abc",), {}, r"lease_ids is 'abc'.*write \['abc'\]"),
    ("create_model", ("m", "/m"), {"settings": {"a": []}}, r"settings\['a'\] is \[\]"),
    ("create_model", ("m", "/m"), {"settings": "threads=4"}, "settings is 'threads=4'"),
    ("create_lease", ("x",), {}, r"claims\[0\] is 'x'"),
    ("watch_host", (), {"interval_s": "1"}, "interval_s is '1'"),
    ("health", (5,), {}, "service is 5"),
    ("get_blob", (5,), {}, "digest is 5 of type int; it must be a text"),
    ("create_key", ("anna",), {"roles": "user"}, r"roles is 'user'.*write \['user'\]"),
    ("create_key", ("anna",), {"expire_time": "never"}, "expire_time is 'never' of type str; it must be a Unix time"),
    ("upload_model", ("m", 5), {}, "path is 5 of type int; it must be a path"),
]


@pytest.mark.parametrize(("options", "kind", "told"), TASK, ids=[next(iter(options)) for options, *_ in TASK])
async def test_a_wrong_value_of_a_task(options: dict[str, Any], kind: type[Exception], told: str) -> None:
    """A wrong value is told at the call, with the option, what it is and what it must be, and never read otherwise."""
    async with AsyncClient("127.0.0.1:1") as asynchronous:
        with Client("127.0.0.1:1") as client:
            for method in (client.run, asynchronous.run, client.generate):
                with pytest.raises(kind, match=told):
                    method("m", "x", **options)


@pytest.mark.parametrize(("method", "given", "options", "told"), CALLS, ids=[call[-1] for call in CALLS])
async def test_a_wrong_value_of_a_call(method: str, given: Any, options: dict[str, Any], told: str) -> None:
    """The arguments of every other method are told in the same way."""
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match=told):
        getattr(client, method)(*given, **options)


def test_every_option_has_a_kind() -> None:
    """There is no parameter of a public method, and no keyword, whose values nobody checks."""
    names = {name for kind in KINDS.values() for name in kind.__annotations__}
    for client in (Client, AsyncClient):
        for name, method in inspect.getmembers(client, inspect.isfunction):
            if not name.startswith("_") or name == "__init__":
                parameters = list(inspect.signature(method).parameters.values())[1:]
                names |= {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    assert sorted(names - OPTIONS.keys() - UNCHECKED) == []


def test_values_that_are_right() -> None:
    """What the options are said to be is accepted as it was, from numbers of other libraries too."""
    grammar = Grammar(choice=Choice(texts=["a"]))
    options: dict[str, Any] = {"stop": ("a", "b"), "grammar": grammar, "temperature": 1, "max_tokens": "all"}
    sampling = run_request(
        "m", "x", options | {"labels": None, "logit_bias": {3: 1}, "timeout_s": math.inf}
    ).spec.sampling
    assert list(sampling.stop) == ["a", "b"]
    assert (sampling.grammar, sampling.temperature, dict(sampling.logit_bias)) == (grammar, 1.0, {3: 1.0})
    numpy = pytest.importorskip("numpy")
    numbers: dict[str, Any] = {"max_tokens": numpy.int64(3), "temperature": numpy.float32(0.5), "echo": numpy.bool_(1)}
    spec = run_request("m", numpy.arange(3), numbers).spec
    assert (list(spec.tokens.token_ids), spec.sampling.max_tokens, spec.sampling.echo) == ([0, 1, 2], 3, True)


@pytest.mark.parametrize(
    "call",
    [
        lambda client, text: client.embed("m", text),
        lambda client, text: list(client.run("m", [{"role": "user", "content": text}])),
        lambda client, text: list(client.run("m", "x", stop=[text])),
        lambda client, text: list(client.run(text, "x")),
        lambda client, text: client.tokenize("m", text),
        lambda client, text: client.count_tokens("m", text),
        lambda client, text: client.rerank("m", "x", [text]),
        lambda client, text: client.infer("m", {text: 1.0}),
        lambda client, text: client.infer("m", {}, outputs=[text]),
    ],
)
def test_halves_of_characters(call: Callable[[Client, str], Any]) -> None:
    """A text that no UTF-8 has is a UnicodeError that tells which and where, before anything is sent."""
    with (
        Client("127.0.0.1:9") as client,
        pytest.raises(UnicodeError, match=r"a text that begins 'ab\\ud800' holds '\\ud800' at 2: half a character"),
    ):
        call(client, "ab\ud800")


def test_settings_may_be_numbers() -> None:
    """Numbers, true and false as settings of a model are written as the texts that backends read."""
    with Client("127.0.0.1:1") as client:
        sent: list[Any] = []
        client._call = lambda _, request: sent.append(request) or request  # type: ignore[method-assign]
        client.create_model("m", "/m.gguf", settings={"threads": 4, "fast": True, "scale": 0.5, "kind": "a"})
    assert dict(sent[0].model.settings) == {"threads": "4", "fast": "true", "scale": "0.5", "kind": "a"}


@pytest.mark.parametrize("timeout_s", [math.inf, 1e300, 7.5e9, 3e8, 99e6])
async def test_a_deadline_beyond_all_counting(scripted: Any, timeout_s: float) -> None:
    """A deadline later than the transport counts is none, for calls, tasks and the client itself, of both clients."""
    with Client(scripted.address, timeout_s=timeout_s) as client:
        assert client.get_host()
        assert client.generate("echo", "x", timeout_s=timeout_s).text
    async with AsyncClient(scripted.address, timeout_s=timeout_s) as asynchronous:
        assert await asynchronous.get_host()
        assert (await asynchronous.generate("echo", "x", timeout_s=timeout_s)).text


def test_spans_of_leases() -> None:
    """A wait without end names none; a TTL without end is refused, one beyond the wire is its most."""
    assert not lease_request([claims.cores(1)], {"wait_timeout_s": math.inf}).spec.HasField("wait_timeout")
    assert lease_request([claims.cores(1)], {"ttl_s": 1e300}).spec.ttl.seconds == 315_576_000_000
    for value in (math.inf, math.nan, -1):
        with pytest.raises(ValueError, match="ttl_s is "):
            lease_request([claims.cores(1)], {"ttl_s": value})
    with pytest.raises(ValueError, match="timeout_s is nan"):
        Client("127.0.0.1:1", timeout_s=math.nan)
    for wrong in ({"size_bytes": "4GiB"}, {"size_bytes": -1}):
        with pytest.raises((TypeError, ValueError), match="size_bytes is"):
            claims.memory(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"count is 1\.5"):
        claims.cores(1.5)  # type: ignore[arg-type]


async def test_a_closed_client_says_so() -> None:
    """Calls of a client that was closed tell that, and where it was connected."""
    client, asynchronous = Client("127.0.0.1:1"), AsyncClient("127.0.0.1:1")
    begun = client.run("m", "x")
    client.close()
    await asynchronous.close()
    for call in (client.get_host, lambda: client.generate("m", "x"), lambda: client.keep_alive(["x"])):
        with pytest.raises(RuntimeError, match=r"client of 127\.0\.0\.1:1 is closed"):
            call()
    with pytest.raises(RuntimeError, match="closed"), client.lease(claims.cores(1)):
        pass
    with pytest.raises(RuntimeError, match="closed"):
        next(begun)
    with pytest.raises(RuntimeError, match="closed"):
        await asynchronous.generate("m", "x")


def test_a_path_that_no_socket_can_have() -> None:
    """A socket's path over 107 bytes is told with both numbers, as the kernel does, and so is a port over 65535."""
    assert target("unix:/" + "a" * 106)
    with pytest.raises(ValueError, match=r"has a path of 108 bytes; at most 107"):
        target("unix:/" + "a" * 107)
    with pytest.raises(ValueError, match=r"has port 99999.*at most 65535"):
        target("127.0.0.1:99999")
