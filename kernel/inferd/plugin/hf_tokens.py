"""Tokens of Hugging Face folders that have no tokenizer.json, from the other files that folders may have.

Those are Mistral's `tekken.json`, `vocab.json` with `merges.txt` as GPT-2 has them, and `tokenizer.model` of
SentencePiece. What cannot be told from them alone is refused by name.
"""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from inferd.plugin.backend import LoadError, UnsupportedModelError
from inferd.plugin.sentencepiece import read_sentencepiece
from inferd.plugin.vocabulary import TokenKind, Vocabulary

TEKKEN, VOCAB, MERGES, PIECES = "tekken.json", "vocab.json", "merges.txt", "tokenizer.model"
MAX_FILE_BYTES: Final = 64 << 20
MAX_TOKENS: Final = 1 << 22
MAX_TOKEN_BYTES: Final = 1024
MAX_SPLITS: Final = 1 << 23  # of all tokens of a file into two: each is looked up
_SPLITTERS: Final = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
_CLASSES: Final = {"gpt2": "GPT2Tokenizer", "gpt_bigcode": "GPT2Tokenizer"} | dict.fromkeys(
    ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"
)
_ENDS_TEXT: Final = "<|endoftext|>"  # the control token of these two classes, unless they say another
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_OLDER_TEKKEN: Final = (  # control tokens of files before version 11, which do not list them
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
_LETTERS: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_PATTERN: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS[0]}*{_LETTERS[1]}+|[^\r\n\p{{L}}\p{{N}}]?{_LETTERS[0]}+{_LETTERS[1]}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_other_tokens(path: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Vocabulary:
    """The tokens of a folder without a tokenizer.json, one for each logit; endings and templates are read elsewhere.

    Args:
        path: The folder.
        settings: Its tokenizer_config.json.
        config: Its config.json.

    Raises:
        LoadError: No file has tokens, or one is damaged or too large.
        UnsupportedModelError: How text is split is not known here.
    """
    tokens = _Tokens(path, config)
    if (path / TEKKEN).is_file():
        return _read_tekken(path / TEKKEN, tokens)
    if (path / VOCAB).is_file() and (path / MERGES).is_file():
        return _read_merges(path, settings, config, tokens)
    if (path / PIECES).is_file():
        return _read_pieces(path / PIECES, settings, tokens)
    raise LoadError(
        f"{path}: it has no tokenizer.json, and no {TEKKEN}, {VOCAB} with {MERGES} or {PIECES} either: the folder is"
        " not complete"
    )


class _Tokens:
    """Tokens by number, as they are found."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        text = config.get("text_config")
        size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
        self.size = size if type(size) is int and 0 < size <= MAX_TOKENS else 0
        self.texts: dict[int, str] = {}
        self.kinds: dict[int, TokenKind] = {}
        self.before: set[int] = set()
        self.after: set[int] = set()

    def add(self, number: Any, text: Any, kind: TokenKind, where: Path) -> None:
        """One token.

        Raises:
            LoadError: Its number is none, or has another token.
        """
        limit = self.size or MAX_TOKENS
        if type(number) is not int or not 0 <= number < limit:
            raise LoadError(
                f"{where}: token {str(text)[:80]!r} has number {str(number)[:40]}; it must be below {limit}"
            )
        if not isinstance(text, str) or self.texts.get(number, text) != text:
            raise LoadError(f"{where}: token {number} is {str(text)[:80]!r} and {self.texts.get(number, '')[:80]!r}")
        self.texts[number], self.kinds[number] = text, kind

    def add_said(self, settings: Mapping[str, Any], *, also: Sequence[str] = ()) -> None:
        """Those of the settings, and which of them control the model.

        Raises:
            LoadError: One contradicts the vocabulary.
        """
        where = self.path / "tokenizer_config.json"
        more = settings.get("added_tokens_decoder")
        for name, token in (more if isinstance(more, dict) else {}).items():
            if not isinstance(token, dict) or not name.isdecimal():
                raise LoadError(f"{where}: 'added_tokens_decoder' has {name[:40]!r}, which is no token with its number")
            kind = TokenKind.CONTROL if token.get("special") else TokenKind.USER_DEFINED
            self.add(int(name), token.get("content"), kind, where)
            self.before |= {int(name)} if token.get("lstrip") else set()
            self.after |= {int(name)} if token.get("rstrip") else set()
        numbers = {text: number for number, text in self.texts.items()}
        added = _read_object(self.path / "added_tokens.json", required=False)
        for text, number in added.items():
            if text not in numbers:
                self.add(number, text, TokenKind.USER_DEFINED, self.path / "added_tokens.json")
                numbers[text] = number
        for text in dict.fromkeys((*self._find_special(settings), *also)):
            if text in numbers:
                self.kinds[numbers[text]] = TokenKind.CONTROL
            elif text not in also:
                raise UnsupportedModelError(
                    f"{where}: {text[:80]!r} is no token of the vocabulary; give it a number in added_tokens_decoder"
                )

    def _find_special(self, settings: Mapping[str, Any]) -> Iterator[str]:
        for said in (_read_object(self.path / "special_tokens_map.json", required=False), settings):
            more = said.get("additional_special_tokens")
            for token in (*(said.get(name) for name in _SPECIAL), *(more if isinstance(more, list) else ())):
                content = token.get("content") if isinstance(token, dict) else token
                if isinstance(content, str) and content:
                    yield content

    def finish(self) -> tuple[list[str], list[int]]:
        """Texts and kinds, one of each for every number; those that no token has are not used.

        Raises:
            LoadError: Two tokens are the same.
        """
        count = self.size or max(self.texts, default=-1) + 1
        texts = [self.texts.get(number, f"[PAD{number}]") for number in range(count)]
        if len(set(texts)) != len(texts):
            twice = Counter(texts).most_common(1)[0][0]
            raise LoadError(f"{self.path}: token {twice[:80]!r} is there twice")
        return texts, [int(self.kinds.get(number, TokenKind.UNUSED)) for number in range(count)]


def _read_tekken(path: Path, tokens: _Tokens) -> Vocabulary:
    """A file of Mistral: bytes by rank, which are merged in that order, behind the control tokens."""
    whole = _read_object(path)
    config, given = whole.get("config"), whole.get("vocab")
    if not isinstance(config, dict) or not isinstance(given, list):
        raise LoadError(f"{path}: it has no 'config' and 'vocab' as Mistral's files have them")
    if config.get("pattern") != _TEKKEN_PATTERN:
        raise UnsupportedModelError(
            f"{path}: pattern is {str(config.get('pattern'))[:80]!r}, which is not supported: texts are split by that"
            " of Mistral's own files"
        )
    controls, size = config.get("default_num_special_tokens"), config.get("default_vocab_size")
    if type(controls) is not int or type(size) is not int or not 0 <= controls < size <= MAX_TOKENS:
        raise LoadError(
            f"{path}: {str(controls)[:40]} control tokens of {str(size)[:40]}; they must be fewer, and all at most"
            f" {MAX_TOKENS}"
        )
    tokens.size = tokens.size or size
    named = _name_controls(path, whole.get("special_tokens"), controls)
    for number, text in enumerate(named):
        tokens.add(number, text, TokenKind.CONTROL, path)
    ranks: dict[bytes, int] = {}
    for rank, entry in enumerate(given[: size - controls]):
        data = _read_bytes_of(path, rank, entry)
        ranks[data] = rank
        tokens.add(controls + rank, _spell(data), TokenKind.NORMAL, path)
    texts, kinds = tokens.finish()
    return Vocabulary(
        algorithm="bpe",
        tokens=texts,
        kinds=kinds,
        merges=_find_merges(path, ranks),
        pre_tokenizer="tekken",
        bos_id=texts.index("<s>") if "<s>" in named else None,
        eos_ids=(texts.index("</s>"),) if "</s>" in named else (),
        add_bos=True,
    )


def _name_controls(path: Path, given: Any, count: int) -> list[str]:
    """The control tokens by number; those that nobody named have a name, too."""
    listed = given if isinstance(given, list) else [{"rank": i, "token_str": x} for i, x in enumerate(_OLDER_TEKKEN)]
    names = [f"<SPECIAL_{number}>" for number in range(count)]
    for entry in listed:
        rank, text = (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
        if type(rank) is not int or not 0 <= rank < count or not isinstance(text, str):
            raise LoadError(
                f"{path}: 'special_tokens' has {str(entry)[:80]}; each needs a rank below {count} and a text"
            )
        names[rank] = text
    return names


def _read_bytes_of(path: Path, rank: int, entry: Any) -> bytes:
    try:
        if entry["rank"] != rank:
            raise LoadError(f"{path}: token {rank} has rank {str(entry['rank'])[:40]}; they must rise one by one")
        return base64.b64decode(entry["token_bytes"], validate=True)
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise LoadError(f"{path}: token {rank} has no bytes: {error}") from error


def _find_merges(path: Path, ranks: Mapping[bytes, int]) -> list[str]:
    """Of each token, best first, the pairs that give it."""
    merges, left = [], MAX_SPLITS
    for token in ranks:
        if len(token) > MAX_TOKEN_BYTES:
            raise LoadError(f"{path}: token {ranks[token]} has {len(token)} bytes; the limit is {MAX_TOKEN_BYTES}")
        left -= len(token)
        if left < 0:
            raise LoadError(f"{path}: its tokens can be split into two in more than {MAX_SPLITS} ways")
        pairs = ((token[:at], token[at:]) for at in range(1, len(token)))
        known = sorted((ranks[a], ranks[b], a, b) for a, b in pairs if a in ranks and b in ranks)
        merges += [f"{_spell(a)} {_spell(b)}" for _, _, a, b in known]
    return merges


def _spell(data: bytes) -> str:
    """Bytes as GPT-2's vocabularies write them: a visible letter for each."""
    return data.decode("latin-1").translate(_VISIBLE)


def _find_visible() -> dict[int, int]:
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = (byte for byte in range(0x100) if byte not in shown)
    return {byte: 0x100 + place for place, byte in enumerate(hidden)}


_VISIBLE: Final = _find_visible()


def _read_merges(path: Path, settings: Mapping[str, Any], config: Mapping[str, Any], tokens: _Tokens) -> Vocabulary:
    """Files of GPT-2's kind: tokens with their numbers, and pairs, best first."""
    rule = _find_rule(path, settings, config)
    for text, number in _read_object(path / VOCAB).items():
        tokens.add(number, text, TokenKind.NORMAL, path / VOCAB)
    tokens.add_said(settings, also=(_ENDS_TEXT,))
    texts, kinds = tokens.finish()
    merges = [line.strip() for line in _read_text(path / MERGES).split("\n") if line.strip()]
    merges = [line for line in merges if not line.startswith("#version")]
    wrong = next((line for line in merges if len(line.split()) != 2), None)  # noqa: PLR2004 - a pair
    if wrong is not None:
        raise LoadError(f"{path / MERGES}: {wrong[:80]!r} is no pair of tokens")
    return Vocabulary(
        algorithm="bpe",
        tokens=texts,
        kinds=kinds,
        merges=merges,
        pre_tokenizer=rule,
        add_bos=settings.get("add_bos_token") is True,
        strips_before=frozenset(tokens.before),
        strips_after=frozenset(tokens.after),
    )


def _find_rule(path: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """How text is split, by the class of the tokenizer, or where nobody says that by the type of the model."""
    given = settings.get("tokenizer_class") or config.get("tokenizer_class")
    named = str(given).removesuffix("Fast") if given else _CLASSES.get(str(config.get("model_type")))
    if named not in _SPLITTERS:
        raise UnsupportedModelError(
            f"{path}: it has no tokenizer.json, and how {VOCAB} and {MERGES} are used is known of"
            f" {', '.join(_SPLITTERS)}, not of {str(given)[:80]!r}: save the tokenizer with AutoTokenizer, which writes"
            " a tokenizer.json"
        )
    for name in ("add_prefix_space", "add_eos_token", "split_special_tokens"):
        if settings.get(name):
            raise UnsupportedModelError(f"{path / 'tokenizer_config.json'}: {name} is true, which is not supported")
    return _SPLITTERS[named]


def _read_pieces(path: Path, settings: Mapping[str, Any], tokens: _Tokens) -> Vocabulary:
    """A file of SentencePiece."""
    model = read_sentencepiece(path, _read_file(path))
    for name in ("add_eos_token", "split_special_tokens"):
        if settings.get(name):
            raise UnsupportedModelError(f"{path.parent}/tokenizer_config.json: {name} is true, which is not supported")
    for number, piece in enumerate(model.pieces):
        tokens.add(number, piece.text, piece.kind, path)
    kinds = {number: piece.kind for number, piece in enumerate(model.pieces)}
    tokens.add_said(settings)
    for number, kind in kinds.items():
        if kind in (TokenKind.UNKNOWN, TokenKind.BYTE):
            tokens.kinds[number] = kind
    texts, found = tokens.finish()
    scores = [piece.score for piece in model.pieces][: len(texts)]
    first = next((n for n, kind in enumerate(found) if kind == TokenKind.CONTROL and texts[n] == "<s>"), None)
    prefix = settings.get("add_prefix_space")
    return Vocabulary(
        algorithm="spm",
        tokens=texts,
        kinds=found,
        scores=[*scores, *[0.0] * (len(texts) - len(scores))],
        bos_id=first,
        eos_ids=tuple(n for n, text in enumerate(texts) if text == "</s>" and found[n] == TokenKind.CONTROL),
        add_bos=settings.get("add_bos_token") is not False,
        add_space_prefix=model.prefixed if prefix is None else prefix is True,
        strips_before=frozenset(tokens.before),
        strips_after=frozenset(tokens.after),
    )


def _read_object(path: Path, *, required: bool = True) -> dict[str, Any]:
    if not required and not path.is_file():
        return {}
    try:
        content = json.loads(_read_file(path))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path}: it holds a {type(content).__name__}; it must hold an object")
    return content


def _read_text(path: Path) -> str:
    try:
        return _read_file(path).decode()
    except UnicodeDecodeError as error:
        raise LoadError(f"{path}: it is no text in UTF-8: {error}") from error


def _read_file(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise LoadError(f"{path} has {size_bytes} bytes; the limit is {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}; the folder is not complete") from error
