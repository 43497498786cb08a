"""`python -m inferd.sandbox THREADS`: enter a sandbox as a worker does, and say what it has become, as JSON.

It waits for a line, so that who asks can put it into a control group before.
"""

import dataclasses
import json
import sys
import tempfile

from inferd.sandbox.entry import Sandbox
from inferd.sandbox.state import Order

if __name__ == "__main__":
    sys.stdin.readline()
    order = Order(writes=(tempfile.gettempdir(),), memory_bytes=1 << 30, threads=int(sys.argv[1]))
    state = Sandbox(order).seal()
    sys.stdout.write(json.dumps({**dataclasses.asdict(state), "level": state.level.name}))
