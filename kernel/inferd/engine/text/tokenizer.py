"""Text to tokens: a `tokenizers` tokenizer built from what the model's file says.

As in Hugging Face transformers, the names of control tokens are recognised inside any text, and a chat template writes
all control tokens itself, so nothing is put in front of its text. In a conversation only those that the template wrote
are recognised: see `control`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from tokenizers import AddedToken, models, normalizers
from tokenizers import Tokenizer as Inner

from inferd.engine.text.guarded import Guarded
from inferd.engine.text.quickness import quick_bytes
from inferd.engine.text.splitting import composes, merges_whole_words, splitter
from inferd.engine.text.token_pieces import defined_pieces
from inferd.errors import ModelLoadError, is_failure, words_of
from inferd.plugin.vocabulary import TokenKind, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.engine.text.control import Prompt
    from inferd.engine.text.detokenizer import Piece

_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space
_LONGEST_PIECE: Final = 1024  # characters; every place where a piece can be split is looked at
_QUICK: Final = 1024  # characters that are encoded in less time than it takes to give Python's lock back
_COMPOSED: Final = 3  # bytes that become one at most when a text is composed (Unicode, NFC)
_KEEPING: Final = frozenset({"ByteLevel", "Digits", "Metaspace", "Split"})  # pre-tokenizers that leave nothing out
_SILENT: Final = frozenset({TokenKind.CONTROL, TokenKind.UNKNOWN})  # tokens that give no text


_ENDS: Final = 2  # tokens around a text: one before and one behind it


@dataclass(frozen=True, slots=True)
class PairFrame:
    """Tokens around two texts and between them."""

    before: list[int]
    between: list[int]
    after: list[int]


class Tokenizer:
    """Encodes text and knows the piece of text of each token. `encode` may be called from any thread.

    Args:
        vocabulary: As the backend read it.
        size: Number of logits in a row; tokens that the vocabulary does not have give no text.

    Attributes:
        pieces: What each token adds to the text, by id: one for each logit, also where the vocabulary has more tokens.
        longest_bytes: Most bytes of a text that one token can stand for; None where that has no bound, or none is
            known.
        quick_bytes: Texts up to here are encoded in some hundredths of a second, whatever they are.

    Raises:
        ModelLoadError: The vocabulary contradicts itself or asks for something unknown.
    """

    def __init__(self, vocabulary: Vocabulary, *, size: int) -> None:
        try:
            self._inner = _BUILDERS[vocabulary.algorithm](vocabulary)
            self.pieces = _pieces(self._inner, vocabulary)
        except ModelLoadError:
            raise
        except BaseException as error:  # `tokenizers` raises bare exceptions, and panics
            if not is_failure(error):
                raise
            cause = f"{type(error).__name__}: {words_of(error)}"
            raise ModelLoadError(
                f"the tokenizer cannot be built from the model's vocabulary: {cause}", metadata={"cause": cause}
            ) from error
        self._first = (vocabulary.bos_id,) if vocabulary.add_bos and vocabulary.bos_id is not None else ()
        self._adds = vocabulary.algorithm == "json"  # such a definition says itself what is put around a text
        self.pieces = [*self.pieces[:size], *[""] * (size - len(self.pieces))]  # of what has no logits there is no use
        self.quick_bytes = quick_bytes(vocabulary, self._inner)
        self.longest_bytes = _longest_bytes(self._inner, self.pieces) if _keeps_all(vocabulary) else None

    def encode(self, text: str, *, template: bool = False) -> list[int]:
        """Tokens of a text; `template` when a chat template made it, so that nothing is added.

        The token at the beginning of a text (`Vocabulary.add_bos`) is not added to a text that begins with it.
        """
        adds = self._adds and not template
        if len(text) <= _QUICK:
            ids: list[int] = self._inner.encode(text, add_special_tokens=adds).ids
        else:  # of the library's calls this one gives Python's lock back meanwhile
            ids = self._inner.encode_batch_fast([text], add_special_tokens=adds)[0].ids
        if template or tuple(ids[:1]) == self._first:
            return ids
        return [*self._first, *ids]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Tokens of a rendered conversation; control tokens that are not the template's own are plain text.

        Raises:
            InvalidFieldError: The model's tokenizer makes a control token of plain text.
        """
        if prompt.own is None:
            return self.encode(prompt.text, template=True)
        return self._guarded.encode(prompt)

    @cached_property
    def pair_frame(self) -> PairFrame | None:
        """What stands around two texts and between them; None where nothing does."""
        if not self._adds:
            return None
        one, two = self._inner.encode("").ids, self._inner.encode("", "").ids
        if len(one) != _ENDS or len(two) <= _ENDS or (two[0], two[-1]) != tuple(one):
            return None
        return PairFrame(before=one[:1], between=two[1:-1], after=one[1:])

    @property
    def added(self) -> dict[str, bool]:
        """The tokens that are recognised inside any text, and whether each is special."""
        return {token.content: token.special for token in self._inner.get_added_tokens_decoder().values()}

    @property
    def normalize(self) -> Callable[[str], str] | None:
        """How a text is written before special tokens are looked for in it; None where it is taken as it is."""
        tokens = self._inner.get_added_tokens_decoder().values()
        normalizer = self._inner.normalizer
        if normalizer is None or not any(token.special and token.normalized for token in tokens):
            return None
        write: Callable[[str], str] = normalizer.normalize_str
        return write

    @cached_property
    def _guarded(self) -> Guarded:
        return Guarded(self._inner)

    def name(self, token_id: int | None) -> str:
        """How a control token is written in a text; "" for None."""
        return "" if token_id is None else self._inner.id_to_token(token_id) or ""


def _bpe(vocabulary: Vocabulary) -> Inner:
    rule = vocabulary.pre_tokenizer
    split = splitter(rule)
    inner = Inner(
        models.BPE(
            vocab={token: number for number, token in enumerate(vocabulary.tokens)},
            merges=[_pair(merge) for merge in vocabulary.merges],
            ignore_merges=merges_whole_words(rule),
        )
    )
    if composes(rule):
        inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = split
    return _with_added(inner, vocabulary)


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _spm(vocabulary: Vocabulary) -> Inner:
    """SentencePiece's BPE: pairs are merged in the order of the scores of what they give.

    A space goes in front of each stretch of text between control tokens, whatever it begins with, as SentencePiece and
    llama.cpp do; transformers puts it in front of a whole text only, and not if that begins with a space.
    """
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    normal = [n for n, kind in enumerate(vocabulary.kinds) if kind in (TokenKind.NORMAL, TokenKind.UNUSED)]
    normal.sort(key=lambda number: -vocabulary.scores[number])
    merges = []
    for number in normal:
        token = vocabulary.tokens[number]
        if len(token) > _LONGEST_PIECE:
            raise ValueError(f"token {number} has {len(token)} characters, over the limit of {_LONGEST_PIECE}")
        splits = [(token[:at], token[at:]) for at in range(1, len(token))]
        merges += sorted((s for s in splits if s[0] in ids and s[1] in ids), key=lambda s: (ids[s[0]], ids[s[1]]))
    unknown = next((n for n, kind in enumerate(vocabulary.kinds) if kind == TokenKind.UNKNOWN), None)
    inner = Inner(
        models.BPE(
            vocab=ids,
            merges=merges,
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = [normalizers.Prepend(_SPACE)] if vocabulary.add_space_prefix else []
    inner.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    return _with_added(inner, vocabulary)


def _json(vocabulary: Vocabulary) -> Inner:
    inner = Inner.from_buffer(vocabulary.definition)
    inner.no_truncation()
    inner.no_padding()
    return inner


_BUILDERS: Final = {"bpe": _bpe, "spm": _spm, "json": _json}


def _with_added(inner: Inner, vocabulary: Vocabulary) -> Inner:
    """Make control tokens, and those that the model's author added, recognisable inside a text."""
    for kinds, special in ((_SILENT, True), ({TokenKind.USER_DEFINED}, False)):
        numbers = [number for number, kind in enumerate(vocabulary.kinds) if kind in kinds]
        inner.add_tokens(
            [
                AddedToken(
                    vocabulary.tokens[number],
                    special=special,
                    normalized=False,
                    lstrip=number in vocabulary.strips_before,
                    rstrip=number in vocabulary.strips_after,
                )
                for number in numbers
            ]
        )
    return inner


def _pieces(inner: Inner, vocabulary: Vocabulary) -> list[Piece]:
    """What each token adds to the text, by id."""
    if vocabulary.algorithm == "json":
        return defined_pieces(inner, vocabulary.definition, byte_level=_byte_level_piece, space=_space_piece)
    piece = _byte_level_piece if vocabulary.algorithm == "bpe" else _space_piece
    pairs = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    return ["" if kind in _SILENT else piece(token) for token, kind in pairs]


def _longest_bytes(inner: Inner, pieces: list[Piece]) -> int | None:
    """See `Tokenizer`; of one that leaves nothing out."""
    written = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    if not {bytes([byte]) for byte in range(256)} <= set(written):
        return None  # characters that it lacks may become one token, however many they are, or none
    names = (token.content.encode() for token in inner.get_added_tokens_decoder().values())
    composes = isinstance(inner.normalizer, normalizers.NFC)
    return max(map(len, (*written, *names))) * (_COMPOSED if composes else 1)


def _keeps_all(vocabulary: Vocabulary) -> bool:
    """Whether each character of a text is in a token, by itself or with others."""
    if vocabulary.algorithm != "json":
        return not (vocabulary.strips_before or vocabulary.strips_after)
    definition = json.loads(vocabulary.definition)
    steps = definition.get("pre_tokenizer") or {"type": "ByteLevel"}
    steps = steps.get("pretokenizers", [steps])
    return (
        (definition.get("normalizer") or {"type": "NFC"}).get("type") == "NFC"
        and all(step.get("type") in _KEEPING and step.get("behavior") != "Removed" for step in steps)
        and not any(token.get("lstrip") or token.get("rstrip") for token in definition.get("added_tokens") or ())
    )


def _byte_alphabet() -> dict[int, int]:
    """From GPT-2's visible stand-ins for bytes to the bytes; what is no stand-in goes where Latin-1 cannot follow."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    table = dict.fromkeys(range(0x200), 0xFFFF)
    table |= {byte: byte for byte in visible}
    return table | {0x100 + place: byte for place, byte in enumerate(hidden)}


_BYTES: Final = _byte_alphabet()


def _byte_level_piece(token: str) -> Piece:
    try:
        data = token.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return token  # written out by the model's author
    return _shortest(data)


def _space_piece(token: str) -> Piece:
    if len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">"):
        return _shortest(bytes.fromhex(token[3:5]))
    return token.replace(_SPACE, " ")


def _shortest(data: bytes) -> Piece:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
