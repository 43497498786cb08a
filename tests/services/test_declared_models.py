"""Models that the configuration declares are known when the kernel serves, and loaded if they are to be warm."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connection import Connection, read_all, read_until, refusal, text_of

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

GIB = 1 << 30  # all that the device of the FakeBackend has


@asynccontextmanager
async def declared(folder: Path, *entries: Any, kept: bool = False) -> AsyncIterator[Connection]:
    """A kernel whose configuration declares these models."""
    settings = {"store": {"url": f"sqlite:{folder}/kept"}} if kept else {}
    async with kernel_here(folder, models=entries, workers={"restart_backoff_s": 0.01}, **settings) as made:
        connection = Connection(made, folder)
        yield connection
        await connection.channel.close()


def entry(folder: Path, name: str = "m", behaviour: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "source": str(write_fake_model(folder, name, **(behaviour or {}))), **more}


async def listed(connection: Connection) -> ms.ListModelsResponse:
    answer: ms.ListModelsResponse = await connection.models.ListModels(ms.ListModelsRequest())
    return answer


async def get(connection: Connection, name: str = "m") -> mp.Model:
    model: mp.Model = (await connection.models.GetModel(ms.GetModelRequest(name=name))).model
    return model


async def until(connection: Connection, name: str, state: int) -> mp.Model:
    """A model once it is in a state."""
    watched = connection.models.WatchModel(ms.WatchModelRequest(name=name), timeout=60)
    async for response in watched:
        if response.model.state == state:
            watched.cancel()
            found: mp.Model = response.model
            return found
    raise AssertionError


async def test_a_wrong_entry_hinders_no_other(tmp_path: Path) -> None:
    """Each is told with its place, its field and why; who asks for its model is told, too, and the others serve."""
    wrong = [
        {"source": "/nowhere"},
        {"name": "typo", "source": "/nowhere", "min_instance": 1},
        {"name": "gone", "source": str(tmp_path / "gone.fake")},
        {"name": "pulled", "source": "smollm9"},
        {"name": "bounds", "source": "/x", "min_instances": 3, "max_instances": 2},
        {"name": "set", **{k: v for k, v in entry(tmp_path, "set").items() if k != "name"}, "settings": {"nosuch": 1}},
        entry(tmp_path, "good"),
        "no table",
    ]
    good = entry(tmp_path, "good", aliases=["prod"], labels={"team": "a"}, pin=True, settings={"idle_s": 60})
    async with declared(tmp_path, good, *wrong) as connection:
        assert text_of(await read_all(connection.chat("hello", model="prod"))) == "hello"
        answer = await listed(connection)
        (model,) = answer.models
        assert (model.name, model.aliases, dict(model.labels), model.pin, dict(model.settings)) == (
            "good", ["prod"], {"team": "a"}, True, {"idle_s": "60"},
        )  # fmt: skip
        assert model.declared.endswith("[[models]] 1 (good)")
        told = {fault.where.partition("[[models]] ")[2]: (fault.field, fault.why) for fault in answer.faults}
        assert sorted(told) == [
            "2", "3 (typo)", "4 (gone)", "5 (pulled)", "6 (bounds)", "7 (set)", "8 (good)", "9",
        ]  # fmt: skip
        assert told["2"] == ("name", "it is missing")
        assert told["3 (typo)"][0] == "min_instance"
        assert "min_instances" in told["3 (typo)"][1]
        assert (told["4 (gone)"][0], told["5 (pulled)"][0], told["7 (set)"][0]) == ("source", "source", "settings")
        assert "inferd pull smollm9" in told["5 (pulled)"][1]
        assert told["4 (gone)"][1] == f"{tmp_path}/gone.fake does not exist"
        assert "min_instances is 3" in told["6 (bounds)"][1]
        assert told["8 (good)"][0] == "name"
        reason, facts = await refusal(connection.models.GetModel(ms.GetModelRequest(name="gone")))
        assert (reason, "4 (gone), source" in facts["cause"]) == ("MODEL_NOT_FOUND", True)


async def test_the_declaration_wins_over_what_was_kept(tmp_path: Path) -> None:
    """What is otherwise becomes a new version without being loaded; a second start with the same changes nothing."""
    first = entry(tmp_path, aliases=["prod"], labels={"a": "1"})
    async with declared(tmp_path, first, kept=True) as connection:
        await connection.models.UpdateModel(
            ms.UpdateModelRequest(name="m", labels={"a": "2"}, settings={"context_tokens": "256"})
        )
        await connection.create("other")
        await connection.models.UpdateModel(ms.UpdateModelRequest(name="other", add_aliases=["prod"]))
    for _ in range(2):
        async with declared(tmp_path, first, kept=True) as connection:
            model = await get(connection, "prod")
            assert (model.name, model.version, dict(model.labels), dict(model.settings)) == ("m", 3, {"a": "1"}, {})
            assert (model.state, len(model.instances)) == (mp.MODEL_STATE_UNLOADED, 0)
            versions = (await connection.models.ListModelVersions(ms.ListModelVersionsRequest(name="m"))).versions
            assert [each.number for each in versions] == [3, 2, 1]
            assert versions[0].requested_by == "the configuration"
            assert not (await get(connection, "other")).aliases
    async with declared(tmp_path, kept=True) as connection:
        assert (await get(connection)).version == 3  # what is declared no more stays


async def test_declarations_are_read_again_while_the_model_runs(tmp_path: Path) -> None:
    """The new version is rolled out beside the old; one that cannot be loaded is told, and the old one serves on."""
    old = entry(tmp_path, behaviour={"step_s": 0.002})
    async with declared(tmp_path, old) as connection:
        running = connection.endless(model="m", tokens=200)
        before = await read_until(running, "output")
        await connection.kernel.declaring.read_again([{**entry(tmp_path, "new"), "name": "m"}])
        model = await get(connection)
        assert (model.version, model.state) == (2, mp.MODEL_STATE_READY)
        assert text_of(before + await read_all(running)) == "la" * 100
        broken = entry(tmp_path, "broken", behaviour={"load_error": "bad tensor"})
        await connection.kernel.declaring.read_again([{**broken, "name": "m"}])
        assert (await get(connection)).version == 2
        (fault,) = (await listed(connection)).faults
        assert "bad tensor" in fault.why
        await connection.kernel.declaring.read_again([{**entry(tmp_path, "new"), "name": "m"}, entry(tmp_path, "n")])
        answer = await listed(connection)
        assert ([model.name for model in answer.models], len(answer.faults)) == (["m", "n"], 0)


async def test_a_number_that_no_worker_can_be_told_is_a_fault_until_it_is_mended(tmp_path: Path) -> None:
    """It is told with both numbers, and makes no model; read again with another one the model is there, and loads."""
    wrong = entry(tmp_path, settings={"context_tokens": 10**20}, warm=True)
    async with declared(tmp_path, wrong) as connection:
        (fault,) = (await listed(connection)).faults
        assert (fault.field, str(10**20) in fault.why, str((1 << 63) - 1) in fault.why) == ("settings", True, True)
        await connection.kernel.declaring.read_again([{**wrong, "settings": {"context_tokens": 64}}])
        assert (await until(connection, "m", mp.MODEL_STATE_READY)).instances[0].context_tokens == 64
        assert not (await listed(connection)).faults


async def test_warm_models_are_loaded_at_the_start_where_there_is_room(tmp_path: Path) -> None:
    """One is; one that fails ends nothing, and one that would have another evicted is not loaded."""
    half = {"weights_bytes": int(0.6 * GIB)}
    entries = (
        entry(tmp_path, "a", behaviour={"load_error": "bad tensor"}, warm=True),
        entry(tmp_path, "b", behaviour=half, warm=True),
        entry(tmp_path, "c", behaviour=half, warm=True),
    )
    async with declared(tmp_path, *entries) as connection:
        assert "bad tensor" in (await until(connection, "a", mp.MODEL_STATE_FAILED)).error.message
        ready = await until(connection, "b", mp.MODEL_STATE_READY)
        await asyncio.wait_for(connection.kernel.declaring.settled.wait(), 60)
        assert (await get(connection, "c")).state == mp.MODEL_STATE_UNLOADED
        assert (await get(connection, "b")).instances[0].pid == ready.instances[0].pid


PROBE = {"prompts": [{"prompt": "hello", "most_tokens": 16, "contains": ["ell"], "most_time": 30}]}


async def test_what_new_versions_have_to_show_is_declared(tmp_path: Path) -> None:
    """Sampling, probe and steps hold: a version that is worse by either serves nothing, and the list tells why."""
    terms: dict[str, Any] = {
        "sampling_defaults": {"temperature": 0, "top_k": 5},
        "probe": PROBE,
        "canary": {"steps": [{"share": 0.5}]},
    }
    async with declared(tmp_path, entry(tmp_path, **terms)) as connection:
        model = await get(connection)
        assert (model.sampling_defaults.temperature, model.sampling_defaults.top_k) == (0, 5)
        assert model.probe.prompts[0].contains == ["ell"]
        await read_all(connection.chat("hello", model="m"))
        mute = {**entry(tmp_path, "mute", {"mute": True}), "name": "m"}
        await connection.kernel.declaring.read_again([mute])  # a declaration that says nothing of it leaves the probe
        assert ["PROBE_FAILED" in fault.why or "probe" in fault.why for fault in (await listed(connection)).faults] == [
            True
        ]
        raising = {**entry(tmp_path, "raising", {"fail_on_token": ord("x")}), "name": "m"}
        reading = asyncio.ensure_future(
            connection.kernel.declaring.read_again([{**raising, "canary": "50%,100%", "probe": {}}])
        )
        while not reading.done():
            assert text_of(await read_all(connection.chat("x", model="m"))) == "x"
        (fault,) = (await listed(connection)).faults
        assert "most_failed" in fault.why
        model = await get(connection)
        assert (model.version, model.HasField("probe")) == (1, False)


async def test_a_declaration_that_changed_while_no_kernel_ran_has_to_pass_its_probe(tmp_path: Path) -> None:
    """The version of before serves where the new one does not answer as it must; one that does takes its place."""
    async with declared(tmp_path, entry(tmp_path, probe=PROBE), kept=True):
        pass
    mute = {**entry(tmp_path, "mute", {"mute": True}, probe=PROBE), "name": "m"}
    async with declared(tmp_path, mute, kept=True) as connection:
        await connection.kernel.declaring.settled.wait()
        assert ((await get(connection)).version, len((await listed(connection)).faults)) == (1, 1)
        assert text_of(await read_all(connection.chat("hello", model="m"))) == "hello"
    good = {**entry(tmp_path, "good", probe=PROBE), "name": "m"}
    async with declared(tmp_path, good, kept=True) as connection:
        await connection.kernel.declaring.settled.wait()
        assert ((await get(connection)).version, (await listed(connection)).faults) == (3, [])


async def test_wrong_terms_are_told_with_their_key(tmp_path: Path) -> None:
    """Of a probe, steps and numbers the very key is named, with the nearest one that there is."""
    wrong: tuple[tuple[dict[str, Any], str, str], ...] = (
        ({"smapling_defaults": {}}, "smapling_defaults", "did you mean 'sampling_defaults'"),
        ({"sampling_defaults": {"temprature": 1}}, "sampling_defaults.temprature", "did you mean 'temperature'"),
        ({"sampling_defaults": {"top_p": 2}}, "sampling_defaults.top_p", "at most 1"),
        ({"sampling_defaults": {"top_k": 1.5}}, "sampling_defaults.top_k", "it must be"),
        ({"sampling_defaults": {"top_p": "1"}}, "sampling_defaults.top_p", "number"),
        ({"probe": {"prompts": [{"promt": "x"}]}}, "probe.prompts[0].promt", "did you mean 'prompt'"),
        ({"probe": {"prompts": [{"prompt": "x"}]}}, "probe.prompts[0]", "says nothing of its answer"),
        (
            {"probe": {"prompts": [{"prompt": "x", "finish_reason": "max_tokns"}]}},
            "probe.prompts[0].finish_reason",
            "did you mean 'max_tokens'",
        ),
        ({"probe": {"prompts": [{"prompt": "x", "contains": "y"}]}}, "probe.prompts[0].contains", "no list"),
        ({"probe": {"prompts": [{"prompt": "x", "chat": {}}]}}, "probe", "oneof"),
        ({"canary": "5%,2%"}, "canary", "step 2"),
        ({"canary": {"steps": [{"share": 1, "least_tsks": 2}]}}, "canary.steps[0].least_tsks", "'least_tasks'"),
        ({"canary": {"steps": [{"share": "a"}]}}, "canary.steps[0].share", "a number"),
        ({"canary": 5}, "canary", "no table"),
    )
    entries = [entry(tmp_path, f"m{n}", **terms) for n, (terms, _, _) in enumerate(wrong)]
    async with declared(tmp_path, *entries) as connection:
        told = {fault.name: fault for fault in (await listed(connection)).faults}
    for n, (_, field, why) in enumerate(wrong):
        fault = told[f"m{n}"]
        assert (fault.field, why in fault.why) == (field, True), fault


async def test_a_name_that_is_declared_for_a_version_stays_that(tmp_path: Path) -> None:
    """Whichever serves, over a new start too; it moves with its declaration, and one for no version is told."""
    old, new = entry(tmp_path, "old", {"step_s": 0.001}), entry(tmp_path, "new")
    async with declared(tmp_path, {**old, "name": "m", "version_aliases": {"stable": 1}}, kept=True) as connection:
        assert (await get(connection, "stable")).name == "m@1"
        await connection.kernel.declaring.read_again([{**new, "name": "m", "version_aliases": {"stable": 1}}])
        assert ((await get(connection)).version, (await get(connection, "stable")).name) == (2, "m@1")
    wanted = {**new, "name": "m", "version_aliases": {"stable": 1, "next": 9}, "aliases": ["prod"]}
    async with declared(tmp_path, wanted, kept=True) as connection:
        model = await get(connection, "stable")
        assert (model.name, model.source.rpartition("/")[2]) == ("m@1", "old.fake")
        assert text_of(await read_all(connection.chat("hello", model="stable"))) == "hello"
        (fault,) = (await listed(connection)).faults
        assert (fault.field, fault.why) == ("version_aliases.next", "model 'm' has no version 9; it has 1, 2")
        assert (await get(connection, "prod")).name == "m"
        await connection.kernel.declaring.read_again([{**wanted, "version_aliases": {"stable": 2}}])
        assert (await get(connection, "stable")).name == "m@2"
        twice = [{**wanted, "version_aliases": {"prod": 1}}, {**entry(tmp_path, "n"), "version_aliases": {"n": 1}}]
        await connection.kernel.declaring.read_again(twice)
        assert [fault.field for fault in (await listed(connection)).faults] == ["version_aliases"] * 2
