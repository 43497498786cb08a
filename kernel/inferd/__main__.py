"""`python -m inferd` is the same as `inferd`."""

from inferd.cli.main import run

run()
