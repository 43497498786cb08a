"""A recipe: how files and texts become the inputs of a model of tensors, and its outputs what clients asked for.

It is a file beside the model, `recipe.toml` in its folder or `NAME.recipe.toml` beside a file, and works for every
backend that gives a `TensorSession`: the worker does what it says before and behind `predict`. `recipe_file` reads it.
"""

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """A picture in a file (PNG, JPEG, WebP, GIF, BMP), as one row of pixels.

    Its orientation is what the file says (EXIF), transparent parts are laid over `fill`, and of several pictures the
    first one is taken. Steps go in this order: `resize`, `crop`, `multiple`, then numbers.

    Attributes:
        name: What clients call it.
        gives: The input of the model.
        colors: "rgb", "bgr" or "gray".
        resize: Height and width, of which one may be 0: then it follows from the other. One number is that of the
            shorter side. Empty to leave the size.
        fit: Where `resize` says both: "stretch"; "cover", which cuts what is too much; or "contain", which fills up.
        crop: Height and width that are cut from the middle; a picture that lacks some is filled up around it, not
            stretched. Empty for nothing.
        most: Most height and width after `resize`, 0 for any: what is larger is stretched into it. Empty for any.
        multiple: Height and width are filled up to a multiple of it, to the right and below.
        fill: The grey, from 0 to 255, of what is filled up and of what shines through.
        filter: How pixels between pixels are found: "nearest", "box", "bilinear", "bicubic" or "lanczos".
        scale: What pixels from 0 to 255 are multiplied by first.
        mean: Taken off then; one number, or one for each color.
        std: What that is divided by; as `mean`.
        layout: Order of the dimensions: n, c, h and w.
    """

    name: str
    gives: str
    colors: str = "rgb"
    resize: tuple[int, ...] = ()
    fit: str = "stretch"
    crop: tuple[int, ...] = ()
    most: tuple[int, ...] = ()
    multiple: int = 1
    fill: int = 255
    filter: str = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInput:
    """A sound in a file (WAV; FLAC, Ogg and MP3 where soundfile is installed), as numbers from -1 to 1.

    Attributes:
        name: What clients call it.
        gives: The input of the model.
        rate: Samples a second; sounds of another rate are sampled again.
        window: Samples of a row: the sound is cut into so many rows, and the last one is filled up with zeros. 0 for
            one row with all.
        scale: What samples are multiplied by.
        layout: Order of the dimensions: n, s (samples), and perhaps c (one channel, in which all are mixed).
        mels: Bands of the log-mel spectrogram that each row becomes, as Whisper has it: (n, bands, window / hop). 0 for
            the samples themselves. No more than `hop`, so that it never has more numbers than the sound.
        fft: Samples of which one column of it is made.
        hop: Samples from one column to the next; `window` is a multiple of it.
    """

    name: str
    gives: str
    rate: int
    window: int = 0
    scale: float = 1.0
    layout: str = "ns"
    mels: int = 0
    fft: int = 400
    hop: int = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInput:
    """Texts, as the ids of their tokens, one row each.

    Attributes:
        name: What clients call it.
        gives: The input of the model that gets the ids.
        tokenizer: A file of Hugging Face tokenizers in the folder of the recipe.
        mask: The input that tells tokens from padding; "" for none.
        types: The input of the types of tokens; "" for none.
        length: Most tokens of a text; a longer one is refused.
        multiple: Rows are filled up to a multiple of it, so that more requests are computed as one.
        padding: The id that they are filled up with.
    """

    name: str
    gives: str
    tokenizer: str = "tokenizer.json"
    mask: str = ""
    types: str = ""
    length: int = 512
    multiple: int = 16
    padding: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesInput:
    """A file of any kind, as numbers of its first and its last bytes, one row.

    Attributes:
        name: What clients call it.
        gives: The input of the model.
        first: Bytes of its begin; what is missing is filled up behind them.
        last: Bytes of its end; what is missing is filled up before them.
        padding: The number that is filled up with.
        strip: So many bytes at each end are looked at, and white space there is left out; 0 to leave it in.
    """

    name: str
    gives: str
    first: int = 0
    last: int = 0
    padding: int = 0
    strip: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOutput:
    """The likeliest labels of each row, best first: texts under its name, and their scores under `NAME_score`.

    Attributes:
        name: What clients call it.
        takes: The output of the model, [rows, labels].
        labels: One for each number.
        top: How many are told.
        activation: What makes scores of numbers: "none", "softmax" or "sigmoid".
    """

    name: str
    takes: str
    labels: tuple[str, ...]
    top: int = 1
    activation: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpelledOutput:
    """What each row spells, step by step: the likeliest label of each, repetitions once (CTC; Graves et al., 2006).

    Attributes:
        name: What clients call it.
        takes: The output of the model, [rows, steps, labels].
        labels: One for each number.
        blank: The number that stands for nothing, and between two equal labels.
    """

    name: str
    takes: str
    labels: tuple[str, ...]
    blank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOutput:
    """One vector of each row.

    Attributes:
        name: What clients call it.
        takes: The output of the model, [rows, tokens, width].
        pooling: "mean" of the tokens that are no padding, "first" or "last" of them.
        mask: The input of the model that tells tokens from padding; "" where there is none.
        normalize: Whether its length becomes 1.
    """

    name: str
    takes: str
    pooling: str = "mean"
    mask: str = ""
    normalize: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainOutput:
    """An output of the model as it is.

    Attributes:
        name: What clients call it.
        takes: The output of the model.
    """

    name: str
    takes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTokens:
    """Tokens by which a decoder says when something was said, one for each step of a row.

    Attributes:
        first: The token of second 0 of a row; all from there on are later times.
        step_s: Seconds from one to the next.
        row_s: Seconds of a row.
        silent: The token that says that there are no times; it is left out where they are wanted.
        text_end: The first token that is no text; all from there up to `first` control.
        most_first: How many tokens behind `first` the first one that is written may be; None for any.
    """

    first: int
    step_s: float
    row_s: float
    silent: int
    text_end: int
    most_first: int | None = None

    def seconds(self, token_id: int) -> float | None:
        """The time that a token says, from the begin of its row; None for another token."""
        return (token_id - self.first) * self.step_s if token_id >= self.first else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenOutput:
    """What a decoder writes of each row of its encoder, token by token, and always the likeliest one.

    Only of models that are an encoder and a decoder of text (`LoadedModel.recipe`). Clients get it piece by piece, as
    it is written: texts under its name, and their tokens under `NAME_tokens`. Where they ask for times, by the input
    `times`, they get segments besides, each as it ends: `NAME_segments`, `NAME_begins` and `NAME_ends`; and once the
    language that it is written in and the length of the sound, `NAME_language` and `NAME_length`.

    Attributes:
        name: What clients call it.
        start: Tokens that it begins with.
        languages: Tokens that may follow, by what clients call them in the input `language`; where that is not given,
            the likeliest one is taken. Empty for a model that knows one language only.
        tasks: Tokens that follow then, by what clients call them in the input `task`, by default the first one.
        begin: Tokens behind those, such as the one that says that there are no timestamps.
        suppress: Tokens that are never written.
        begin_suppress: Tokens that are not the first one that is written.
        times: Those that say when something was said; None for a decoder that writes none.
    """

    name: str
    start: tuple[int, ...]
    languages: tuple[tuple[str, int], ...] = ()
    tasks: tuple[tuple[str, int], ...] = ()
    begin: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    times: TimeTokens | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All tokens that it names."""
        named = (number for group in (self.languages, self.tasks) for _, number in group)
        return (*self.start, *named, *self.begin, *self.suppress, *self.begin_suppress)


RecipeInput: TypeAlias = ImageInput | AudioInput | TextInput | BytesInput
RecipeOutput: TypeAlias = LabelOutput | SpelledOutput | VectorOutput | PlainOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done before and behind a model of tensors.

    Attributes:
        where: Its file, for errors.
        inputs: Those that clients give as files and texts; the model's other inputs they give as tensors.
        outputs: What clients get; empty for all outputs of the model as they are.
        written: The text that clients get of a model that is an encoder and a decoder; None for others.
        text: What its file says, for the lines of errors; empty where it has none.
    """

    where: str
    inputs: tuple[RecipeInput, ...] = ()
    outputs: tuple[RecipeOutput, ...] = ()
    written: WrittenOutput | None = None
    text: str = field(default="", repr=False, compare=False)
