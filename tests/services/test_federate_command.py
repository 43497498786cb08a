"""`inferd federate`: owners with kernels of their own, from the plan to the figures of what came of it."""

import asyncio
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from inferd.cli import federate_client, main
from inferd.cli.federate_client import Participant
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import federation_pb2 as fp
from inferd_client import AsyncClient
from inferd_client.errors import KernelUnreachableError

ROOT = Path(__file__).parents[2]
FUNCTIONS = {"modules": ("inferd_federation.plugin",), "packages": (), "calls": 2}
PLAN = """
title = "words"
rounds = 3
clients = 3
least_clients = 3
deadline_s = 60
answer_deadline_s = 60
secure = true
[heads]
labels = ["ja", "nein"]
buckets = 64
learning_rate = 4.0
epochs = 4
"""


def rows(owner: int) -> list[dict[str, str]]:
    """Rows of one owner; the first has one label alone."""
    labels = ["ja", "ja"] if owner == 0 else ["ja", "nein"]
    return [{"text": f"{label} wort{owner} und so {n}", "label": label} for n, label in enumerate(labels * 4)]


async def command(*words: str) -> str:
    """What a command writes, in a thread: it has a loop of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, main.app, ["federate", *words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


async def test_owners_train_together_by_commands(tmp_path: Path) -> None:
    """A plan in TOML, three owners that join, what came of the rounds, its weights as a file, and how good they are."""
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "record").mkdir()
    (tmp_path / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(2)))
    async with kernel_here(tmp_path / "a") as coordinator, kernel_here(tmp_path / "b", functions=FUNCTIONS) as own:
        there, here = coordinator.addresses[0], own.addresses[0]
        made = (await command("create", str(tmp_path / "plan.toml"), "--address", there)).strip()
        record = tmp_path / "record"
        async with AsyncClient(there) as asked, AsyncClient(here) as kernel, asyncio.TaskGroup() as group:
            for owner in (0, 1):
                group.create_task(Participant(asked, kernel, rows(owner), made, record=record).run())
            said = await command(
                *("join", there, "--federation", made, "--data", str(tmp_path / "2.jsonl"), "--kernel", here),
                *("--name", "owner 2", "--record", str(record), "--identity", str(tmp_path / "identity")),
            )
        assert "has ended: succeeded" in said
        assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o600
        again = await command(
            *("join", there, "--federation", made, "--data", str(tmp_path / "2.jsonl"), "--kernel", here),
            *("--identity", str(tmp_path / "identity")),  # of an ended federation: nobody new can join it
        )
        assert "has ended: succeeded" in again
        shown = json.loads(await command("show", made[:10], "--address", there, "-o", "json"))
        assert [each["number"] for each in shown["rounds"]] == [0, 1, 2, 3]
        assert shown["rounds"][1]["examples"] in {24, "24"}
        assert len(list((tmp_path / "record").iterdir())) == 12
        weights = tmp_path / "weights.safetensors"
        await command("show", made, "--address", there, "--weights", str(weights))
        content = weights.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        assert header["weights"]["shape"] == [130]
        assert header["counts"]["shape"] == [65]
        assert "words" in await command("list", "--address", there)
        assert "succeeded" in await command("watch", made, "--address", there)
        await command("rm", made, "--address", there)
        assert json.loads(await command("list", "--address", there, "-o", "json")) == {"federations": []}


async def test_a_coordinator_that_is_away_is_told_once_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a coordinator is told where it should be, once, however often it is asked."""
    monkeypatch.setattr(federate_client, "PAUSE_S", 0)
    told: list[str] = []
    answers: list[Any] = [KernelUnreachableError("away"), KernelUnreachableError("away"), "here"]
    asked: Any = SimpleNamespace(address="unix:/nowhere")
    part = Participant(asked, asked, [], "f", tell=told.append)

    async def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert await part._patiently(ask) == "here"
    (line,) = told
    assert "unix:/nowhere does not answer" in line


async def test_the_weights_of_a_federation_are_judged(tmp_path: Path) -> None:
    """A kernel that coordinates and trains: compressed updates, FedProx and FedAvg learn what the labels are."""
    plan = PLAN.replace("secure = true", 'compression = "longest"\nshare = 0.5\nproximal = 0.01')
    (tmp_path / "plan.toml").write_text(plan)
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for owner in range(3) for row in rows(owner)))
    async with kernel_here(tmp_path / "a", functions=FUNCTIONS) as kernel, AsyncClient(kernel.addresses[0]) as client:
        there = kernel.addresses[0]
        made = (await command("create", str(tmp_path / "plan.toml"), "--address", there)).strip()
        async with asyncio.timeout(90):
            ended = await asyncio.gather(*(Participant(client, client, rows(n), made).run() for n in range(3)))
        assert {each.state for each in ended} == {fp.FEDERATION_STATE_SUCCEEDED}
        told = await command("judge", made, "--data", str(tmp_path / "all.jsonl"), "--address", there, "-o", "json")
        assert json.loads(told)["figures"]["accuracy"] >= 0.9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds = 1\n", "has no table"),
        ("rounds = 1\nnone = 2\n[heads]\nlabels = ['a', 'b']\n", "none"),
        ("[heads]\nlabels = ['a']\n", "recipe of heads"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With the file and what is wrong in it, before a kernel is asked."""
    (tmp_path / "plan.toml").write_text(text)
    result: Any = CliRunner().invoke(main.app, ["federate", "create", str(tmp_path / "plan.toml"), "-o", "json"])
    assert result.exit_code != 0
    assert said in result.output + result.stderr


async def test_the_example_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`examples/federation` ends all its rounds with an owner gone, and has learned what the labels are."""
    spec = importlib.util.spec_from_file_location("federate", ROOT / "examples/federation/federate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    async with kernel_here(tmp_path, functions=FUNCTIONS) as kernel:
        await module.main(kernel.addresses[0])
    said = capsys.readouterr().out
    assert "round 3: " in said
    assert "'accuracy': 1.0" in said
