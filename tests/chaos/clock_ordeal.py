"""`make chaos CLOCKS=20`: so many leases over kills and steps of the wall clock by libfaketime; one JSON line."""

import argparse
import json
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from clocks import STEPS, Round, library, live

LATE_S = 0.25


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--ttl", type=float, default=12.0, help="of the leases, in seconds")
    chosen = parser.parse_args()
    stepper = library()
    if stepper is None:
        print("libfaketime is not installed: pip install libfaketime, or apt install libfaketime", file=sys.stderr)
        return 2
    rounds, wrong = [], 0
    for name in islice(cycle(STEPS), chosen.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found = live(Path(folder), stepper, STEPS[name], chosen.ttl, waits=True)
        rounds.append(found)
        for line in found.wrong():
            wrong += 1
            print(f"{name}: {line}", file=sys.stderr)
    print(json.dumps(figures(rounds, wrong)), flush=True)
    return 1 if wrong else 0


def figures(rounds: list[Round], wrong: int) -> dict[str, object]:
    """What there is to say of all rounds; of those in which the kernel did not serve when the time was over apart."""
    served = [each for each in rounds if not each.unserved_s]
    unserved = [each for each in rounds if each.unserved_s]
    return {
        "name": "chaos.clocks",
        "rounds": len(rounds),
        "held": sum(each.held for each in rounds),
        "early": sum(each.early_s > 0 for each in rounds),
        "late": sum(each.late_s > LATE_S for each in served),
        "late_max_s": round(max((each.late_s for each in served), default=0.0), 3),
        "not_serving": {
            "rounds": len(unserved),
            "for_at_most_s": round(max((each.unserved_s for each in unserved), default=0.0), 3),
            "late": sum(each.late_s > LATE_S for each in unserved),
            "late_max_s": round(max((each.late_s for each in unserved), default=0.0), 3),
        },
        "wrong": wrong,
    }


if __name__ == "__main__":
    sys.exit(main())
