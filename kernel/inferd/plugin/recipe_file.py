"""A recipe's file: read, and refused where it does not say what it must, with its line and field."""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from inferd.errors import suggestion, words_of
from inferd.plugin.backend import LoadError
from inferd.plugin.names import is_file_name
from inferd.plugin.recipe import (
    AudioInput,
    BytesInput,
    ImageInput,
    LabelOutput,
    PlainOutput,
    Recipe,
    RecipeInput,
    RecipeOutput,
    SpelledOutput,
    TextInput,
    VectorOutput,
    WrittenOutput,
)

OWN_NAME: Final = "recipe.toml"
ENDING: Final = ".recipe.toml"
MAX_BYTES, MAX_LABEL_BYTES, MAX_LABELS = 256 << 10, 16 << 20, 1 << 20
MAX_SIDE, MAX_RATE, MAX_COUNT, MAX_NAMED = 16384, 192_000, 1 << 24, 64
MAX_MELS, MAX_TOKENS = 1024, 4096
HUGE: Final = 1e9
COLORS: Final = {"rgb": 3, "bgr": 3, "gray": 1}


def find_recipe(path: Path) -> Path:
    """Where the recipe of a model is, if it has one: in its folder, or beside its file."""
    return path / OWN_NAME if path.is_dir() else path.with_suffix(ENDING)


def read_recipe(path: Path) -> Recipe | None:
    """The recipe of a model's folder or file; None where it has none.

    Raises:
        LoadError: It cannot be read, or says something that there is not; with its line and field.
    """
    file = find_recipe(path)
    if not file.is_file():
        return None
    try:
        if not _is_inside(file):
            raise LoadError(f"{file} is a symbolic link out of the model's folder; put the file itself there")
        if (size_bytes := file.stat().st_size) > MAX_BYTES:
            raise LoadError(f"{file} has {size_bytes} bytes; the limit is {MAX_BYTES}")
        text = file.read_text(encoding="utf-8-sig")  # editors of Windows put a mark in front
        content = tomllib.loads(text)
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{file} is no TOML: {error}") from None
    whole = _Table(file, text, content, "")
    inputs = tuple(_read_each(whole, "input", "takes", INPUTS))
    told = _read_each(whole, "output", "as", OUTPUTS)
    outputs = tuple(each for each in told if not isinstance(each, WrittenOutput))
    written = [each for each in told if isinstance(each, WrittenOutput)]
    whole.done()
    if written and len(told) > 1:
        raise whole.error("output", f"has {len(told)} tables; beside one that is written there is no other")
    if not inputs and not told:
        raise LoadError(f"{file} says nothing: it must have a table [input.NAME] or [output.NAME]")
    return Recipe(where=str(file), inputs=inputs, outputs=outputs, written=next(iter(written), None), text=text)


class _Table:
    """A table of the file, of which every key must be read."""

    def __init__(self, file: Path, text: str, content: Mapping[str, Any], at: str) -> None:
        self.file = file
        self.at = at
        self._text = text
        self._content = content
        self._known: list[str] = []

    def error(self, key: str, why: str) -> LoadError:
        """An error with line and field."""
        field = f"{self.at}.{key}" if self.at else key
        return LoadError(f"{self.file}:{find_line(self._text, self.at, key)}: {field!r} {why}")

    def tables(self, key: str) -> list[tuple[str, "_Table"]]:
        """The named tables in a table."""
        found = self._take(key, {})
        if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
            raise self.error(key, f"must have tables with names, such as [{key}.image]")
        if len(found) > MAX_NAMED:
            raise self.error(key, f"has {len(found)} tables; at most {MAX_NAMED} are read")
        return [(name, _Table(self.file, self._text, each, f"{key}.{name}")) for name, each in found.items()]

    def text(self, key: str, default: str | None = None) -> str:
        """A text; without a default one that must be there."""
        value = self._take(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise self._wrong(key, value, "a text that is not empty")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of some texts."""
        value = self._take(key, default)
        if value not in choices:
            near = suggestion(str(value), list(choices))
            hint = f"; did you mean {near!r}?" if near else ""
            raise self._wrong(key, value, f"one of {', '.join(choices)}{hint}")
        return str(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 0, most: int = MAX_COUNT) -> int:
        """A whole number within bounds."""
        value = self._take(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def sizes(self, key: str, *, single: bool = False, zero: bool = False) -> tuple[int, ...]:
        """Height and width; or a `single` number; empty where nothing is said."""
        value = self._take(key, None)
        if value is None:
            return ()
        alone = single and type(value) is int
        listed = [value] if alone else value
        least = 0 if zero and not alone else 1
        good = isinstance(listed, list) and all(type(each) is int and least <= each <= MAX_SIDE for each in listed)
        if not good or len(listed) != (1 if alone else 2) or not any(listed):
            one = "a number, or " if single else ""
            raise self._wrong(key, value, f"{one}[height, width], each from {least} to {MAX_SIDE}, not both 0")
        return tuple(listed)

    def numbers(self, key: str, default: float, count: int, *, zero: bool = True) -> tuple[float, ...]:
        """A number, or as many as there are colors."""
        value = self._take(key, default)
        listed = value if isinstance(value, list) else [value]
        good = all(type(each) in (int, float) and abs(each) <= HUGE and (zero or each) for each in listed)
        if not good or len(listed) not in (1, count):
            what = "" if zero else ", none of them 0"
            raise self._wrong(key, value, f"a number or a list of {count} numbers{what}")
        return tuple(float(each) for each in listed)

    def tokens(self, key: str, *, least: int = 0) -> tuple[int, ...]:
        """The ids of tokens."""
        value = self._take(key, None if least else [])
        listed = isinstance(value, list) and all(type(each) is int and 0 <= each <= MAX_COUNT for each in value)
        if not listed or not least <= len(value) <= MAX_TOKENS:
            must = f"a list of {least} to {MAX_TOKENS} tokens, each from 0 to {MAX_COUNT}"
            raise self._wrong(key, value, must)
        return tuple(value)

    def named_tokens(self, key: str) -> tuple[tuple[str, int], ...]:
        """Tokens by what clients call them, in their order."""
        value = self._take(key, {})
        good = isinstance(value, dict) and all(type(each) is int and 0 <= each <= MAX_COUNT for each in value.values())
        if not good or len(value) > MAX_TOKENS:
            raise self._wrong(key, value, f"at most {MAX_TOKENS} tokens by their names, such as {{en = 50259}}")
        return tuple(value.items())

    def layout(self, default: str, letters: str, *, optional: str = "") -> str:
        """The order of dimensions: each letter once."""
        value = self._take("layout", default)
        allowed = {"".join(sorted(letters)), "".join(sorted(letters.replace(optional, "") if optional else letters))}
        if not isinstance(value, str) or "".join(sorted(value)) not in allowed:
            raise self._wrong("layout", value, f"the letters {letters!r} in some order, such as {default!r}")
        return value

    def labels(self) -> tuple[str, ...]:
        """Labels: listed; a text file with a line each; or a JSON file, behind a colon the key of them in it.

        There they may be by their numbers, as Hugging Face's config.json has them in id2label.
        """
        value = self._take("labels", None)
        if isinstance(value, str):
            value = self._read_labels(value)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise self._wrong(
                "labels",
                value,
                "a list of texts, or a file of them: NAME.txt, or NAME.json:KEY (there also numbered from 0)",
            )
        if len(value) > MAX_LABELS:
            raise self.error("labels", f"has {len(value)} labels; at most {MAX_LABELS} are read")
        return tuple(value)

    def file_name(self, key: str, default: str | None = None) -> str:
        """The name of a file beside the recipe."""
        value = self.text(key, default)
        self._beside(key, value)
        return value

    def done(self) -> None:
        """Refuse what nobody has read."""
        for key in self._content:
            if key not in self._known:
                near = suggestion(key, self._known)
                hint = f"; did you mean {near!r}?" if near else ""
                raise self.error(key, f"is not known{hint} Known are: {', '.join(self._known)}")

    def _take(self, key: str, default: Any) -> Any:
        if key not in self._known:
            self._known.append(key)
        return self._content.get(key, default)

    def _wrong(self, key: str, value: Any, must: str) -> LoadError:
        if value is None:
            return self.error(key, f"is missing; it must be {must}")
        return self.error(key, f"is {str(value)[:80]!r}; it must be {must}")

    def _beside(self, key: str, name: str) -> Path:
        path = self.file.parent / name
        if not is_file_name(name) or not path.is_file():
            raise self.error(key, f"names {name[:80]!r}, which is no file in the folder of the recipe")
        if not _is_inside(path):
            out = "a symbolic link out of the folder of the recipe; put the file itself there"
            raise self.error(key, f"names {name[:80]!r}, which is {out}")
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise self.error(key, f"names a file of {path.stat().st_size} bytes; the limit is {MAX_LABEL_BYTES}")
        return path

    def _read_labels(self, value: str) -> Any:
        name, _, key = value.partition(":")
        path = self._beside("labels", name)
        try:
            text = path.read_text(encoding="utf-8-sig")
            if path.suffix != ".json":
                return text.removesuffix("\n").split("\n")
            content = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise self.error("labels", f"names {name!r}, which cannot be read: {words_of(error)}") from None
        return _by_number(content.get(key) if key and isinstance(content, dict) else content)


def _by_number(found: Any) -> Any:
    """A list of what an object has by the numbers from 0 on, or each by its label; all else as it is."""
    if not isinstance(found, dict) or not found:
        return found
    if all(type(number) is int for number in found.values()):  # label2id
        found = {str(number): label for label, number in found.items()}
    named = [found.get(str(number)) for number in range(len(found))]
    return named if None not in named else found


def _is_inside(file: Path) -> bool:
    """Whether a file of a folder lies in it, wherever links lead: a model from elsewhere is not to read others."""
    return file.resolve().is_relative_to(file.parent.resolve())


def find_line(text: str, table: str, key: str) -> int:
    """The line of a key; that of its table where it is not found, 1 at least."""
    here, found = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if header := re.match(r"\[([^\]]+)\]", stripped):
            here = header[1].strip().replace('"', "").replace("'", "")
            if here == table or here == f"{table}.{key}".lstrip("."):
                found = number
        elif here == table and re.match(rf"""["']?{re.escape(key)}["']?\s*[=.]""", stripped):
            return number
    return found


def _read_each(whole: _Table, key: str, kind: str, readers: Mapping[str, Callable[[str, _Table], Any]]) -> list[Any]:
    """The tables of inputs or outputs, each by what it is."""
    found = []
    for name, table in whole.tables(key):
        found.append(readers[table.choice(kind, tuple(readers))](name, table))
        table.done()
    return found


def _read_image(name: str, table: _Table) -> RecipeInput:
    colors = table.choice("colors", tuple(COLORS), "rgb")
    count = COLORS[colors]
    return ImageInput(
        name=name,
        gives=table.text("gives", name),
        colors=colors,
        resize=table.sizes("resize", single=True, zero=True),
        fit=table.choice("fit", ("stretch", "cover", "contain"), "stretch"),
        crop=table.sizes("crop"),
        most=table.sizes("most", zero=True),
        multiple=table.integer("multiple", 1, least=1, most=MAX_SIDE),
        fill=table.integer("fill", 255, most=255),
        filter=table.choice("filter", ("nearest", "box", "bilinear", "bicubic", "lanczos"), "bilinear"),
        scale=table.numbers("scale", 1 / 255, 1, zero=False)[0],
        mean=table.numbers("mean", 0.0, count),
        std=table.numbers("std", 1.0, count, zero=False),
        layout=table.layout("nchw", "nchw", optional="c" if count == 1 else ""),
    )


def _read_audio(name: str, table: _Table) -> RecipeInput:
    made = AudioInput(
        name=name,
        gives=table.text("gives", name),
        rate=table.integer("rate", least=1000, most=MAX_RATE),
        window=table.integer("window", 0),
        scale=table.numbers("scale", 1.0, 1, zero=False)[0],
        layout=table.layout("ns", "nsc", optional="c"),
        mels=table.integer("mels", 0, most=MAX_MELS),
        fft=table.integer("fft", 400, least=2, most=MAX_SIDE),
        hop=table.integer("hop", 160, least=1, most=MAX_SIDE),
    )
    if made.mels and (made.window % made.hop or made.window <= made.fft // 2):
        must = f"a multiple of 'hop', {made.hop}, above half of 'fft', {made.fft}"
        raise table.error("window", f"is {made.window}; where there are 'mels' it must be {must}")
    if made.mels > made.hop:
        must = f"at most 'hop', {made.hop}: a spectrogram has no more numbers than its sound"
        raise table.error("mels", f"is {made.mels}; it must be {must}")
    if made.mels and "c" in made.layout:
        raise table.error("layout", f"is {made.layout!r}; where there are 'mels' there is no channel")
    return made


def _read_text(name: str, table: _Table) -> RecipeInput:
    return TextInput(
        name=name,
        gives=table.text("gives", name),
        tokenizer=table.file_name("tokenizer", "tokenizer.json"),
        mask=table.text("mask", ""),
        types=table.text("types", ""),
        length=table.integer("length", 512, least=1, most=1 << 20),
        multiple=table.integer("multiple", 16, least=1, most=MAX_SIDE),
        padding=table.integer("padding", 0),
    )


def _read_bytes(name: str, table: _Table) -> RecipeInput:
    made = BytesInput(
        name=name,
        gives=table.text("gives", name),
        first=table.integer("first", 0),
        last=table.integer("last", 0),
        padding=table.integer("padding", 0),
        strip=table.integer("strip", 0),
    )
    if not made.first + made.last:
        raise table.error("first", "and 'last' are 0; one of them must be more")
    return made


def _read_labels(name: str, table: _Table) -> RecipeOutput:
    labels = table.labels()
    return LabelOutput(
        name=name,
        takes=table.text("takes"),
        labels=labels,
        top=table.integer("top", 1, least=1, most=len(labels)),
        activation=table.choice("activation", ("none", "softmax", "sigmoid"), "none"),
    )


def _read_spelled(name: str, table: _Table) -> RecipeOutput:
    labels = table.labels()
    blank = table.integer("blank", 0, most=len(labels) - 1)
    return SpelledOutput(name=name, takes=table.text("takes"), labels=labels, blank=blank)


def _read_vector(name: str, table: _Table) -> RecipeOutput:
    return VectorOutput(
        name=name,
        takes=table.text("takes"),
        pooling=table.choice("pooling", ("mean", "first", "last"), "mean"),
        mask=table.text("mask", ""),
        normalize=table.flag("normalize", default=True),
    )


def _read_written(name: str, table: _Table) -> WrittenOutput:
    return WrittenOutput(
        name=name,
        start=table.tokens("start", least=1),
        languages=table.named_tokens("languages"),
        tasks=table.named_tokens("tasks"),
        begin=table.tokens("begin"),
        suppress=table.tokens("suppress"),
        begin_suppress=table.tokens("begin_suppress"),
    )


def _read_plain(name: str, table: _Table) -> RecipeOutput:
    return PlainOutput(name=name, takes=table.text("takes", name))


INPUTS: Final = {"image": _read_image, "audio": _read_audio, "text": _read_text, "file": _read_bytes}
OUTPUTS: Final[Mapping[str, Callable[[str, _Table], RecipeOutput | WrittenOutput]]] = {
    "labels": _read_labels,
    "spelled": _read_spelled,
    "vector": _read_vector,
    "tensor": _read_plain,
    "written": _read_written,
}
