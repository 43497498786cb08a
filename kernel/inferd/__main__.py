"""`python -m inferd` is the same as `inferd`."""

from inferd.cli.entry import run

run()
