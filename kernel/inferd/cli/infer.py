"""`inferd infer`: give a model of tensors its inputs, and show what it gives."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from inferd.cli.kernel import connected_or_private
from inferd.cli.output import CommandError
from inferd.cli.tensors import PIECES, nested, read_inputs, shown
from inferd.cli.visible import VisibleStream
from inferd.cli.wanted import check, resolved
from inferd.plugin.recipe_file import find_recipe
from inferd_client.tensors import is_written, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from inferd.cli.named import Wanted
    from inferd.cli.output import Output
    from inferd_api.v1.tensor_pb2 import ModelSignature
    from inferd_client import InferOptions, InferSequence


def infer(
    output: Output,
    wanted: Wanted,
    given: Mapping[str, str],
    *,
    address: str,
    tenant: str,
    data_dir: Callable[[], Path],
    outputs: Sequence[str],
    sequence: InferSequence | None,
    save: Path | None,
    options: InferOptions,
) -> None:
    """Run a task of tensors; `given` are its inputs as texts, which the model's signature says how to read."""
    if save is not None and (save.is_dir() or not save.parent.is_dir()):
        why = "is a folder; name a file" if save.is_dir() else f"cannot be written: there is no folder {save.parent}"
        raise typer.BadParameter(f"{save} {why}", param_hint="--save")
    wanted.path()
    sets: list[dict[str, Any]] = []
    with ExitStack() as stack:
        kernel = connected_or_private(output, address, tenant, before=lambda: check(wanted, data_dir))
        client = stack.enter_context(kernel)
        name = stack.enter_context(resolved(client, wanted, data_dir))
        signature = client.model_signature(name)
        inputs = read_inputs(given, signature, client.get_blob, hint=_hint(wanted.path()))
        written = _Written(output, signature, outputs)
        for arrays in client.infer_stream(name, inputs, outputs=outputs, sequence=sequence, **options):
            if written.take(arrays):
                continue
            if save is not None:
                sets.append(arrays)
            _show(output, arrays)
        if written.whole is not None:
            sets.append(written.whole)
        written.end()
    if save is not None:
        _save(save, sets)
        output.note(f"saved to {save}")


def _hint(path: Path | None) -> str:
    """What to name in place of a graph whose folder has a recipe: that is the folder's."""
    if path is None or path.is_dir() or find_recipe(path).is_file() or not find_recipe(path.parent).is_file():
        return ""
    return f". Its folder has a {find_recipe(path.parent).name}, which is read where the folder is named: {path.parent}"


class _Written:
    """A text that comes in pieces: shown as text, and nothing else beside it; as JSON, or without it, as a whole.

    Args:
        output: Where it is shown.
        signature: Of the model.
        wanted: Names of outputs; empty for all.

    Attributes:
        whole: All that came, its pieces joined; None where nothing did.
    """

    def __init__(self, output: Output, signature: ModelSignature, wanted: Sequence[str]) -> None:
        names = [info.name for info in signature.outputs if [size.name for size in info.shape] == [PIECES]]
        self.whole: dict[str, Any] | None = None
        self._output, self._signature = output, signature
        self._name = "" if output.json else next((name for name in names if not wanted or name in wanted), "")
        self._visible = VisibleStream() if sys.stdout.isatty() else None

    def take(self, arrays: Mapping[str, Any]) -> bool:
        """Take the next piece; False where it is none of such a text."""
        if not arrays or not is_written(self._signature, arrays):
            return False
        self.whole = dict(arrays) if self.whole is None else joined(self.whole, arrays)
        if self._name:
            text = "".join(str(each) for each in arrays[self._name].ravel())
            sys.stdout.write(text if self._visible is None else self._visible.feed(text))
            sys.stdout.flush()
        return True

    def end(self) -> None:
        """There are no more pieces."""
        if self._name:
            sys.stdout.write("\n" if self._visible is None else self._visible.end() + "\n")
        elif self.whole is not None:
            _show(self._output, self.whole)


def _show(output: Output, arrays: Mapping[str, Any]) -> None:
    if output.json:
        told = {n: {"type": str(a.dtype), "shape": list(a.shape), "values": nested(a)} for n, a in arrays.items()}
        output.line({"outputs": told})
        return
    rows = [(name, _type(array), str(list(array.shape)), shown(array)) for name, array in arrays.items()]
    output.table(("OUTPUT", "TYPE", "SHAPE", "VALUES"), rows, empty="the model gave no outputs")


def _type(array: Any) -> str:
    return "text" if array.dtype == object else str(array.dtype)


def _save(path: Path, sets: Sequence[Mapping[str, Any]]) -> None:
    """All outputs in one file of numpy; where there are several sets, under their numbers.

    Raises:
        CommandError: A .npy file holds one array, and there are more or none.
    """
    if path.suffix == ".npy":
        found = [array for each in sets for array in each.values()]
        if len(found) != 1:
            message = f"{path} holds one array, and the model gave {len(found)}: name one output with --only, or a .npz"
            raise CommandError(message, reason="USAGE")
        np.save(path, found[0].astype(str) if found[0].dtype == object else found[0])
        return
    several = len(sets) > 1
    arrays = {
        f"{number}.{name}" if several else name: array.astype(str) if array.dtype == object else array
        for number, each in enumerate(sets)
        for name, array in each.items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)
