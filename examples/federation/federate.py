"""Five owners train a classifier of texts together, under masks; one goes, and no row leaves its owner."""

import asyncio
import json
import sys

from inferd.cli.federate_client import Participant, judged, read_recipe
from inferd_api.v1.federation_pb2 import FederationPlan
from inferd_client import AsyncClient

TOPICS = {"sport": "the team won the match by a late goal", "money": "the bank raised the rate of the loan"}
MORE = ("yesterday", "in the north", "after a long talk", "as was said", "once more", "for the third time")


def rows(owner: int) -> list[dict[str, str]]:
    """Rows of one owner: more of one topic than of the other."""
    topics = [list(TOPICS)[owner % 2]] * 4 + list(TOPICS)
    return [{"text": f"{TOPICS[topic]} {MORE[(owner + n) % 6]}", "label": topic} for n, topic in enumerate(topics)]


async def main(address: str | None) -> None:
    """Make a federation at a kernel, and join it five times; here all owners have the same kernel."""
    heads = {"labels": list(TOPICS), "buckets": 256, "learning_rate": 4.0, "epochs": 4}
    plan = FederationPlan(recipe_json=json.dumps({"heads": heads}), rounds=3, clients=5, least_clients=3, secure=True)
    plan.size, plan.counts = 257 * 2, 257
    plan.deadline.seconds = plan.answer_deadline.seconds = 5
    read_recipe(plan)
    async with AsyncClient(address) as kernel:
        made = await kernel.create_federation(plan)
        owners = [Participant(kernel, kernel, rows(n), made.federation_id) for n in range(5)]
        parts = [asyncio.create_task(owner.run()) for owner in owners]
        async for told in kernel.watch_federation(made.federation_id):
            if told.rounds:
                parts[4].cancel()  # its owner has gone; the others go on
        await asyncio.gather(*parts, return_exceptions=True)
        ended = await kernel.get_federation(made.federation_id)
        for done in ended.rounds:
            print(f"round {done.number}: {done.clients} of {done.began} clients, loss {done.loss:.3f}")
        found = await kernel.federation_weights(made.federation_id)
        print(await judged(kernel, ended, found, rows(0) + rows(1)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
