"""`make storm`: 10,000 keys, each answered 20 times over 8 connections and 20 killed kernels; prints a JSON line."""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from storm import Found, Size, Storm


def figures(size: Size, found: Found, store: str) -> dict[str, object]:
    """As they are printed."""
    return {
        "name": "storm",
        "store": store.partition(":")[0],
        "seed": size.seed,
        "keys": size.keys,
        "times": size.times,
        "connections": size.connections,
        "kills": found.kills,
        "answers": found.answers,
        "sent_again": found.unanswered.total(),
        "keys_sent_again": len(found.cut),
        "tasks": found.known[-1].total(),
        "wrong": len(found.wrong(size)),
        "took_s": round(found.took_s),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=20, help="how often each is answered")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--restarts", type=int, default=20, help="how many kernels are killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", default="sqlite", help="sqlite, or the URL of a PostgreSQL database")
    chosen = parser.parse_args()
    size = Size(
        keys=chosen.keys,
        times=chosen.times,
        connections=chosen.connections,
        restarts=chosen.restarts,
        seed=chosen.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        place = f"sqlite:{folder}/store"
        if chosen.store != "sqlite":
            place = chosen.store
        found = asyncio.run(Storm(size, Path(folder), {"INFERD_STORE__URL": place}).run())
    for line in found.wrong(size)[:20]:
        print(line, file=sys.stderr)
    print(json.dumps(figures(size, found, chosen.store)), flush=True)
    return 1 if found.wrong(size) else 0


if __name__ == "__main__":
    sys.exit(main())
