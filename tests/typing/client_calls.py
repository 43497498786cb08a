"""Calls of the client as a program writes them: `test_client_typing` has mypy read this, and it must find each mistake.

A line with `# type: ignore[…]` is a mistake that mypy has to see: one that it does not see is an unused ignore.
"""

from inferd_client import AsyncClient, Client, RunOptions, claims

SAID = [{"role": "user", "content": "hi"}]


def right(client: Client) -> None:
    """What is allowed."""
    options: RunOptions = {"max_tokens": 3, "temperature": 0.0}
    text: str = client.generate("m", SAID, **options).text
    for piece in client.stream("m", "x", max_tokens="all", template_variables={"enable_thinking": False}):
        text += piece
    ids: list[int] = client.tokenize("m", SAID, tools=[{}], timeout_s=3)
    vector: list[float] = client.embed("m", text, mean=True, timeout_s=1.0)
    with client.lease(claims.cores(1), wait=True) as lease:
        client.load_model("m", lease=lease)
    assert len(ids) == len(vector)


def wrong(client: Client) -> None:
    """What is not."""
    client.generate("m", SAID, max_tokenz=3)  # type: ignore[call-arg]
    client.generate("m", SAID, max_tokens="many")  # type: ignore[arg-type]
    client.stream("m", "x", temperture=0.1)  # type: ignore[call-arg]
    client.run("m", "x", priority="urgent")  # type: ignore[arg-type]
    client.embed("m", "x", meen=True)  # type: ignore[call-arg]
    client.tokenize("m", "x", toolz=[])  # type: ignore[call-arg]
    client.count_tokens("m", "x", timeout=3)  # type: ignore[call-arg]
    client.create_model("m", "/m.gguf", setting={})  # type: ignore[call-arg]
    client.create_lease(claims.cores(1), ttl=3)  # type: ignore[call-arg]
    client.lease(claims.cores(1), waits=True)  # type: ignore[call-arg]


async def wrong_too(client: AsyncClient) -> None:
    """The same of the asynchronous client."""
    await client.generate("m", SAID, max_tokenz=3)  # type: ignore[call-arg]
    client.stream("m", "x", temperture=0.1)  # type: ignore[call-arg]
    client.run("m", "x", priority="urgent")  # type: ignore[arg-type]
    await client.embed("m", "x", meen=True)  # type: ignore[call-arg]
    await client.tokenize("m", "x", toolz=[])  # type: ignore[call-arg]
    await client.create_model("m", "/m.gguf", setting={})  # type: ignore[call-arg]
    await client.create_lease(claims.cores(1), ttl=3)  # type: ignore[call-arg]
    client.lease(claims.cores(1), waits=True)  # type: ignore[call-arg]
