"""How many random cases a test tries: few in `make test`, so many as INFERD_EXAMPLES says in `make property`."""

import os


def examples(few: int) -> int:
    """As many as are asked for, else a few."""
    return int(os.environ.get("INFERD_EXAMPLES", few))
