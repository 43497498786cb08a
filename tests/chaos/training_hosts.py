"""`make chaos GANGS=10`: three hosts train one model together, and one of them is lost so many times.

Hosts are networks of their own behind a bridge, each with an agent; the kernel's machine leads. One training is left in
peace, with one worker. Of another one with a worker on each host, again and again an agent is killed or its link is
down for longer than it may be silent, and comes back. The training has to end, with a worker less each time until it
begins anew, and with the losses of peace but for roundings. Progress, then one JSON line. As root, with `ip`.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from host_ordeal import Host
from networks import Link, bridged
from ordeal import smollm2
from trained import BATCH, GOES_ON, MODEL, delay, ended, recipe, rows, say, until_step, write_folder

from inferd.cli.cert_authority import CertAuthority
from inferd.testing.kernel import FAKE_PLUGIN, kernel_process, write_fake_model
from inferd_client import AsyncClient

HOSTS = 3
AWAY_S = 6.0  # for which a link is down: longer than a host may be silent
STRUCK_S = (0.0, 2.0)  # from a step to a blow
NEAR = {"smollm2": 2e-3, "fake": 0.0}  # by which losses may differ, of their size
STEP_S = 1.0  # of the fake: so that hosts are back before it ends
PORT = 17411


def _hosts(folder: Path, links: list[Link], backends: str) -> list[Host]:
    made = []
    for number, link in enumerate(links):
        own = folder / f"h{number}"
        own.mkdir()
        chosen = {
            **{f"INFERD_{name}_DIR": str(own / name.lower()) for name in ("DATA", "STATE")},
            "INFERD_PLUGIN_MODULES": f'["{FAKE_PLUGIN}"]',
            "INFERD_BACKENDS": backends,
        }
        made.append(Host(f"h{number}", link, own, {**os.environ, **chosen}, [f"tls:{link.address}:{PORT}"]))
    return made


async def _strike(host: Host, manner: str) -> None:
    """Lose a host, and have it back."""
    if manner == "killed":
        await asyncio.to_thread(host.end, signal.SIGKILL)
        await asyncio.to_thread(host.start)
        return
    host.link.break_("down")
    try:
        await delay(AWAY_S)
    finally:
        host.link.mend()


async def ordeal(folder: Path, *, model: str, kills: int, steps: int, seed: int) -> dict[str, object]:
    """What has come of it."""
    chance, given, begun = random.Random(seed), rows(96), time.monotonic()
    fake = model == "fake"
    learnt = len(given) - round(len(given) * recipe()["held"])
    chosen = recipe(epochs=steps * BATCH / learnt, checkpoint_every=5, dropout=0.0, accumulate=1)
    if fake:
        chosen = {**{name: chosen[name] for name in ("epochs", "batch", "held", "checkpoint_every")}, "method": "full"}
    with ExitStack() as stack:
        links = stack.enter_context(bridged(HOSTS))
        authority = CertAuthority.create(folder / "ca", name="ordeal", days=2)
        near = links[0].address
        _, cert, key = authority.issue("kernel", hosts=[near], uris=(), days=2, out=folder, replace=False)
        backends = "[]" if fake else '["torch"]'
        train = {"report_s": 0.05, "retry_s": 0.2, "vain": 100, "threads": 1, "address": near}
        environment = {
            "INFERD_STORE__URL": f"sqlite:{folder}/kept/store",
            "INFERD_STORE__KEY_FILE": str(folder / "store.key"),
            "INFERD_AUTH__PEPPER_FILE": str(folder / "pepper"),
            "INFERD_BACKENDS": backends,
            "INFERD_TRAIN": json.dumps(train),
            "INFERD_TLS__CERT_FILE": str(cert),
            "INFERD_TLS__KEY_FILE": str(key),
        }
        kernel = stack.enter_context(
            kernel_process(folder / "kernel", environment=environment, besides=[f"tls:{near}:{PORT}"])
        )
        hosts = _hosts(folder, links, backends)
        for host in hosts:
            stack.callback(host.end)
        async with AsyncClient(kernel.address) as client:
            source = str(write_fake_model(folder, step_s=STEP_S)) if fake else write_folder(smollm2(), folder / "model")
            await client.create_model(MODEL, source)
            if fake:
                await client.create_model("quick", str(write_fake_model(folder, "quick")))
            peace = await client.train("peace", given, recipe=chosen, model="quick" if fake else MODEL)
            whole = await ended(client, peace.training_id)
            say(f"in peace: {whole.steps} steps in {time.monotonic() - begun:.0f} s")
            for host in hosts:
                token = (await client.create_invite(host.name)).credential
                await asyncio.to_thread(host.start, token)
            made = await client.train("struck", given, recipe={**chosen, "ranks": HOSTS + 1}, model=MODEL)
            seen = []
            for number in range(kills):
                least = (await client.get_training(made.training_id)).step + 1
                told = await until_step(client, made.training_id, least)
                if told.state not in GOES_ON:
                    raise SystemExit(f"it ended before blow {number + 1}; take more --steps")
                await delay(chance.uniform(*STRUCK_S))
                host, manner = hosts[number % HOSTS], "down" if number % 4 == 3 else "killed"
                seen.append(told.ranks)
                await _strike(host, manner)
                say(f"{number + 1}: {host.name} {manner} at step {told.step}, of {told.ranks} ranks")
            found = await ended(client, made.training_id)
            apart = [
                abs(ours - theirs) / abs(theirs)
                for (_, ours), (_, theirs) in zip(
                    await _curve(client, made.training_id), await _curve(client, peace.training_id), strict=True
                )
            ]
            held = [each.judgements[-1].loss for each in (found, whole)]
    return {
        "model": model,
        "hosts": HOSTS,
        "blows": kills,
        "ranks": seen,
        "steps": found.steps,
        "attempts": found.attempts,
        "most_apart": max(apart),
        "held_loss": held,
        "is_right": max(apart) <= NEAR[model] and max(seen) == HOSTS + 1,
        "s": round(time.monotonic() - begun),
        "load": os.getloadavg()[0],
    }


async def _curve(client: AsyncClient, training_id: str) -> list[tuple[int, float]]:
    return [(each.step, each.loss) async for each in client.training_steps(training_id)]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(NEAR), default="smollm2")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seed", type=int, default=26)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gang-") as folder:
        found = asyncio.run(
            ordeal(Path(folder), model=options.model, kills=options.kills, steps=options.steps, seed=options.seed)
        )
    print(json.dumps(found))
    if not found["is_right"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
