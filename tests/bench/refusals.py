"""How long refusals take, seen from a process that does nothing else: refusals.py ADDRESS TENANT MODEL COUNT.

Prints a JSON array of seconds. It sends one task after the other, `PER_S` a second, and expects all to be refused.
"""

import json
import sys
import time

from inferd_client import Client
from inferd_client.errors import QueueFullError

PER_S = 50.0


def main(address: str, tenant: str, model: str, count: int) -> None:
    """Send the tasks and print how long each refusal took."""
    times: list[float] = []
    with Client(address, tenant=tenant) as client:
        client.get_host()  # the connection is made before the clock starts
        started = time.perf_counter()
        for number in range(count):
            time.sleep(max(0.0, started + number / PER_S - time.perf_counter()))
            begun = time.perf_counter()
            try:
                client.generate(model, "la", max_tokens=1)
            except QueueFullError:
                times.append(time.perf_counter() - begun)
            else:
                raise RuntimeError(f"task {number} of tenant {tenant!r} was not refused")
    print(json.dumps(times))


if __name__ == "__main__":
    kernel, whose, named, tasks = sys.argv[1:]
    main(kernel, whose, named, int(tasks))
