"""What programs that speak OpenAI's or Ollama's HTTP do with a gateway, each by a library that others wrote.

Run by `compat_openai.py` in an environment of its own, one probe a process: `openai_probes.py PROBE URL KEY`. A probe
fails by an exception. It knows nothing of inferd but the URL and the key.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = "smollm2"
ASKED = [{"role": "user", "content": "Say one short sentence."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

WEATHER = [{"role": "user", "content": "The weather in Bern?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"{name} of a city", "parameters": CITY}}
    for name in ("get_weather", "get_time")
]


def check(what: object, words: str) -> None:
    """Fail unless something holds."""
    if not what:
        raise SystemExit(f"not so: {words}")


def openai_chat(url: str, key: str) -> None:
    """Whole and streamed, with usage, log probabilities, several samples, JSON by a schema, and errors."""
    import openai  # noqa: PLC0415 - each probe needs its own library alone

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    check(MODEL in [each.id for each in client.models.list()], "the model is listed")
    whole = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=12, n=2, temperature=0)
    check(len(whole.choices) == 2 and whole.usage.completion_tokens > 0, "two samples and their usage")
    stream = client.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    check(text == whole.choices[0].message.content, "the stream says what the whole says")
    check(usage is not None and usage.total_tokens > 0, "the stream tells usage")
    told = client.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=4, logprobs=True, top_logprobs=2, seed=1, stop=["\n"]
    )
    check(len(told.choices[0].logprobs.content[0].top_logprobs) == 2, "log probabilities")
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    made = client.chat.completions.create(model=MODEL, messages=ASKED, response_format=form, max_tokens=60)
    check(made.choices[0].message.content.startswith("{"), "JSON")
    try:
        client.chat.completions.create(model="none", messages=ASKED)
    except openai.NotFoundError as error:
        check(error.code == "MODEL_NOT_FOUND", "the reason in the error")
    else:
        check(what=False, words="an unknown model is an error")
    check(client.completions.create(model=MODEL, prompt="One, two,", max_tokens=4).choices[0].text, "a completion")


def openai_async(url: str, key: str) -> None:
    """Eight chats at once, and one that is left early."""
    import openai  # noqa: PLC0415

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client:
            asked = [client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=6) for _ in range(8)]
            check(all(each.choices[0].message.content for each in await asyncio.gather(*asked)), "eight answers")
            stream = await client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(ask())


def openai_responses(url: str, key: str) -> None:
    """Made, streamed, gone on with, in the background, read again, cancelled."""
    import openai  # noqa: PLC0415

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    made = client.responses.create(model=MODEL, input="Say a word.", max_output_tokens=8, temperature=0)
    check(made.output_text, "a text")
    more = client.responses.create(
        model=MODEL, input="Again.", max_output_tokens=8, previous_response_id=made.id, stream=True
    )
    check([each.type for each in more][-1] in ("response.completed", "response.incomplete"), "the last event")
    behind = client.responses.create(model=MODEL, input="Say a word.", max_output_tokens=8, background=True)
    events = list(client.responses.retrieve(behind.id, stream=True))
    middle = len(events) // 2
    again = list(client.responses.retrieve(behind.id, stream=True, starting_after=events[middle].sequence_number))
    told = ["".join(getattr(each, "delta", "") for each in part) for part in (events[middle + 1 :], again)]
    check(told[0] == told[1] and again[-1].type == events[-1].type, "the stream is taken up")
    check(client.responses.retrieve(behind.id).output_text, "it can be read again")
    ended = client.responses.create(model=MODEL, input="Count to a thousand.", background=True)
    check(client.responses.cancel(ended.id).status in ("cancelled", "completed"), "it is cancelled")


def openai_vectors(url: str, key: str) -> None:
    """Embeddings, which the library asks for in base64."""
    import openai  # noqa: PLC0415

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    given = client.embeddings.create(model=MODEL, input=["a", "b"])
    check(len(given.data) == 2 and isinstance(given.data[0].embedding[0], float), "two vectors")


def openai_stores(url: str, key: str) -> None:
    """Vector stores: made, filled with files and their attributes, searched with filters, listed, emptied, deleted."""
    import openai  # noqa: PLC0415

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    store = client.vector_stores.create(name="notes", metadata={"of": "us"})
    texts = {"oak.md": b"# Oaks\n\nJays bury acorns in autumn.", "whale.txt": b"Whales sing in the sea."}
    files = {}
    for name, text in texts.items():
        uploaded = client.files.create(file=(name, text), purpose="assistants")
        files[name] = uploaded.id
        added = client.vector_stores.files.create_and_poll(
            uploaded.id, vector_store_id=store.id, attributes={"kind": name.partition(".")[0]}
        )
        check(added.status == "completed", "a file is in the store")
    check(client.vector_stores.retrieve(store.id).file_counts.completed == len(texts), "its files are counted")
    found = client.vector_stores.search(store.id, query="Where are acorns?").data
    check(found[0].filename == "oak.md" and "acorns" in found[0].content[0].text, "a file is found by its words")
    sea = {"type": "eq", "key": "kind", "value": "whale"}
    found = client.vector_stores.search(store.id, query="whales acorns", filters=sea).data
    check([each.filename for each in found] == ["whale.txt"], "filters hold")
    check({each.id for each in client.vector_stores.files.list(store.id)} == {*files.values()}, "files are listed")
    (text,) = client.vector_stores.files.content(files["whale.txt"], vector_store_id=store.id)
    check(text.text == texts["whale.txt"].decode(), "the text of a file is told")
    check(client.vector_stores.files.delete(files["oak.md"], vector_store_id=store.id).deleted, "a file leaves")
    check(not client.vector_stores.search(store.id, query="acorns").data, "and is found no more")
    check(store.id in {each.id for each in client.vector_stores.list()}, "stores are listed")
    check(client.vector_stores.delete(store.id).deleted, "a store is deleted")


def openai_tools(url: str, key: str) -> None:
    """Calls of tools: forced, one of several by name, streamed, answered; and as items of a response."""
    import json  # noqa: PLC0415

    import openai  # noqa: PLC0415

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    forced = {"type": "function", "function": {"name": "get_weather"}}
    made = client.chat.completions.create(
        model=MODEL, messages=WEATHER, tools=TOOLS, tool_choice=forced, max_tokens=120, temperature=0
    )
    (call,) = made.choices[0].message.tool_calls
    check(made.choices[0].finish_reason == "tool_calls", "the end is a call")
    check(isinstance(json.loads(call.function.arguments)["city"], str), "its arguments are as the schema wants them")
    stream = client.chat.completions.create(
        model=MODEL, messages=WEATHER, tools=TOOLS, tool_choice=forced, max_tokens=120, temperature=0, stream=True
    )
    parts = [part for chunk in stream for choice in chunk.choices for part in choice.delta.tool_calls or ()]
    check("".join(part.function.arguments or "" for part in parts) == call.function.arguments, "the stream says it too")
    answered = [
        *WEATHER,
        made.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    said = client.chat.completions.create(model=MODEL, messages=answered, tools=TOOLS, tool_choice="none", max_tokens=8)
    check(said.choices[0].message.content is not None, "it goes on behind the answer of a tool")
    any_of_them = client.chat.completions.create(
        model=MODEL, messages=WEATHER, tools=TOOLS, tool_choice="required", max_tokens=120, temperature=0
    )
    check(any_of_them.choices[0].message.tool_calls, "a call that is required")
    flat = [{"type": "function", **TOOLS[0]["function"]}]
    response = client.responses.create(
        model=MODEL, input="The weather in Bern?", tools=flat, tool_choice="required", max_output_tokens=120
    )
    check(any(item.type == "function_call" for item in response.output), "a response with a call")


def ollama_tools(url: str, key: str) -> None:
    """A chat that is offered tools."""
    from ollama import Client  # noqa: PLC0415

    client = Client(host=url, headers={"Authorization": f"Bearer {key}"})
    made = client.chat(model=MODEL, messages=WEATHER, tools=TOOLS, options={"num_predict": 12, "temperature": 0})
    check(made.message.content or made.message.tool_calls, "an answer, or a call")


def langchain_tools(url: str, key: str) -> None:
    """`ChatOpenAI.bind_tools`: invoked and streamed; and a structured output by a call."""
    from langchain_openai import ChatOpenAI  # noqa: PLC0415

    chat = ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key=key, max_tokens=120, temperature=0)
    bound = chat.bind_tools(TOOLS, tool_choice="get_weather")
    (call,) = bound.invoke("The weather in Bern?").tool_calls
    check(call["name"] == "get_weather" and "city" in call["args"], "a call")
    streamed = None
    for chunk in bound.stream("The weather in Bern?"):
        streamed = chunk if streamed is None else streamed + chunk
    check(streamed is not None and streamed.tool_calls[0]["args"] == call["args"], "the same in a stream")
    person = {"title": "person", "description": "a person", **SCHEMA}
    structured = chat.with_structured_output(person, method="function_calling")
    check("name" in structured.invoke("Who are you?"), "a structured output by a call")


def ollama(url: str, key: str) -> None:
    """Chats, completions, vectors, and what models there are."""
    from ollama import Client  # noqa: PLC0415

    client = Client(host=url, headers={"Authorization": f"Bearer {key}"})
    check(MODEL in [each.model for each in client.list().models], "the model is listed")
    whole = client.chat(model=MODEL, messages=ASKED, options={"num_predict": 12, "temperature": 0})
    stream = client.chat(model=MODEL, messages=ASKED, options={"num_predict": 12, "temperature": 0}, stream=True)
    check("".join(each.message.content for each in stream) == whole.message.content, "the stream says the same")
    check(whole.eval_count == 12 and whole.eval_duration > 0, "counts and times")
    check(client.generate(model=MODEL, prompt="One, two,", options={"num_predict": 4}).response, "a completion")
    made = client.chat(model=MODEL, messages=ASKED, format=SCHEMA, options={"num_predict": 60})
    check(made.message.content.startswith("{"), "JSON")
    check(len(client.embed(model=MODEL, input=["a", "b"]).embeddings) == 2, "two vectors")
    check(client.show(MODEL).capabilities, "a model is shown")
    check(client.ps().models[0].context_length, "what runs is told")


def langchain(url: str, key: str) -> None:
    """`ChatOpenAI`: invoked, streamed, with a structured output; and `OpenAIEmbeddings`."""
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # noqa: PLC0415

    chat = ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key=key, max_tokens=12, temperature=0)
    whole = chat.invoke("Say one short sentence.")
    check(whole.usage_metadata["output_tokens"], "usage")
    check("".join(str(each.content) for each in chat.stream("Say one short sentence.")) == whole.content, "the stream")
    person = {"title": "person", **SCHEMA}
    structured = ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key=key, max_tokens=80).with_structured_output(
        person, method="json_schema"
    )
    check("name" in structured.invoke("Who are you?"), "a structured output")
    vectors = OpenAIEmbeddings(
        model=MODEL, base_url=f"{url}/v1", api_key=key, check_embedding_ctx_length=False
    ).embed_documents(["a", "b"])
    check(len(vectors) == 2, "two vectors")


def llama_index(url: str, key: str) -> None:
    """`OpenAILike`: completed, chatted and streamed."""
    from llama_index.core.llms import ChatMessage  # noqa: PLC0415
    from llama_index.llms.openai_like import OpenAILike  # noqa: PLC0415

    llm = OpenAILike(
        model=MODEL, api_base=f"{url}/v1", api_key=key, is_chat_model=True, max_tokens=12, context_window=2048
    )
    check(llm.complete("Say a word.").text, "a completion")
    asked = [ChatMessage(role="user", content="Say one short sentence.")]
    check(llm.chat(asked).message.content, "a chat")
    check("".join(each.delta or "" for each in llm.stream_chat(asked)), "a stream")


def litellm(url: str, key: str) -> None:
    """By OpenAI's interface and by Ollama's."""
    import litellm as lite  # noqa: PLC0415

    whole = lite.completion(
        model=f"openai/{MODEL}", messages=ASKED, api_base=f"{url}/v1", api_key=key, max_tokens=12, temperature=0
    )
    check(whole.choices[0].message.content, "a chat")
    stream = lite.completion(
        model=f"openai/{MODEL}", messages=ASKED, api_base=f"{url}/v1", api_key=key, max_tokens=12, temperature=0,
        stream=True,
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    check(text == whole.choices[0].message.content, "the stream says the same")
    spoken = lite.completion(
        model=f"ollama_chat/{MODEL}", messages=ASKED, api_base=url, api_key=key, max_tokens=12, temperature=0
    )
    check(spoken.choices[0].message.content, "a chat by Ollama's interface")


def llm(url: str, key: str) -> None:
    """The command `llm` with a model of `extra-openai-models.yaml`."""
    with tempfile.TemporaryDirectory() as folder:
        known = f"- model_id: here\n  model_name: {MODEL}\n  api_base: {url}/v1\n  api_key_name: here\n"
        (Path(folder) / "extra-openai-models.yaml").write_text(known)
        done = subprocess.run(
            [Path(sys.executable).with_name("llm"), "-m", "here", "--key", key, "-o", "max_tokens", "12", "Say it."],
            env={**os.environ, "LLM_USER_PATH": folder}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        check(done.returncode == 0 and done.stdout.strip(), f"an answer: {done.stderr[-500:]}")


def aiperf(url: str, key: str) -> None:
    """`aiperf profile`: a load of streamed chats, all answered, with times to first tokens and output tokens."""
    import json  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(Path(sys.executable).with_name("aiperf"), "profile", "--model", MODEL, "--url", url, "--api-key", key),
            *("--endpoint-type", "chat", "--streaming", "--tokenizer", os.environ["TOKENIZER"], "--ui", "none"),
            *("--concurrency", "2", "--request-count", "6", "--isl", "24", "--osl", "8", "--random-seed", "1"),
            *("--num-dataset-entries", "6", "--workers-max", "1", "--artifact-dir", folder),
        ]
        own = {**os.environ, "HOME": folder}
        done = subprocess.run(
            command,
            env=own,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        check(done.returncode == 0, f"it ends in order: {(done.stdout + done.stderr)[-800:]}")
        (found,) = Path(folder).rglob("profile_export_aiperf.json")
        told = json.loads(found.read_text())
        check(told["request_count"]["avg"] == 6, "six requests")
        check(not (told.get("error_request_count") or {}).get("avg"), "none failed")
        check(told["time_to_first_token"]["avg"] > 0, "times to first tokens")
        check(told["output_sequence_length"]["avg"] > 0, "tokens of outputs")


PROBES = {
    each.__name__: each
    for each in (
        openai_chat,
        openai_async,
        openai_responses,
        openai_vectors,
        openai_stores,
        openai_tools,
        ollama,
        ollama_tools,
        langchain,
        langchain_tools,
        llama_index,
        litellm,
        llm,
        aiperf,
    )
}

if __name__ == "__main__":
    PROBES[sys.argv[1]](sys.argv[2], sys.argv[3])
