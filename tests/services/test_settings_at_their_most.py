"""A kernel whose times and factors are all as large as they may be."""

from pathlib import Path

from inferd.testing.extremes import settings_at_their_most
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_client import AsyncClient, Grammar, claims


async def test_each_time_and_factor_at_its_bound(tmp_path: Path) -> None:
    """Nothing overflows: chats, texts that become tokens, grammars, leases, lists and watching work as ever."""
    settings = settings_at_their_most()
    del settings["devices"]["reserve"], settings["scheduler"]["headroom"]  # parts of a whole: nothing would be left
    async with kernel_here(tmp_path, **settings) as kernel, AsyncClient(kernel.addresses[0]) as client:
        await client.create_model("fake", str(write_fake_model(tmp_path)))
        said = [{"role": "user", "content": "hello"}]
        assert (await client.generate("fake", said, timeout_s=60)).text == "hello"
        grammar = Grammar(regex="a{3}")
        assert (await client.generate("fake", "aaaa", grammar=grammar, timeout_s=60)).text == "aaa"
        assert await client.count_tokens("fake", said, timeout_s=60)
        lease = await client.create_lease(claims.model("fake"), ttl_s=1e9)
        assert (await client.keep_alive([lease.lease_id]))[0].lease_id == lease.lease_id
        assert (await client.plan_load("fake", timeout_s=60)).fits
        assert [task async for task in client.list_tasks()]
        await client.release_lease(lease.lease_id)
        await client.unload_model("fake", timeout_s=60)
