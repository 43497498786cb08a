"""A folder of Whisper's: its graphs, and what its configurations say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from inferd.plugin import (
    AudioInput,
    LoadError,
    Recipe,
    TimeTokens,
    UnsupportedModelError,
    Vocabulary,
    WrittenOutput,
    read_hf_json,
    read_hf_vocabulary,
)
from inferd_onnx.decoder.shape import Shape
from inferd_onnx.model_file import ENCODER_FILE, ModelFile, read_model_file

MERGED_DECODER = "decoder_model_merged.onnx"
FIRST_DECODER, NEXT_DECODER = "decoder_model.onnx", "decoder_with_past_model.onnx"
CONFIG, GENERATION, PREPROCESSOR = "config.json", "generation_config.json", "preprocessor_config.json"
PROCESSOR, EXTRACTOR = "processor_config.json", "feature_extractor"  # the same as an object of another file
MAX_RATE, MAX_WINDOW_S, MAX_MELS, MAX_FFT = 192_000, 600, 1024, 16384
ARCHITECTURE: Final = "whisper"
FEATURES, STATES, BRANCH = "input_features", "encoder_hidden_states", "use_cache_branch"
AUDIO, TEXT = "audio", "text"
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "do_sample": (False,),
    "num_beams": (1,),
    "repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "sequence_bias": (),
    "bad_words_ids": (),
}
"""What a generation_config.json may say that would change what is written, and what changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechFolder:
    """What a folder says.

    Attributes:
        encoder: Its graph.
        first: The graph of the decoder that begins a text.
        next: That which goes on; the same where one graph does both.
        shape: Of the decoder.
        mels: Bands of a spectrogram.
        frames: Columns of it.
        states: Columns that the encoder makes of them.
        vocabulary: Of its tokens.
        recipe: How sounds enter and text leaves.
    """

    encoder: ModelFile
    first: ModelFile
    next: ModelFile
    shape: Shape
    mels: int
    frames: int
    states: int
    vocabulary: Vocabulary
    recipe: Recipe

    @property
    def merged(self) -> bool:
        """Whether one graph begins and goes on."""
        return self.first is self.next

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """Those that are loaded."""
        return (self.encoder, self.first) if self.merged else (self.encoder, self.first, self.next)

    def layers(self, kind: str, of: str) -> list[str]:
        """Names of keys and values of all layers: "past_key_values" or "present", of the "decoder" or the "encoder"."""
        return [f"{kind}.{layer}.{of}.{what}" for layer in range(self.shape.layers) for what in ("key", "value")]


def read_speech_folder(path: Path, graphs: Path) -> SpeechFolder:
    """Read all of a folder but its weights.

    Raises:
        UnsupportedModelError: It is none of Whisper's, or wants something that is not done.
        LoadError: A file is missing or damaged, or contradicts another.
    """
    config = read_hf_json(path / CONFIG)
    if config.get("model_type") != ARCHITECTURE:
        raise UnsupportedModelError(
            f"{path / CONFIG}: model_type is {str(config.get('model_type'))[:80]!r}; of encoders with decoders only"
            f" {ARCHITECTURE!r} is supported"
        )
    generation = read_hf_json(path / GENERATION, required=False)
    heard, sound = _find_sound(path)
    encoder = read_model_file(graphs / ENCODER_FILE)
    first, following = _read_decoders(graphs)
    shape = _read_shape(path, config, generation)
    states = _size(path / CONFIG, config, "max_source_positions")
    audio = _read_audio(heard, sound)
    written = replace(
        _read_writing(path, config, generation), times=_read_times(config, generation, audio, states=states)
    )
    found = SpeechFolder(
        encoder=encoder,
        first=first,
        next=following,
        shape=shape,
        mels=audio.mels,
        frames=audio.window // audio.hop,
        states=states,
        vocabulary=read_hf_vocabulary(path, config, generation),
        recipe=Recipe(where=str(path), inputs=(audio,), written=written),
    )
    if found.mels != (bands := _size(path / CONFIG, config, "num_mel_bins")):
        raise LoadError(f"{heard}: feature_size is {found.mels}, but {CONFIG} has num_mel_bins {bands}")
    if found.frames != 2 * states:
        raise LoadError(
            f"{heard}: a window has {found.frames} columns, but {CONFIG} has max_source_positions"
            f" {states}, which takes {2 * states}"
        )
    _check_inputs(found)
    return found


def _read_decoders(graphs: Path) -> tuple[ModelFile, ModelFile]:
    if (graphs / MERGED_DECODER).is_file():
        merged = read_model_file(graphs / MERGED_DECODER)
        return merged, merged
    for name in (FIRST_DECODER, NEXT_DECODER):
        if not (graphs / name).is_file():
            raise LoadError(
                f"{graphs} has {ENCODER_FILE} but no {name}: it must have {MERGED_DECODER}, or {FIRST_DECODER} and"
                f" {NEXT_DECODER}"
            )
    return read_model_file(graphs / FIRST_DECODER), read_model_file(graphs / NEXT_DECODER)


def _check_inputs(found: SpeechFolder) -> None:
    """Whether the graphs take what they are to be given."""
    past = [*found.layers("past_key_values", "decoder"), *found.layers("past_key_values", "encoder")]
    tokens = {"input_ids"}
    needed = [
        (found.encoder, {FEATURES}, set[str]()),
        (found.first, tokens | {STATES}, {"cache_position", BRANCH, *past} if found.merged else {"cache_position"}),
        (found.next, tokens | set(past), {STATES, "cache_position", *((BRANCH,) if found.merged else ())}),
    ]
    for file, must, may in needed:
        for name in sorted(must - set(file.inputs)):
            raise LoadError(f"{file.path}: the input {name!r} is missing")
        for name in file.inputs:
            if name not in must | may:
                raise UnsupportedModelError(f"{file.path}: the input {name[:80]!r} is none that Whisper's graphs take")


def _read_shape(path: Path, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Shape:
    where = path / CONFIG
    heads, width = _size(where, config, "decoder_attention_heads"), _size(where, config, "d_model")
    context = _size(where, config, "max_target_positions")
    if generation.get("max_length") is not None:
        context = min(context, _size(path / GENERATION, generation, "max_length"))
    return Shape(
        architecture=ARCHITECTURE,
        layers=_size(where, config, "decoder_layers"),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=max(1, width // heads),
        inner=_size(where, config, "decoder_ffn_dim"),
        vocabulary_size=_size(where, config, "vocab_size"),
        context_tokens=context,
        epsilon=1.0,
    )


def _read_audio(where: Path, sound: Mapping[str, Any]) -> AudioInput:
    rate = _size(where, sound, "sampling_rate", 16000, most=MAX_RATE)
    window = rate * _size(where, sound, "chunk_length", 30, most=MAX_WINDOW_S)
    if sound.get("dither"):
        raise UnsupportedModelError(f"{where}: dither is {str(sound['dither'])[:80]}, which is not supported")
    made = AudioInput(
        name=AUDIO,
        gives=FEATURES,
        rate=rate,
        window=window,
        mels=_size(where, sound, "feature_size", 80, most=MAX_MELS),
        fft=_size(where, sound, "n_fft", 400, most=MAX_FFT),
        hop=_size(where, sound, "hop_length", 160),
    )
    if made.mels > made.hop:
        raise LoadError(f"{where}: feature_size is {made.mels}; it must be at most hop_length, {made.hop}")
    if window % made.hop or window <= made.fft // 2:
        raise LoadError(f"{where}: a window of {window} samples must be a multiple of hop_length, {made.hop}")
    return made


def _read_writing(path: Path, config: Mapping[str, Any], generation: Mapping[str, Any]) -> WrittenOutput:
    where = path / (GENERATION if generation else CONFIG)

    def given(name: str) -> Any:
        return (generation or config).get(name)

    for name, values in NEUTRAL.items():
        value = generation.get(name)
        if value and value not in values:
            raise UnsupportedModelError(f"{where}: {name} is {str(value)[:80]}, which is not supported for speech")
    languages, tasks = _named(where, given("lang_to_id")), _named(where, given("task_to_id"))
    if given("is_multilingual") is False:
        languages, tasks = {}, {}
    forced = _forced(where, given("forced_decoder_ids"))
    behind = [] if languages else forced
    if None in behind:
        raise UnsupportedModelError(f"{where}: forced_decoder_ids leave the language open, and there is no lang_to_id")
    begin = given("decoder_start_token_id")
    begin = config.get("decoder_start_token_id") if begin is None else begin
    start = [_token(where, "decoder_start_token_id", begin)]
    silent = given("no_timestamps_token_id")
    if silent is not None and silent not in behind:
        behind = [*behind, _token(where, "no_timestamps_token_id", silent)]
    if (language := generation.get("language")) and languages:
        code = str(language).removeprefix("<|").removesuffix("|>")
        if code not in languages:
            raise UnsupportedModelError(f"{where}: language is {code[:80]!r}; write its code: {', '.join(languages)}")
        start, languages = [*start, languages[code]], {}
    if (task := generation.get("task") or "transcribe") in tasks:
        tasks = {task: tasks.pop(task), **tasks}
    return WrittenOutput(
        name=TEXT,
        start=tuple(start),
        languages=tuple(languages.items()),
        tasks=tuple(tasks.items()),
        begin=tuple(number for number in behind if number is not None),
        suppress=_tokens(where, "suppress_tokens", given("suppress_tokens")),
        begin_suppress=_tokens(where, "begin_suppress_tokens", given("begin_suppress_tokens")),
    )


def _read_times(
    config: Mapping[str, Any], generation: Mapping[str, Any], audio: AudioInput, *, states: int
) -> TimeTokens | None:
    """The tokens of time, which are the last of the vocabulary: one for each state of the encoder, and one behind."""
    said = generation or config
    silent, end, size = said.get("no_timestamps_token_id"), said.get("eos_token_id"), config.get("vocab_size")
    end = config.get("eos_token_id") if type(end) is not int else end
    if type(silent) is not int or type(end) is not int or type(size) is not int:
        return None
    if not 0 < end < silent or size != silent + 2 + states:
        return None
    most = said.get("max_initial_timestamp_index")
    row_s = audio.window / audio.rate
    return TimeTokens(
        first=silent + 1,
        step_s=row_s / states,
        row_s=row_s,
        silent=silent,
        text_end=end,
        most_first=most if type(most) is int and most >= 0 else None,
    )


def _named(where: Path, value: Any) -> dict[str, int]:
    """Tokens by their names, without what makes control tokens of these."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise LoadError(f"{where}: lang_to_id or task_to_id is {str(value)[:80]}; it must be an object")
    return {name.removeprefix("<|").removesuffix("|>"): _token(where, name, each) for name, each in value.items()}


def _forced(where: Path, value: Any) -> list[int | None]:
    """The tokens behind the first, in their order; None for one that is left open."""
    pairs = value or []
    good = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and pair[0] == place  # noqa: PLR2004 - place and token
        for place, pair in enumerate(pairs, start=1)
    )
    if not good:
        raise LoadError(f"{where}: forced_decoder_ids is {str(value)[:80]}; it must be [[1, token], [2, token], …]")
    return [None if token is None else _token(where, "forced_decoder_ids", token) for _, token in pairs]


def _token(where: Path, name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 24:
        raise LoadError(f"{where}: {name} is {str(value)[:80]}; it must be a token's number")
    return value


def _tokens(where: Path, name: str, value: Any) -> tuple[int, ...]:
    if value is not None and not isinstance(value, list):
        raise LoadError(f"{where}: {name} is {str(value)[:80]}; it must be a list of tokens")
    return tuple(_token(where, name, each) for each in value or [] if each != -1)


def _find_sound(path: Path) -> tuple[Path, Mapping[str, Any]]:
    """What a folder says of sounds, and the file that says it: transformers 5 has it in an object of another one."""
    if not (path / PREPROCESSOR).is_file():
        inner = read_hf_json(path / PROCESSOR, required=False).get(EXTRACTOR)
        if isinstance(inner, dict):
            return path / PROCESSOR, inner
    return path / PREPROCESSOR, read_hf_json(path / PREPROCESSOR)


def _size(
    where: Path, of: Mapping[str, Any], name: str, default: int | None = None, *, most: int = (1 << 31) - 1
) -> int:
    value = of.get(name, default)
    if type(value) is not int or not 0 < value <= most:
        raise LoadError(f"{where}: {name} is {str(value)[:80]}; it must be a whole number from 1 to {most}")
    return value
