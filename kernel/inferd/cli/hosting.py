"""`inferd` for a program that keeps it: it ends when that ends. `python -m inferd.cli.hosting PARENT ARGUMENT…`."""

from __future__ import annotations

import sys

from inferd.cli.entry import run
from inferd.cli.serve import end_with_parent


def main() -> None:
    """Be `inferd ARGUMENT…` until the process ends that started this one, however it ends."""
    parent, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    sys.argv = ["inferd", *arguments]
    run()


if __name__ == "__main__":
    main()
