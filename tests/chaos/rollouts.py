"""`make rollouts`: one model is given version after version under constant load, a part of them broken in turn.

Clients ask one task after the other and check each answer. No task may fail, whatever is wrong with a version; each
broken one must be refused or taken back, with its reason. Of those that get a task it is measured how long they take
tasks: from the first that a client sees begin on one until that is FAILED. Good ones come at once, with a probe, or by
steps in turn. Prints progress, then one JSON line.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.model_pb2 import VERSION_STATE_FAILED, ModelVersion
from inferd_api.v1.rollout_pb2 import Canary, CanaryStep, Probe, ProbePrompt
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt
from inferd_client import AsyncClient
from inferd_client.errors import InferdError

WORDS = "the quick brown fox"
BROKEN: dict[str, dict[str, Any] | None] = {
    "missing": None,
    "corrupt": {"measure_error": "bad magic"},
    "too big": {"weights_bytes": 1 << 40},
    "refuses to load": {"load_error": "bad tensor"},
    "crashes when measured": {"die_in_measure": True},
    "crashes at the first task": {"die_on_token": ord("q")},
    "raises at the first task": {"fail_step": 1},
    "worse by its probe": {"mute": True},
    "slower than its bound": {"step_s": 0.01},
}
TAKEN_BACK = ("crashes at the first task", "raises at the first task")  # they load, and serve until then
CHAT = ChatPrompt(messages=[ChatMessage(role="user", content=WORDS)])
PROBE = Probe(prompts=[ProbePrompt(chat=CHAT, contains=["quick"], agreement=0.9)])
STEPS = [CanaryStep(share=0.5, least_tasks=4), CanaryStep(share=1.0, least_tasks=4)]
BOUND = Canary(steps=[CanaryStep(share=0.5, least_tasks=20)], most_token=Duration(nanos=5_000_000))
GOOD: tuple[dict[str, Any], ...] = ({}, {"probe": PROBE}, {"canary": Canary(steps=STEPS)})
TERMS: dict[str, dict[str, Any]] = {"worse by its probe": {"probe": PROBE}, "slower than its bound": {"canary": BOUND}}
REASONS = {"worse by its probe": "PROBE_FAILED", "slower than its bound": "CANARY_FAILED", "too big": "NO_MEMORY"}
WAIT_S = 120.0  # most that a client waits for an answer, or for a version to be taken back


@dataclass
class Load:
    """What the clients met.

    Attributes:
        done: Tasks that gave what they had to.
        wrong: What went wrong, of those that did not.
        gaps_s: How long each task that was stopped waited until it went on.
        versions: How many tasks each version has ended.
        began_s: When the first task began on each version.
    """

    done: int = 0
    wrong: list[str] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    versions: dict[int, int] = field(default_factory=dict)
    began_s: dict[int, float] = field(default_factory=dict)
    over: bool = False

    async def ask(self, client: AsyncClient) -> None:
        """Ask one task after the other, until it is over."""
        while not self.over:
            try:
                await self._ask_once(client)
            except InferdError as error:
                self.wrong.append(f"{type(error).__name__}: {error}")

    async def _ask_once(self, client: AsyncClient) -> None:
        text, stopped = "", 0.0
        async for event in client.run("m", [{"role": "user", "content": WORDS}], timeout_s=WAIT_S):
            kind = event.WhichOneof("kind")
            if kind == "output":
                text += event.output.text
            elif kind == "started":
                self.began_s.setdefault(event.started.version, time.monotonic())
            elif kind == "suspended":
                stopped = time.monotonic()
            elif kind == "resumed":
                self.gaps_s.append(time.monotonic() - stopped)
            elif kind == "finished":
                version = event.finished.receipt.version
                self.versions[version] = self.versions.get(version, 0) + 1
        if text == WORDS:
            self.done += 1
        else:
            self.wrong.append(f"the answer was {text!r}")


async def roll(client: AsyncClient, folder: Path, number: int, kind: str) -> str:
    """Give the model a version, good ("") or broken; what is wrong with how that went, "" for nothing."""
    terms = TERMS.get(kind, {}) if kind else GOOD[number % len(GOOD)]
    path = folder / f"v{number}.fake"
    behaviour = BROKEN[kind] if kind else {"context_tokens": 512 + number}
    if behaviour is not None:
        write_fake_model(folder, f"v{number}", **behaviour)
    before = (await client.get_model("m")).version
    if kind and kind not in TAKEN_BACK:
        try:
            await client.update_model("m", source=str(path), **terms, timeout_s=WAIT_S)
        except InferdError as error:
            if error.reason != REASONS.get(kind, error.reason):
                return f"a version that is {kind} was refused for {error.reason}: {error}"
        else:
            return f"a version that is {kind} was rolled out"
    else:
        problem = await take(client, kind, before, source=str(path), **terms)
        if problem or not kind:
            return problem
    serving = (await client.get_model("m")).version
    return "" if serving == before else f"version {serving} serves behind a broken one, not {before}"


async def take(client: AsyncClient, kind: str, before: int, **wanted: Any) -> str:
    """Give the model a version that comes to serve, and if it is broken, wait until it is taken back."""
    try:
        model = await client.update_model("m", timeout_s=WAIT_S, **wanted)
    except InferdError as error:  # a broken one may be taken back before the call has its answer
        return "" if kind else f"a good version was refused: {error}"
    if not kind:
        return "" if model.version > before else "a good version does not serve"
    return "" if await fallen(client, model.version) else f"a version that {kind} still serves"


async def fallen(client: AsyncClient, number: int) -> bool:
    """Wait until a version is FAILED."""
    async with asyncio.timeout(WAIT_S):
        async for model in client.watch_model("m"):
            if model.version != number:
                found: list[ModelVersion] = await client.list_model_versions("m")
                return any(each.number == number and each.state == VERSION_STATE_FAILED for each in found)
    return False


async def follow(client: AsyncClient, failed_s: dict[int, float]) -> None:
    """Note when each version is first seen to be FAILED."""
    seen = 0
    async for model in client.watch_model("m"):
        rolling = model.rolling.number if model.HasField("rolling") else 0
        for number in {seen} - {rolling, model.version, 0}:
            failed_s.setdefault(number, time.monotonic())
        seen = rolling or model.version


async def main(rollouts: int, broken: int, clients: int, most_return_s: float) -> int:
    """Roll out so many versions, of which so many are broken; 1 where anything went wrong."""
    kinds = list(BROKEN)
    every, load, problems, took_s = max(1, rollouts // max(1, broken)), Load(), list[str](), list[float]()
    failed_s, returns_s = dict[int, float](), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        async with kernel_here(Path(folder), backends=()) as kernel, AsyncClient(kernel.addresses[0]) as client:
            await client.create_model("m", str(write_fake_model(Path(folder), "m", step_s=0.002)))
            await client.load_model("m")
            asking = [asyncio.create_task(load.ask(client)) for _ in range(clients)]
            following = asyncio.create_task(follow(client, failed_s))
            for n in range(rollouts):
                wrong = n % every == every - 1 and n // every < broken
                kind = kinds[n // every % len(kinds)] if wrong else ""
                began = time.monotonic()
                if problem := await roll(client, Path(folder), n, kind):
                    problems.append(problem)
                took_s.append(time.monotonic() - began)
                print(f"{n + 1}/{rollouts} {kind or 'good'}: {took_s[-1]:.1f} s", file=sys.stderr)
                for version in failed_s.keys() & load.began_s:
                    return_s = failed_s.pop(version) - load.began_s[version]
                    returns_s[kind] = max(return_s, returns_s.get(kind, 0.0))
                    if return_s > most_return_s:
                        problems.append(f"a version that is {kind} had tasks for {return_s:.2f} s")
            load.over = True
            await asyncio.gather(*asking)
            following.cancel()
    told = {
        "rollouts": rollouts,
        "broken": broken,
        "tasks": load.done,
        "failed_tasks": len(load.wrong),
        "first_failures": load.wrong[:3],
        "problems": problems,
        "tasks_moved": len(load.gaps_s),
        "moved_gap_s": round(max(load.gaps_s, default=0.0), 3),
        "return_s": {kind: round(each_s, 3) for kind, each_s in returns_s.items()},
        "rollout_median_s": round(sorted(took_s)[len(took_s) // 2], 2),
    }
    print(json.dumps(told))
    return 1 if load.wrong or problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="rollouts", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=50, help="versions that are rolled out")
    parser.add_argument("--broken", type=int, default=10, help="of them broken, each in another way in turn")
    parser.add_argument("--clients", type=int, default=4, help="clients that ask all the time")
    parser.add_argument(
        "--most-return-s", type=float, default=2.0, help="most that a broken version may have tasks for"
    )
    chosen = parser.parse_args()
    sys.exit(asyncio.run(main(chosen.rollouts, chosen.broken, chosen.clients, chosen.most_return_s)))
