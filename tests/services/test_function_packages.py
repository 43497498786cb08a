"""Packages of functions: found by their entry points, and changed; calls that outlive their kernel."""

import tomllib
from pathlib import Path

import pytest

from inferd.testing.kernel import kernel_here
from inferd_client import AsyncClient, call_output
from inferd_client.errors import FunctionNotFoundError, LimitExceededError

EXAMPLE = Path(__file__).parents[2] / "examples" / "functions"
MODULE = "inferd.testing.functions"


class Site:
    """A folder of installed packages, on the path of this process and of those that it starts."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))

    def install(self, name: str, source: str) -> None:
        """A module with an entry point, as pip leaves it."""
        (self.folder / f"{name}.py").write_text(source)
        info = self.folder / f"{name}-1.0.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
        (info / "entry_points.txt").write_text(f"[inferd.functions]\n{name} = {name}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One without packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, monkeypatch)


@pytest.mark.usefixtures("_started_workers")
async def test_a_package_of_ones_own(tmp_path: Path, site: Site) -> None:
    """The example is found once it is installed, called, bounded, and served anew when it has changed."""
    told = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]["inferd.functions"]
    assert told == {"loud": "loud"}
    source = (EXAMPLE / "loud.py").read_text()
    functions = {"packages": ("loud", "broken"), "calls": 1}
    async with kernel_here(tmp_path, functions=functions) as served, AsyncClient(served.addresses[0]) as client:
        with pytest.raises(FunctionNotFoundError, match="there are none"):
            await client.call("shout", {"text": "la"})
        site.install("loud", source)
        assert await client.call("shout", {"text": "la", "times": 2}) == "LA! LA!"
        assert [piece async for piece in client.call_stream("spell", {"text": "abc"})] == ["a", "b", "c"]
        with pytest.raises(LimitExceededError) as large:
            await client.call("shout", {"text": "la", "times": 1 << 24})
        assert large.value.metadata["limit"] == str(64 << 20)
        found = [each async for each in client.list_functions()]
        assert [(each.name, each.distribution) for each in found] == [("shout", "loud 1.0.0"), ("spell", "loud 1.0.0")]
        site.install("broken", "raise RuntimeError('not today')")
        site.install(
            "loud", source.replace("@function(timeout_s=5", "@function(version=2, timeout_s=5").replace("!", "?")
        )
        assert (await client.get_function("shout")).version == 2
        assert await client.call("shout", {"text": "la"}) == "LA?"
        (site.folder / "broken.py").write_text(source.replace("shout", "roar").replace("spell", "say"))
        assert await client.call("roar", {"text": "la"}) == "LA!"


async def test_a_call_goes_on_over_the_end_of_its_kernel(tmp_path: Path) -> None:
    """A call that is kept runs again with the next kernel, which finds its package before anybody asks for it.

    A package that the configuration lets use the network reaches that, and nothing else that others do not.
    """
    functions = {"packages": (), "modules": (MODULE,), "calls": 1, "network": ("inferd",)}
    store = {"url": f"sqlite:{tmp_path}/kept.sqlite"}
    async with (
        kernel_here(tmp_path, functions=functions, store=store) as first,
        AsyncClient(first.addresses[0]) as client,
    ):
        task = await client.create_call("nap", {"seconds": 1.0}, timeout_s=300)
        assert task.labels["inferd.function"] == "nap@1"
    async with (
        kernel_here(tmp_path, functions=functions, store=store) as next_,
        AsyncClient(next_.addresses[0]) as client,
    ):
        events = [event async for event in client.watch(task.task_id)]
        reached = await client.call("reach", {"path": str(tmp_path / "kept.sqlite")})
    assert [call_output(event) for event in events if event.output.HasField("call")] == ["woke up"]
    assert reached == ["read: PermissionError", "socket"]


async def test_a_package_that_is_kept_serves_with_other_limits(tmp_path: Path) -> None:
    """Who labels a package has it kept as a model; the next kernel has it as its configuration says, and calls it."""
    store = {"url": f"sqlite:{tmp_path}/kept.sqlite"}
    for timeout_s in (60.0, 61.0):
        functions = {"packages": (), "modules": (MODULE,), "calls": 1, "timeout_s": timeout_s}
        async with (
            kernel_here(tmp_path, functions=functions, store=store) as served,
            AsyncClient(served.addresses[0]) as client,
        ):
            assert await client.call("repeat", {"text": "a"}) == "a!"
            await client.update_model("package@inferd", labels={"team": "a"})
