"""Models are found by other names, and by labels, and both outlive the kernel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from connection import Connection, read_all, reason_of, refusal, text_of
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc
from guarded import failing, guarded, refused
from structlog.testing import capture_logs
from test_latecomers import pull

from inferd.core.ids import ModelName
from inferd.core.traits import Traits
from inferd.runtime.model_records import KeptModel
from inferd.runtime.restoring import Before, _restore_models
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_client import AsyncClient


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[Connection]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    async with kernel_here(folder, store={"url": f"sqlite:{folder}/kept"}) as made:
        connection = Connection(made, folder)
        yield connection
        await connection.channel.close()


async def give(connection: Connection, name: str, **changes: Any) -> mp.Model:
    model: mp.Model = (await connection.models.UpdateModel(ms.UpdateModelRequest(name=name, **changes))).model
    return model


async def own_name(connection: Connection, name: str) -> str:
    """The own name of the model that a name stands for."""
    found: str = (await connection.models.GetModel(ms.GetModelRequest(name=name))).model.name
    return found


async def test_an_alias_stands_for_a_model_wherever_a_call_names_one(connection: Connection) -> None:
    """A task, a lease, health and an update go to the model itself, which they tell; two calls need its name."""
    await connection.create("v1")
    await give(connection, "v1", add_aliases=["prod"])
    told = await read_all(connection.chat("hello", model="prod"))
    assert text_of(told) == "hello"
    listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
    assert [task.model for task in listed] == ["v1"]
    lease = await connection.claim(lp.Claim(model=lp.ModelClaim(model="prod", sequences=1)))
    assert lease.spec.claims[0].model.model == "v1"
    health: Any = health_pb2_grpc.HealthStub(connection.channel)
    assert (await health.Check(hp.HealthCheckRequest(service="model:prod"))).status == hp.HealthCheckResponse.SERVING
    assert (await give(connection, "prod", labels={"a": "b"})).name == "v1"
    reason, facts = await refusal(connection.models.DeleteModel(ms.DeleteModelRequest(name="prod", force=True)))
    assert (reason, facts["suggestion"]) == ("MODEL_NOT_FOUND", "v1")
    again = mp.Model(name="prod", source=str(write_fake_model(connection.folder, "other")))
    reason, facts = await refusal(connection.models.CreateModel(ms.CreateModelRequest(model=again)))
    assert (reason, facts["model"]) == ("MODEL_EXISTS", "v1")


async def test_an_alias_stands_for_a_model_in_the_orders_of_a_client(connection: Connection) -> None:
    """`generate`, `stream` and `run` of the client, and an order that is given again when the alias has moved."""
    for name in ("v1", "v2"):
        await connection.create(name)
    await give(connection, "v1", add_aliases=["prod"])
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        text = (await client.generate("prod", "la", max_tokens=2)).text
        assert text == "".join([part async for part in client.stream("prod", "la", max_tokens=2)])
        assert [event async for event in client.run("prod", "la", max_tokens=2)]
    spec = tp.TaskSpec(model="prod", prompt="la", sampling=SamplingParams(max_tokens=2))
    made = (await connection.tasks.CreateTask(ts.CreateTaskRequest(spec=spec, request_id="one"))).task
    await give(connection, "v2", add_aliases=["prod"])
    call = connection.tasks.RunTasks()
    run = ts.RunOrder(request=ts.RunTaskRequest(spec=spec, request_id="one"))
    await call.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=1, run=run)]))
    assert (await call.read()).updates[0].event.task_id == made.task_id
    await call.done_writing()
    listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
    assert {task.model for task in listed} == {"v1"}


async def test_a_task_that_is_asked_for_again_is_found_though_its_alias_has_moved(connection: Connection) -> None:
    """The same `request_id` and alias find what they made; a new request goes to where the alias stands now."""
    for name in ("v1", "v2"):
        await connection.create(name)
    await give(connection, "v1", add_aliases=["prod"])
    spec = tp.TaskSpec(model="prod", chat=tp.ChatPrompt(messages=[tp.ChatMessage(role="user", content="a")]))
    made = (await connection.tasks.CreateTask(ts.CreateTaskRequest(spec=spec, request_id="one"))).task
    assert (await give(connection, "v2", add_aliases=["prod"])).aliases == ["prod"]
    again = (await connection.tasks.CreateTask(ts.CreateTaskRequest(spec=spec, request_id="one"))).task
    other = (await connection.tasks.CreateTask(ts.CreateTaskRequest(spec=spec, request_id="two"))).task
    assert (again.task_id, again.model, other.model) == (made.task_id, "v1", "v2")


async def test_a_lease_that_is_asked_for_again_is_found_though_its_alias_has_moved(connection: Connection) -> None:
    """As a task: the same `request_id` and claims find what they made."""
    for name in ("v1", "v2"):
        await connection.create(name)
    await give(connection, "v1", add_aliases=["prod"])
    spec = lp.LeaseSpec(claims=[lp.Claim(model=lp.ModelClaim(model="prod", sequences=1))], wait=True)
    request = ls.CreateLeaseRequest(spec=spec, request_id="one")
    made = (await connection.leases.CreateLease(request)).lease
    await give(connection, "v2", add_aliases=["prod"])
    assert (await connection.leases.CreateLease(request)).lease.lease_id == made.lease_id


async def test_rules_judge_the_model_itself(tmp_path: Path) -> None:
    """An alias of a model that one may not run helps nobody, and is taken from a model only by who may change that."""
    async with guarded(tmp_path) as opened:
        for name in ("secret", "mine-a"):
            await opened.owner.create(name)
        await give(opened.owner, "secret", add_aliases=["open"])
        await opened.rule("role:user", models="secret")
        kinds, verbs = ["RESOURCE_KIND_MODEL"], ["VERB_UPDATE"]
        await opened.rule("role:user", allow=True, kinds=kinds, verbs=verbs, models="mine-*")
        await opened.rule("role:user", allow=True, kinds=kinds, verbs=["VERB_CREATE"], models="open")
        user = await opened.login("user")
        spec = tp.TaskSpec(model="open", prompt="la")
        reason, facts = await refused(opened.tcp.tasks.CreateTask(ts.CreateTaskRequest(spec=spec), metadata=user))
        assert (reason, facts["model"]) == ("PERMISSION_DENIED", "open")
        call = opened.tcp.tasks.RunTasks(metadata=user)
        run = ts.RunOrder(request=ts.RunTaskRequest(spec=spec))
        await call.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=1, run=run)]))
        (update,) = (await call.read()).updates
        assert "secret" not in str(update)
        assert "'open'" in update.error.message
        take = ms.UpdateModelRequest(name="mine-a", add_aliases=["open"])
        reason, facts = await refused(opened.tcp.models.UpdateModel(take, metadata=user))
        assert (reason, facts["verb"], facts["model"]) == ("PERMISSION_DENIED", "update", "open")
        assert await own_name(opened.owner, "open") == "secret"


async def test_models_that_one_may_not_read_are_named_to_nobody(tmp_path: Path) -> None:
    """Neither as what an alias stands for nor as what may have been meant: who may read them is told both."""
    async with guarded(tmp_path, sources={"roots": [tmp_path]}) as opened:
        await opened.owner.create("secret")
        await give(opened.owner, "secret", add_aliases=["open"])
        await opened.rule("role:user", models="secret")
        await opened.rule("role:user", allow=True, kinds=["RESOURCE_KIND_MODEL"], verbs=["VERB_CREATE", "VERB_DELETE"])
        user = await opened.login("user")
        model = mp.Model(name="open", source=str(write_fake_model(tmp_path, "other")))
        held = ms.CreateModelRequest(model=mp.Model(name="new", source=model.source, aliases=["open"]))
        for ask in (
            lambda models, who: models.DeleteModel(ms.DeleteModelRequest(name="open"), metadata=who),
            lambda models, who: models.GetModel(ms.GetModelRequest(name="secre"), metadata=who),
            lambda models, who: models.GetModel(ms.GetModelRequest(name="ope"), metadata=who),
            lambda models, who: models.CreateModel(ms.CreateModelRequest(model=model), metadata=who),
            lambda models, who: models.CreateModel(held, metadata=who),
        ):
            for connection, who, told in ((opened.tcp, user, False), (opened.owner, (), True)):
                error = await failing(ask(connection.models, who))
                reason, facts = reason_of(error)
                assert reason in ("MODEL_NOT_FOUND", "MODEL_EXISTS")
                said = f"{error.details()} {facts}"
                assert ("'secret'" in said or "mean 'open'" in said) is told, said


async def test_a_name_is_given_only_by_who_might_give_it_to_a_model(tmp_path: Path) -> None:
    """To change one model, or to create it, is not to take any name: neither with a new model nor with one that is."""
    async with guarded(tmp_path) as opened:
        await opened.owner.create("team-x")
        kinds, verbs = ["RESOURCE_KIND_MODEL"], ["VERB_UPDATE", "VERB_CREATE"]
        await opened.rule("role:user", allow=True, kinds=kinds, verbs=verbs, models="team-*")
        user = await opened.login("user")
        models = opened.tcp.models
        take = ms.UpdateModelRequest(name="team-x", add_aliases=["team-z", "gpt"])
        made = mp.Model(name="team-y", source=str(write_fake_model(tmp_path, "y")), aliases=["gpt"])
        upload = models.UploadModel(metadata=user)
        await upload.write(
            ms.UploadModelRequest(start=ms.UploadModelStart(model=mp.Model(name="team-u", aliases=["gpt"])))
        )
        for call, name in (
            (models.UpdateModel(take, metadata=user), "gpt"),
            (models.CreateModel(ms.CreateModelRequest(model=made), metadata=user), "gpt"),
            (upload, "gpt"),
        ):
            reason, facts = await refused(call)
            assert (reason, facts["verb"], facts["model"]) == ("PERMISSION_DENIED", "create", name)
        take = ms.UpdateModelRequest(name="team-x", add_aliases=["team-z"], pin=True)
        assert (await models.UpdateModel(take, metadata=user)).model.aliases == ["team-z"]
        assert [each.name for each in (await opened.owner.models.ListModels(ms.ListModelsRequest())).models] == [
            "team-x"
        ]


async def test_traits_outlive_the_kernel_and_make_no_version(tmp_path: Path) -> None:
    """Labels, aliases, pin and warm are there again, those of a model as it was created and as it was changed."""
    async with kept(tmp_path) as connection:
        path = str(write_fake_model(tmp_path, "v1"))
        made = mp.Model(name="v1", source=path, labels={"team": "a", "tier": "1"}, aliases=["prod", "x"], warm=True)
        await connection.models.CreateModel(ms.CreateModelRequest(model=made))
        await connection.create("v2")
        await give(connection, "v1", labels={"tier": "", "stage": "b"}, remove_aliases=["x"])
        await give(connection, "v2", pin=True, add_aliases=["prod"])
    async with kept(tmp_path) as connection:
        first, second = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert (dict(first.labels), first.aliases, first.warm, first.pin) == (
            {"team": "a", "stage": "b"}, [], True, False
        )  # fmt: skip
        assert (second.aliases, second.pin, second.version) == (["prod"], True, 1)
        page = await connection.models.ListModels(ms.ListModelsRequest(labels={"stage": "b", "team": "a"}))
        assert [model.name for model in page.models] == ["v1"]
        assert not (await connection.models.ListModels(ms.ListModelsRequest(labels={"stage": "c"}))).models
        assert await own_name(connection, "prod") == "v2"


async def test_an_alias_stays_though_a_model_of_its_name_was_pulled(tmp_path: Path) -> None:
    """It stands for what it stood for, and that model keeps what it had, in the kernel after it, too."""
    async with kept(tmp_path) as connection:
        await connection.create("v1")
        await give(connection, "v1", add_aliases=["prod", "x"], labels={"a": "b"}, pin=True)
    pull(connection, "prod")
    async with kept(tmp_path) as connection:
        (model,) = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert (model.name, dict(model.labels), model.aliases, model.pin) == ("v1", {"a": "b"}, ["prod", "x"], True)
        assert await own_name(connection, "prod") == "v1"


async def test_an_alias_that_another_model_has_is_left_out_alone(connection: Connection) -> None:
    """What else was kept of the model is there, and the log names alias and both models."""
    await connection.create("prod")
    driver = connection.kernel.driver
    spec = replace(driver.views.model(ModelName("prod")).spec, name=ModelName("v1"))
    traits = Traits(aliases=("prod", "x"), labels={"a": "b"}, pin=True)
    with capture_logs() as logs:
        _restore_models(driver, Before(kept=[KeptModel(spec, traits=traits)]))
    assert driver.views.model(ModelName("v1")).traits == replace(traits, aliases=("x",))
    assert [(each["alias"], each["model"], each["now"]) for each in logs] == [("prod", "v1", "prod")]


async def test_an_update_that_fails_gives_no_alias_and_one_that_succeeds_gives_all(connection: Connection) -> None:
    """While it goes on nobody else has its aliases, and they stand for what they stood for; then they may be its."""
    for name in ("u", "old"):
        await connection.create(name)
    await give(connection, "u", add_aliases=["fast"])
    await give(connection, "old", add_aliases=["prod"])
    await connection.models.LoadModel(ms.LoadModelRequest(name="u"))
    late = mp.Model(name="late", source=str(write_fake_model(connection.folder, "late")))
    watched = connection.models.WatchModel(ms.WatchModelRequest(name="u"))
    for number, error, owner in ((2, "out of luck", "old"), (3, "", "u")):
        source = str(write_fake_model(connection.folder, f"new-{owner}", load_s=0.4, load_error=error))
        updating = asyncio.ensure_future(give(connection, "u", source=source, add_aliases=["late", "prod"]))
        async for response in watched:
            if response.model.rolling.number == number:
                break
        for call in (
            connection.models.CreateModel(ms.CreateModelRequest(model=late)),
            give(connection, "old", add_aliases=["late"]),
            give(connection, "old", add_aliases=["prod"]),
        ):
            reason, facts = await refusal(call)
            assert (reason, facts["model"]) == ("MODEL_EXISTS", "u")
        assert await own_name(connection, "prod") == "old"
        if error:
            assert (await refusal(updating))[0] == "MODEL_LOAD_FAILED"
        else:
            assert (await updating).aliases == ["fast", "late", "prod"]
        assert await own_name(connection, "prod") == owner
    await give(connection, "u", remove_aliases=["late"])
    await connection.models.CreateModel(ms.CreateModelRequest(model=late))


async def test_an_update_that_its_caller_gives_up_is_done_whole(connection: Connection) -> None:
    """The version comes to serve, and with it what else was asked for: the alias is the model's."""
    await connection.create("u")
    await connection.models.LoadModel(ms.LoadModelRequest(name="u"))
    source = str(write_fake_model(connection.folder, "new", load_s=0.4))
    watched = connection.models.WatchModel(ms.WatchModelRequest(name="u"))
    updating = connection.models.UpdateModel(ms.UpdateModelRequest(name="u", source=source, add_aliases=["prod"]))
    async with asyncio.timeout(30):
        async for response in watched:
            if response.model.rolling.number == 2:
                updating.cancel()
            if response.model.version == 2 and response.model.aliases:
                break
    assert updating.cancelled()
    assert await own_name(connection, "prod") == "u"


async def test_an_alias_is_none_that_a_pulled_model_has(connection: Connection) -> None:
    """Though nobody has named that model yet: neither a model that is there nor a new one takes its name."""
    await connection.create("v1")
    pull(connection, "late")
    made = mp.Model(name="v2", source=str(write_fake_model(connection.folder, "v2")), aliases=["late"])
    for call in (
        give(connection, "v1", add_aliases=["late"]),
        connection.models.CreateModel(ms.CreateModelRequest(model=made)),
    ):
        reason, facts = await refusal(call)
        assert (reason, facts["model"]) == ("MODEL_EXISTS", "late")


async def test_wrong_traits_are_refused_by_their_field(connection: Connection) -> None:
    """A label that is too long, an alias that is none, or one that is to come and to go."""
    await connection.create("v1")
    for changes, field in (
        ({"labels": {"k" * 65: "v"}}, "labels"),
        ({"add_aliases": ["ok", "no good"]}, "add_aliases[1]"),
        ({"add_aliases": ["../../pwn"]}, "add_aliases[0]"),
        ({"add_aliases": ["x"], "remove_aliases": ["x"]}, "add_aliases"),
        ({"remove_aliases": ["x"]}, "remove_aliases"),
    ):
        error = await failing(connection.models.UpdateModel(ms.UpdateModelRequest(name="v1", **changes)))
        reason, facts = reason_of(error)
        assert (reason, facts.get("field", field)) == ("INVALID_FIELD", field), error.details()
