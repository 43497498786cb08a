"""A recipe held against a model: the signature that clients see, and what is done before and behind `predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.recipe.answers import describe_output, tell
from inferd.engine.recipe.files import read_bytes
from inferd.engine.recipe.images import Pictures
from inferd.engine.recipe.room import Room
from inferd.engine.recipe.segments import LENGTH
from inferd.engine.recipe.sounds import Sounds
from inferd.engine.recipe.texts import Tokens
from inferd.engine.tensor.checks import AT, check_inputs, choose_outputs
from inferd.errors import InvalidFieldError, suggestion
from inferd.plugin.backend import LoadError
from inferd.plugin.recipe import AudioInput, BytesInput, ImageInput, TextInput, VectorOutput
from inferd.plugin.recipe_file import find_line
from inferd.plugin.tensor import NUMPY, ElementType, Tensor, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from inferd.engine.recipe.limits import RecipeLimits
    from inferd.plugin import Signature
    from inferd.plugin.recipe import Recipe, RecipeInput

BYTES: Final = "bytes"
"""The name of the dimension of an input that is the bytes of a file."""

INSTALL: Final = "pip install 'inferd[files]'"
KINDS: Final = {ImageInput: "a picture", AudioInput: "a sound", BytesInput: "a file", TextInput: "texts"}
WHOLE: Final = "iu"  # kinds of arrays of numbers without a fraction


class Preparation:
    """Prepares requests and finishes outputs. May be called from several threads.

    Args:
        recipe: What is done.
        signature: Of the model.
        limits: Of what may become of a small file.

    Attributes:
        signature: What clients give and get.

    Raises:
        LoadError: The recipe does not fit the model, or what it needs is not installed.
    """

    def __init__(self, recipe: Recipe, signature: Signature, limits: RecipeLimits) -> None:
        self._recipe = recipe
        self._inner = signature
        self._room = Room(limits.room_bytes)
        self._steps = {step.name: step for step in recipe.inputs}
        self._told_names: dict[str, tuple[str, ...]] = {}  # by output of the recipe
        self._measures = recipe.written is not None and any(info.name == LENGTH for info in signature.inputs)
        self._check_inputs()
        self._readers: dict[str, Callable[[Any], Any]] = {
            step.name: self._make_reader(step, limits) for step in recipe.inputs
        }
        inputs, outputs = self._outer_inputs(), self._outer_outputs()
        batching = replace(signature.batching, paddings=())  # they are of inputs that clients do not see
        self.signature = replace(signature, inputs=inputs, outputs=outputs, batching=batching)

    def choose(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The outputs of the model that are needed for those that a client wants.

        Raises:
            InvalidFieldError: There is none of a name.
        """
        names = choose_outputs(wanted, self.signature, carried=self._states())
        if not self._recipe.outputs:
            return names
        needed = [output.takes for output in self._recipe.outputs if self._tells(output.name, names)]
        return tuple(dict.fromkeys([*needed, *(name for name in names if name in self._states())]))

    def prepare(self, inputs: Mapping[str, Tensor], *, carried: bool) -> dict[str, Tensor]:
        """What the model is given.

        Args:
            inputs: As a client gave them.
            carried: Whether states of a sequence are given by the engine.

        Raises:
            InvalidFieldError: One is not known, missing, of another type, or no file that can be read.
        """
        for place, (name, tensor) in enumerate(inputs.items()):
            step = self._steps.get(name)
            if step and tensor.element_type is ElementType.STRING and not isinstance(step, TextInput):
                message = f"input {name!r} is a text; give {KINDS[type(step)]} as the bytes of its file, UINT8 [bytes]"
                raise InvalidFieldError(message, field=f"{AT}[{place}].element_type")
        outer = replace(self.signature, most_batch=1)  # a file is not a row for each of its bytes
        check_inputs(inputs, outer, carried=self._states(inputs=True) if carried else frozenset())
        made: dict[str, Tensor] = {}
        for place, (name, tensor) in enumerate(inputs.items()):
            step = self._steps.get(name)
            if step is None:
                made[name] = tensor
                continue
            try:
                made.update(self._read(step, tensor))
            except ValueError as error:
                field = f"{AT}[{place}].{'strings' if isinstance(step, TextInput) else 'data'}"
                raise InvalidFieldError(f"input {name!r} {error}", field=field) from None
        return made

    def finish(
        self, wanted: Sequence[str], inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What a client gets of the model's outputs.

        Raises:
            TypeError: The model gave something else than it said.
        """
        names = choose_outputs(wanted, self.signature, carried=self._states())
        if not self._recipe.outputs:
            return {name: outputs[name] for name in names}
        told: dict[str, Tensor] = {}
        for output in self._recipe.outputs:
            if self._tells(output.name, names):
                told.update(tell(output, outputs, inputs))
        return {name: told[name] if name in told else outputs[name] for name in names}

    def forget(self) -> None:
        """Have files that nobody waits for any more, as `room.WANTED` says, wait for no room."""
        self._room.look()

    def longest(self) -> tuple[int, float] | None:
        """The picture or sound that has been decoded for longest: a number of its own, and seconds."""
        return self._room.longest()

    def _tells(self, name: str, names: Iterable[str]) -> bool:
        """Whether an output of the recipe has one of some names."""
        return any(each in names for each in self._told_names[name])

    def _states(self, *, inputs: bool = False) -> frozenset[str]:
        return frozenset(state.input_name if inputs else state.output_name for state in self._inner.states)

    def _read(self, step: RecipeInput, tensor: Tensor) -> dict[str, Tensor]:
        if isinstance(step, TextInput):
            arrays = self._readers[step.name](tensor.array.ravel().tolist())
        else:
            made = self._readers[step.name](tensor.array.tobytes())
            arrays = {step.gives: made}
            if self._measures and isinstance(step, AudioInput):
                arrays = {step.gives: made[0], LENGTH: np.array([made[1]])}
        return {name: self._to_tensor(name, array) for name, array in arrays.items()}

    def _to_tensor(self, name: str, array: Any) -> Tensor:
        """Numbers in the type of the model's input; whole ones are rounded, and none may be outside of the type."""
        kind = next(info.element_type for info in self._inner.inputs if info.name == name)
        dtype = np.dtype(NUMPY[kind])
        if dtype.kind in WHOLE:
            bounds = np.iinfo(dtype)
            array = np.rint(array)
            if array.size and (array.min() < bounds.min or array.max() > bounds.max):
                found = f"from {array.min():g} to {array.max():g}"
                raise ValueError(f"becomes numbers {found}, which {kind.name} cannot hold")
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(array, dtype)
        if dtype.kind == "f" and not np.isfinite(cast).all():
            found = f"up to {np.abs(array).max():g}"
            raise ValueError(f"becomes numbers {found}, which {kind.name} cannot hold; its recipe's scale makes them")
        return Tensor(element_type=kind, shape=cast.shape, array=cast)

    def _make_reader(self, step: RecipeInput, limits: RecipeLimits) -> Callable[[Any], Any]:
        try:
            match step:
                case ImageInput():
                    return Pictures(step, most_pixels=limits.image_pixels, room=self._room).read
                case AudioInput():
                    sounds = Sounds(step, most_s=limits.audio_s, room=self._room)
                    return sounds.measure if self._measures else sounds.read
                case TextInput():
                    return Tokens(step, Path(self._recipe.where).parent).read
                case BytesInput():
                    return lambda content: read_bytes(step, content)
        except ImportError as error:
            lacking = f"needs {error.name or 'a library'}, which is not installed: {INSTALL}"
            raise self._error(f"input.{step.name}", lacking) from None
        except ValueError as error:
            raise self._error(f"input.{step.name}", str(error)) from None

    def _check_inputs(self) -> None:
        """Whether all that the recipe gives is there to be given, once and in numbers."""
        known = {info.name: info for info in self._inner.inputs}
        states, given = self._states(inputs=True), set[str]()
        for step in self._recipe.inputs:
            for field, name in _gives(step):
                at = f"input.{step.name}.{field}"
                if name not in known:
                    raise self._error(at, f"is {name!r}, which is no input of the model{_hint(name, list(known))}")
                kind = known[name].element_type
                if name in given or name in states:
                    raise self._error(at, f"is {name!r}, which is given already, here or by the sequence")
                if np.dtype(NUMPY.get(kind, "O")).kind not in "iuf" or kind is ElementType.BFLOAT16:
                    raise self._error(at, f"is {name!r}, which is {kind.name}; a recipe gives plain numbers")
                given.add(name)
                self._check_shape(step, at, known[name])
        for step in self._recipe.inputs:
            if step.name in known and step.name not in given:
                raise self._error(f"input.{step.name}", "has the name of another input of the model; call it otherwise")

    def _check_shape(self, step: RecipeInput, at: str, info: TensorInfo) -> None:
        """Whether the dimensions that a recipe makes are those of the model, as far as both are known."""
        made = _shape(step)
        if info.shape is None:
            return
        fits = len(made) == len(info.shape) and all(
            not isinstance(one, int) or not isinstance(other, int) or one == other
            for one, other in zip(made, info.shape, strict=True)
        )
        if not fits:
            shown = [size if size != "" else "?" for size in made]
            raise self._error(at, f"is {info.name!r} of shape {list(info.shape)}, and what the recipe makes is {shown}")

    def _outer_inputs(self) -> tuple[TensorInfo, ...]:
        given = {name for step in self._recipe.inputs for _, name in _gives(step)}
        if self._measures and any(isinstance(step, AudioInput) for step in self._recipe.inputs):
            given.add(LENGTH)
        own = [_describe_input(step) for step in self._recipe.inputs]
        return (*own, *(info for info in self._inner.inputs if info.name not in given))

    def _outer_outputs(self) -> tuple[TensorInfo, ...]:
        if not self._recipe.outputs:
            return self._inner.outputs
        known = {info.name: info for info in self._inner.outputs}
        inputs = [info.name for info in self._inner.inputs]
        found: list[TensorInfo] = []
        for output in self._recipe.outputs:
            at = f"output.{output.name}"
            if output.takes not in known:
                hint = _hint(output.takes, list(known))
                raise self._error(f"{at}.takes", f"is {output.takes!r}, which is no output of the model{hint}")
            if isinstance(output, VectorOutput) and output.mask and output.mask not in inputs:
                hint = _hint(output.mask, inputs)
                raise self._error(f"{at}.mask", f"is {output.mask!r}, which is no input of the model{hint}")
            try:
                told = describe_output(output, known[output.takes])
            except ValueError as error:
                raise self._error(at, str(error)) from None
            self._told_names[output.name] = tuple(info.name for info in told)
            found += told
        names = [info.name for info in found]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise self._error(f"output.{twice}", "is told twice; call one of them otherwise")
        told_states = [known[name] for name in sorted(self._states()) if name not in names]
        return (*found, *told_states)

    def _error(self, field: str, why: str) -> LoadError:
        where = self._recipe.where
        if text := self._recipe.text:
            table, _, key = field.rpartition(".")
            where = f"{where}:{find_line(text, table, key)}"
        return LoadError(f"{where}: {field!r} {why}")


def _gives(step: RecipeInput) -> list[tuple[str, str]]:
    """The model's inputs that a step gives, each with its field."""
    fields = [("gives", step.gives)]
    if isinstance(step, TextInput):
        fields += [("mask", step.mask), ("types", step.types)]
    return [(field, name) for field, name in fields if name]


def _describe_input(step: RecipeInput) -> TensorInfo:
    """What clients give: the bytes of a file, or texts."""
    what = KINDS[type(step)]
    if isinstance(step, TextInput):
        return TensorInfo(name=step.name, element_type=ElementType.STRING, shape=("",), description=what)
    return TensorInfo(name=step.name, element_type=ElementType.UINT8, shape=(BYTES,), description=what)


def _shape(step: RecipeInput) -> list[int | str]:
    """The sizes of what a step makes, "" where they depend on the file."""
    match step:
        case TextInput():
            return ["", ""]
        case BytesInput():
            return [1, step.first + step.last]
        case AudioInput() if step.mels:
            return ["", step.mels, step.window // step.hop]
        case AudioInput():
            sizes: dict[str, int | str] = dict(zip("nsc", ("", step.window or "", 1), strict=True))
        case ImageInput():
            high, wide = _sides(step)
            sizes = dict(zip("nchw", (1, 1 if step.colors == "gray" else 3, high, wide), strict=True))
    return [sizes[letter] for letter in step.layout]


def _sides(step: ImageInput) -> tuple[int | str, int | str]:
    """Height and width of a picture in the end."""
    if step.crop:
        sides = list(step.crop)
    elif len(step.resize) == 2:  # noqa: PLR2004 - height and width
        most = step.most or (0, 0)
        sides = [min(size, bound or size) for size, bound in zip(step.resize, most, strict=True)]
    else:
        return "", ""
    high, wide = (-(-size // step.multiple) * step.multiple or "" for size in sides)
    return high, wide


def _hint(name: str, names: list[str]) -> str:
    near = suggestion(name, names)
    return (f"; did you mean {near!r}?" if near else ".") + f" It has: {', '.join(names[:20])}"
