"""What settings are made of: numbers with the bounds that timers and arithmetic put on them."""

from typing import Annotated

from pydantic import Field

Seconds = Annotated[float, Field(le=1e6)]
"""A time that timers of the system are set to, in seconds: beyond two million its count of milliseconds overflows."""
Days = Annotated[float, Field(le=1e9)]
"""A time that is only compared with, in seconds: thirty years."""
Times = Annotated[float, Field(le=1e6)]
"""A factor."""
