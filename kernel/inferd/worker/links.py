"""What settings name is still what it was when they were made: no link there leads elsewhere by now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inferd.content import links_of
from inferd.errors import ModelLoadError, words_of

if TYPE_CHECKING:
    from inferd_api.worker.v1 import load_pb2


def check_links(load: load_pb2.Load) -> None:
    """See that links in folders that settings name lead where they did, and that there are no others.

    Who made the model might not name any file; who may write in that folder could have it read by a link otherwise.

    Raises:
        ModelLoadError: One does not, or the folder cannot be looked at.
    """
    for name, value in load.settings.items():
        if (path := value.str_value) not in load.links:
            continue
        try:
            now = links_of(Path(path))
        except (OSError, RuntimeError) as error:
            cause = f"setting {name!r}: {path} cannot be looked at: {words_of(error)}"
            raise ModelLoadError(cause, metadata={"cause": cause}) from None
        for each, target in now.items():
            if load.links.get(each) != target:
                cause = (
                    f"setting {name!r}: {each} has led elsewhere since the model was made; take that link away, or have"
                    " the model updated with another path"
                )
                raise ModelLoadError(cause, metadata={"cause": cause})
