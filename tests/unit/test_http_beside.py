"""What `inferd serve --http` takes."""

import pytest

from inferd.cli.http_beside import HttpBeside
from inferd.cli.output import CommandError, Format, Output


@pytest.mark.parametrize("listen", ["off ", "7413", "yes", "localhost:", ":7413", "[::1]"])
def test_what_is_no_address_is_refused_before_anything_serves(listen: str) -> None:
    """A gateway that cannot listen would end and be started anew for ever, in the log alone."""
    with pytest.raises(CommandError, match="it must be HOST:PORT"):
        HttpBeside(Output(Format.TABLE), listen)
