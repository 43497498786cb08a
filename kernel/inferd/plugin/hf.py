"""What backends that read Hugging Face folders share: tokens, templates, endings, pooling. Nothing is executed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from inferd.plugin.backend import EmbeddingDefaults, LoadError, Pooling, UnsupportedModelError
from inferd.plugin.hf_tokens import read_other_tokens
from inferd.plugin.names import is_file_name
from inferd.plugin.vocabulary import Vocabulary

MAX_JSON_BYTES: Final = 64 << 20  # of a configuration or an index
MAX_TOKENIZER_BYTES: Final = 256 << 20
GENERATION: Final = "generation_config.json"
CONFIG: Final = "config.json"
CLASSIFIES: Final = "ForSequenceClassification"  # how the architectures of networks end that give scores
MODULES, POOLING = "modules.json", "1_Pooling"  # of sentence-transformers
POOLINGS: Final = {"mean_tokens": Pooling.MEAN, "cls_token": Pooling.FIRST, "lasttoken": Pooling.LAST}
_SHORT: Final = {"mean": "mean_tokens", "cls": "cls_token"}  # the others are called the same
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_OF_POOLING: Final = ("word_embedding_dimension", "embedding_dimension", "include_prompt")  # of prompts that it adds
DEFAULT, MORE_TEMPLATES, LEGACY = "default", "additional_chat_templates", "chat_template.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SENTENCES = "config_sentence_transformers.json"
_LOWERING: Final = ("Lowercase", "BertNormalizer")
_SAID_TWICE: Final = (
    ("add_prefix_space", "pre_tokenizer", "ByteLevel", "add_prefix_space"),
    ("do_lower_case", "normalizer", "BertNormalizer", "lowercase"),
)
"""Settings of tokenizer_config.json, each with the part of tokenizer.json, its step and the name that say the same."""


def read_hf_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """The object in a file; an empty one where it is not there and need not be.

    Raises:
        LoadError: It cannot be read, is too large, or holds something else.
    """
    if not required and not path.is_file():
        return {}
    try:
        content = json.loads(_read_bytes(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path}: it holds a {type(content).__name__}; it must hold an object")
    return content


def read_hf_type(path: Path) -> str:
    """The type of model that a folder says it has; "" where that cannot be read."""
    try:
        return str(read_hf_json(path / CONFIG).get("model_type") or "")
    except LoadError:
        return ""


def list_hf_weights(path: Path) -> list[Path]:
    """The files of a folder that have weights.

    Raises:
        LoadError: It has none that need no code to be read, or names one outside.
    """
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if not (path / INDEX).is_file():
        pickles = sorted(p.name for p in (*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")))
        graphs = sorted(str(p.relative_to(path)) for p in (*path.glob("*.onnx"), *path.glob("onnx/*.onnx")))
        if pickles:
            why = f"has {pickles[0]}, which is never loaded: unpickling executes code;"
        elif graphs:
            own = str(Path(graphs[0]).with_name("model.onnx"))
            way = "load it with" if own in graphs else f"name that file {own} for"
            why = f"has no safetensors but {graphs[0]}: {way} the backend 'onnx', or"
        else:
            why = "has no weights;"
        raise LoadError(f"{path}: {why} save the model as safetensors ({SINGLE} or {INDEX})")
    names = list(_object(read_hf_json(path / INDEX).get("weight_map")).values())
    for name in names:
        if not is_file_name(name) or not name.endswith(".safetensors"):
            told = repr(name)[:80]
            raise LoadError(f"{path / INDEX}: weight_map names {told}, which is no safetensors file of the folder")
    return [path / name for name in sorted(set(names))]


def read_hf_pooling(folder: Path, *, default: Pooling = Pooling.LAST) -> EmbeddingDefaults:
    """How sentence-transformers wants embeddings to be made; `default` where nothing says it.

    Raises:
        LoadError: In a way that there is not here.
    """
    _check_sentences(folder)
    named = _find_pooling(folder)
    if named is None or not (folder / named).is_dir():
        return EmbeddingDefaults(pooling=default)
    path = folder / named / CONFIG
    settings = read_hf_json(path)
    modes = set[str]()
    given = settings.get("pooling_mode", [])  # since version 5.4
    for mode in given if isinstance(given, list) else [given]:
        modes.add(_SHORT.get(mode, mode) if isinstance(mode, str) else repr(mode))
    for name, on in settings.items():
        if name.startswith("pooling_mode_") and on not in (True, False):  # 0 and 1 equal them
            raise LoadError(f"{path}: {name!r} is {str(on)[:80]}; it must be true or false")
        if name.startswith("pooling_mode_") and on:
            modes.add(name.removeprefix("pooling_mode_"))
        elif not name.startswith("pooling_mode") and name not in _OF_POOLING:
            raise LoadError(f"{path}: {name!r} is {str(on)[:80]}, which is not supported and may change results")
    if len(modes) != 1 or not modes <= POOLINGS.keys():
        raise LoadError(
            f"{path}: pooling by {sorted(modes)} is not supported; supported is one of {', '.join(POOLINGS)}"
        )
    return EmbeddingDefaults(pooling=POOLINGS[modes.pop()])


def _find_pooling(folder: Path) -> str | None:
    """The folder of the pooling; every module of sentence-transformers must be one that is computed here."""
    path = folder / MODULES
    if not path.is_file():
        if more := next(folder.glob("*_Dense*"), None):
            raise UnsupportedModelError(f"{more}: a layer behind the pooling is not supported and changes results")
        return POOLING
    try:
        modules = json.loads(_read_bytes(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: it is no JSON: {error}") from error
    if not isinstance(modules, list):
        raise LoadError(f"{path}: it holds a {type(modules).__name__}; it must hold a list")
    found: list[str] = []
    for module in modules:
        kind, at = str(_object(module).get("type")), _object(module).get("path", "")
        short = kind.rpartition(".")[2]
        if short not in _MODULES or (short != "Transformer" and not kind.startswith("sentence_transformers.")):
            raise UnsupportedModelError(
                f"{path}: module {kind[:80]!r} in {str(at)[:80]!r} is not supported and changes results;"
                f" supported are {', '.join(_MODULES)}"
            )
        if at != "" and (short == "Transformer" or not is_file_name(at)):
            raise LoadError(f"{path}: module {kind[:80]!r} is in {str(at)[:80]!r}, which is no place for it")
        found += [at] if short == "Pooling" else []
    if len(found) > 1 or (found and not (folder / found[0] / CONFIG).is_file()):
        raise LoadError(f"{path}: it names poolings in {found}; there must be one, with its {CONFIG}")
    return found[0] if found else None


def _check_sentences(folder: Path) -> None:
    """What sentence-transformers does to a text before it is encoded, which is not done here."""
    settings = read_hf_json(folder / SENTENCES, required=False)
    name = settings.get("default_prompt_name")
    prompt = _object(settings.get("prompts")).get(name) if isinstance(name, str) else name
    if prompt:
        raise UnsupportedModelError(
            f"{folder / SENTENCES}: default_prompt_name {str(name)[:80]!r} puts {str(prompt)[:80]!r} in front of each"
            " text, which is not done here: set it to null, and let clients write that"
        )
    for path in sorted(folder.glob("sentence_*_config.json")):
        if read_hf_json(path).get("do_lower_case") and True not in _lowers(folder / TOKENIZER):
            raise UnsupportedModelError(
                f"{path}: do_lower_case is true, which is not done here, and {TOKENIZER} does not do it either: add the"
                " step Lowercase to its normalizer"
            )


def _lowers(path: Path) -> list[bool]:
    """What the steps of a tokenizer that may make letters small say of it."""
    try:
        normalizer = _object(json.loads(_read_bytes(path, MAX_TOKENIZER_BYTES))).get("normalizer")
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: it is no JSON: {error}") from error
    steps = list(_steps(normalizer))
    return [s["type"] == "Lowercase" or s.get("lowercase") is True for s in steps if s["type"] in _LOWERING]


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part of a tokenizer, those inside of others, too."""
    for step in value if isinstance(value, list) else [value]:
        if isinstance(step, dict) and isinstance(step.get("type"), str):
            yield step
            for inner in ("normalizers", "pretokenizers"):
                yield from _steps(step.get(inner))


def _check_tokenizer(path: Path, settings: dict[str, Any], definition: dict[str, Any]) -> None:
    """Settings that change how texts are split, where tokenizer.json says something else: which counts is not known."""
    if settings.get("split_special_tokens"):
        raise UnsupportedModelError(
            f"{path / TOKENIZER_CONFIG}: split_special_tokens is {str(settings['split_special_tokens'])[:80]}, which is"
            " not supported: texts are split at special tokens"
        )
    for setting, part, kind, name in _SAID_TWICE:
        wanted = settings.get(setting)
        if not isinstance(wanted, bool):
            continue
        told = [step.get(name) for step in _steps(definition.get(part)) if step["type"] == kind]
        if told and wanted not in told:
            raise UnsupportedModelError(
                f"{path / TOKENIZER_CONFIG}: {setting} is {str(wanted).lower()}, but {TOKENIZER} has {name}"
                f" {str(told[0]).lower()} in its {kind}: give them the same"
            )


def read_hf_vocabulary(path: Path, config: dict[str, Any], generation: dict[str, Any]) -> Vocabulary:
    """The tokens of a folder, with what its three configurations say of them.

    Raises:
        LoadError: A file is missing, damaged or too large, or one says of texts what another one contradicts.
    """
    settings = read_hf_json(path / TOKENIZER_CONFIG, required=False)
    if not (path / TOKENIZER).is_file():
        return _read_others(path, settings, config, generation)
    definition = _read_bytes(path / TOKENIZER, MAX_TOKENIZER_BYTES)
    definition = _add_tokens(path / TOKENIZER, definition, _object(settings.get("added_tokens_decoder")))
    ids = _token_ids(path / TOKENIZER, definition)
    _check_tokenizer(path, settings, json.loads(definition))
    return _say_ends(Vocabulary(algorithm="json", definition=definition), ids, path, settings, config, generation)


def _read_others(
    path: Path, settings: dict[str, Any], config: dict[str, Any], generation: dict[str, Any]
) -> Vocabulary:
    """As `read_hf_vocabulary`, of a folder with other files of tokens."""
    vocabulary = read_other_tokens(path, settings, config)
    ids = {text: number for number, text in enumerate(vocabulary.tokens)}
    return _say_ends(vocabulary, ids, path, settings, config, generation)


def _say_ends(  # noqa: PLR0917 - all that a folder says
    vocabulary: Vocabulary,
    ids: Mapping[str, int],
    path: Path,
    settings: dict[str, Any],
    config: dict[str, Any],
    generation: dict[str, Any],
) -> Vocabulary:
    """With the tokens that begin and end a text, and the templates."""
    templates = _read_templates(path, settings)
    endings = [*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))]
    endings += [ids[text] for text in (_text(settings.get("eos_token")),) if text in ids]
    first = ids.get(_text(settings.get("bos_token")), next(iter(_ids(config.get("bos_token_id"))), None))
    return replace(
        vocabulary,
        bos_id=vocabulary.bos_id if first is None else first,
        eos_ids=tuple(dict.fromkeys(endings)) or vocabulary.eos_ids,
        chat_template=templates.get(DEFAULT),
        tool_use_template=templates.get("tool_use"),
    )


def read_hf_separator(path: Path) -> int:
    """The token of a folder behind whose first one in a pair of texts all tokens are of the type 1; -1 where none are.

    Raises:
        UnsupportedModelError: The tokenizer gives the tokens of pairs other types, and the network has some.
    """
    named = read_hf_json(path / TOKENIZER_CONFIG, required=False).get("sep_token")
    definition = read_hf_json(path / TOKENIZER)
    content, added = _text(named), definition.get("added_tokens")
    found = (each for each in added if isinstance(each, dict)) if isinstance(added, list) else ()
    token = next((int(e["id"]) for e in found if e.get("content") == content and type(e.get("id")) is int), -1)
    pair = _pair_types(definition.get("post_processor"))
    if pair is None or not any(kind for _, kind in pair):
        return token if pair is None else -1
    first = next((place for place, (name, _) in enumerate(pair) if name == content), len(pair))
    if all(kind == (place > first) for place, (_, kind) in enumerate(pair)):
        return token
    if read_hf_json(path / CONFIG, required=False).get("type_vocab_size", 1) == 1:
        return -1  # there is one type
    told = " ".join(f"{name}:{kind}" for name, kind in pair)[:80]
    raise UnsupportedModelError(
        f"{path / TOKENIZER}: its pairs have the types {told!r}; supported are 0 for all tokens, and 1 behind"
        f" the first {content[:80]!r}"
    )


def _pair_types(processor: Any) -> list[tuple[str, Any]] | None:
    """What a pair of texts consists of, each part with its type; None where the post-processor does not say it."""
    kind = _object(processor).get("type")
    if kind == "Sequence":
        inner = processor.get("processors")
        found = map(_pair_types, inner if isinstance(inner, list) else ())
        return next((each for each in found if each is not None), None)
    if kind == "RobertaProcessing":  # of `tokenizers`: all of the first type
        return [("A", 0), ("B", 0)]
    if kind != "TemplateProcessing" or not isinstance(processor.get("pair"), list):
        return None
    parts = [_object(next(iter(_object(piece).values()), None)) for piece in processor["pair"]]
    return [(str(part.get("id")), part.get("type_id")) for part in parts]


def _token_ids(path: Path, definition: bytes) -> dict[str, int]:
    """Control tokens and others that the author added, by their text."""
    try:
        added = json.loads(definition).get("added_tokens") or []
        return {token["content"]: token["id"] for token in added}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(f"{path}: it is no tokenizer definition: {type(error).__name__}: {error}") from error


def _add_tokens(path: Path, definition: bytes, more: dict[str, Any]) -> bytes:
    """The definition with the tokens that only tokenizer_config.json has; as it is where there are none."""
    ids = _token_ids(path, definition)
    if all(_text(token) in ids for token in more.values()):
        return definition
    whole = json.loads(definition)
    pieces = _object(whole.get("model")).get("vocab") or ()
    known = pieces if isinstance(pieces, dict) else {piece[0]: number for number, piece in enumerate(pieces)}
    end = max([*known.values(), *ids.values()], default=-1) + 1
    added = whole.setdefault("added_tokens", [])
    for number, token in sorted((int(name), more[name]) for name in more if name.isdecimal()):
        text = _text(token)
        if not text or ids.get(text) == number:
            continue
        if ids.get(text, known.get(text, end)) != number:
            raise LoadError(
                f"{path}: of token {text[:80]!r}, which is {number} in tokenizer_config.json, it says another number"
            )
        end = max(end, number + 1)
        flags = {name: bool(token.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        added.append({"id": number, "content": text, **flags})
    return json.dumps(whole).encode()


def _read_templates(path: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The chat templates by name, "default" the one for everything; a file of its own goes before the settings."""
    given = settings.get("chat_template")
    if not isinstance(given, list):
        given = [
            {"name": DEFAULT, "template": given or read_hf_json(path / LEGACY, required=False).get("chat_template")}
        ]
    found = {_object(item).get("name"): _object(item).get("template") for item in given}
    files = {file.stem: file for file in sorted((path / MORE_TEMPLATES).glob("*.jinja"))}
    if (path / "chat_template.jinja").is_file():
        files[DEFAULT] = path / "chat_template.jinja"
    found |= {name: _read_bytes(file, MAX_JSON_BYTES).decode(errors="replace") for name, file in files.items()}
    return {str(name): template for name, template in found.items() if isinstance(template, str)}


def _read_bytes(path: Path, limit_bytes: int) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > limit_bytes:
            raise LoadError(f"{path} has {size_bytes} bytes; the limit is {limit_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}; the folder is not complete") from error


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(token: Any) -> str:
    """A token as it is written in a tokenizer_config.json: its text, or an object that holds it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _ids(value: Any) -> list[int]:
    """One id, a list of them, or nothing."""
    return [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int) and n >= 0]
