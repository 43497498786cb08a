import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from shared_cells import fake_cells
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from inferd.engine.text.detokenizer import Detokenizer
from inferd.engine.text.splitting import RULES, splitter
from inferd.engine.text.template import ChatTemplate
from inferd.engine.text.tokenizer import Tokenizer
from inferd.engine.work import ChatInput, Message
from inferd.errors import ModelLoadError
from inferd.plugin import Vocabulary
from inferd.plugin.vocabulary import TokenKind
from inferd.testing.fake import VOCABULARY

REFERENCE = Path(__file__).parents[1] / "reference" / "smollm2_greedy.json"
NORMAL, UNKNOWN, CONTROL, BYTE = TokenKind.NORMAL, TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.BYTE
BYTES = VOCABULARY  # one token for each byte, and some control tokens


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer.pieces)
    return "".join(map(detokenizer.push, ids)) + detokenizer.finish()


def with_merges(*merges: str, pre_tokenizer: str = "gpt-2") -> Vocabulary:
    """The bytes and what the merges make of them."""
    made = [merge.replace(" ", "") for merge in merges]
    return replace(
        BYTES,
        tokens=[*BYTES.tokens, *made],
        kinds=[*BYTES.kinds, *(NORMAL for _ in made)],
        merges=merges,
        pre_tokenizer=pre_tokenizer,
    )


def words(text: str, *, rule: str) -> list[str]:
    """How a rule splits a text."""
    split = splitter(rule).pre_tokenize_str(text)
    return [text[begin:end] for _, (begin, end) in split]


@pytest.fixture(scope="module")
def smollm2_vocabulary(smollm2: Path) -> Vocabulary:
    fields = gguf.GGUFReader(smollm2).fields

    def read(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    return Vocabulary(
        algorithm="bpe",
        tokens=read("ggml.tokens"),
        kinds=read("ggml.token_type"),
        merges=read("ggml.merges"),
        pre_tokenizer=read("ggml.pre"),
        bos_id=read("ggml.bos_token_id"),
        eos_ids=(read("ggml.eos_token_id"),),
        chat_template=read("chat_template"),
    )


@pytest.mark.model
def test_reference(smollm2_vocabulary: Vocabulary) -> None:
    """Ids of all prompts, texts of all outputs, and the rendered chats equal those of Hugging Face transformers."""
    cases = json.loads(REFERENCE.read_text())["cases"]
    vocabulary = smollm2_vocabulary
    tokenizer = Tokenizer(vocabulary, size=len(vocabulary.tokens))
    template = ChatTemplate(
        vocabulary.chat_template or "",
        bos=tokenizer.name(vocabulary.bos_id),
        eos=tokenizer.name(vocabulary.eos_ids[0]),
        timeout_s=60,
        cells=fake_cells(),
    )
    assert len(cases) >= 20
    for name, case in cases.items():
        if "messages" in case:
            chat = ChatInput(tuple(Message(m["role"], m["content"]) for m in case["messages"]))
            assert template.render(chat) == case["text"], name
        assert tokenizer.encode(case["text"], template="messages" in case) == case["prompt"], name
        assert shown(tokenizer, case["output"]) == case["decoded"], name


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("gpt-2", "I'll pay 1234 €!  ok", ["I", "'ll", " pay", " 1234", " €!", " ", " ok"]),
        ("smollm", "in 1234 ok", ["in", " ", "1", "2", "3", "4", " ok"]),
        ("llama-bpe", "I'LL pay 12345!!\n\n ok", ["I", "'LL", " pay", " ", "123", "45", "!!\n\n", " ok"]),
        ("qwen2", "pay 123\n\n\n ok", ["pay", " ", "1", "2", "3", "\n\n\n", " ok"]),
        ("tekken", "camelCase HTTPServer 12", ["camel", "Case", " HTTPServer", " ", "1", "2"]),
        ("gpt-4o", "It's a camelCase 1234", ["It's", " a", " camel", "Case", " ", "123", "4"]),
        ("glm4", "I'LL pay 12345!!\n\n ok", ["I", "'LL", " pay", " ", "123", "45", "!!\n\n", " ok"]),
        ("qwen35", "e\u0301a 12", ["e\u0301a", " ", "1", "2"]),
        (
            "deepseek-v3",
            "pay $12345 ()ok \u4f60\u597da!\n",
            ["pay", " $", "123", "45", " ()", "ok", " ", "\u4f60\u597d", "a", "!\n"],
        ),
        (
            "deepseek-llm",
            "na\u00efve 12345 x+=1\n\n y",
            ["na", "\u00ef", "ve", " ", "12345", " x", "+=", "1", "\n", "\n", " y"],
        ),
        ("deepseek-coder", "x12+=\u4f60 ok\n", ["x", "1", "2", "+=", "\u4f60", " ok", "\n"]),
        ("kimi-k2", "It's \u4f60\u597dok 1234", ["It's", " ", "\u4f60\u597d", "ok", " ", "123", "4"]),
        ("afmoe", "1234567 (ok) \u4f60", ["1", "234", "567", " (", "ok", ")", " ", "\u4f60"]),
        ("superbpe", "by the way 12345", ["by the way ", "12", "345"]),
        ("falcon", "a$b 12345", ["a", "$", "b", " ", "123", "45"]),
        ("bloom", "one, two  3!", ["one", ",", " two", " ", " 3", "!"]),
        ("viking", "one 12", ["one", " ", "1", "2"]),
        ("chameleon", "IMGIMGABZ a    b 12.", ["IMGIMGABZ", " a", "    ", "b", " ", "1", "2", "."]),
        ("bailingmoe", "I'll 12 a\n\nb", ["I", "'ll", " ", "1", "2", " a", "\n\n", "b"]),
        ("seed-coder", "a 12 ;;\n\nb", ["a", " ", "1", "2", " ;;", "\n\n", "b"]),
    ],
)
def test_splitting_rules(rule: str, text: str, expected: list[str]) -> None:
    """Each rule splits contractions, numbers, cases and white space as its models were trained."""
    assert words(text, rule=rule) == expected


@pytest.mark.parametrize("rule", RULES)
def test_splitting_keeps_the_text(rule: str) -> None:
    """Whatever a rule splits, its pieces are the text, in order."""
    text = "It's 1234567 na\u00efve \u4f60\u597d \u3042\u30a2 \uac00 \u0e2a\u0e27 x+=1; IMGIMGABZ\r\n\n\t  <a> e\u0301"
    assert "".join(words(text, rule=rule)) == text


def test_unknown_rule_is_an_error() -> None:
    """A rule that is not known fails the load, with the nearest known one: wrong tokens would go unnoticed."""
    with pytest.raises(ModelLoadError, match=r"unknown pre-tokenizer 'qwen-2'.* 'qwen2'"):
        Tokenizer(replace(BYTES, pre_tokenizer="qwen-2"), size=300)


def test_merges_apply_best_first() -> None:
    """Of two merges that compete for a byte, the one that comes first in the list wins."""
    vocabulary = with_merges("b c", "a b")
    tokens = [vocabulary.tokens[n] for n in Tokenizer(vocabulary, size=300).encode("abc")]
    assert tokens == ["a", "bc"]


@pytest.mark.parametrize(("rule", "expected"), [("llama-bpe", ["abc"]), ("qwen2", ["a", "bc"])])
def test_whole_words(rule: str, expected: list[str]) -> None:
    """Where the rule says so, a word that is a token itself is taken even if no merge leads to it."""
    vocabulary = with_merges("b c", "ab c", pre_tokenizer=rule)
    vocabulary = replace(vocabulary, tokens=[*vocabulary.tokens, "ab"], kinds=[*vocabulary.kinds, NORMAL])
    tokens = [vocabulary.tokens[n] for n in Tokenizer(vocabulary, size=300).encode("abc")]
    assert tokens == expected


def test_composed_form() -> None:
    """A qwen2 vocabulary sees a letter and its accent as one character."""
    assert Tokenizer(replace(BYTES, pre_tokenizer="qwen2"), size=300).encode("e\u0301") == list("\u00e9".encode())


def test_control_tokens_are_recognised_in_any_text() -> None:
    """The name of a control token inside a user's text is that token, as in transformers, and gives no text back."""
    tokenizer = Tokenizer(BYTES, size=300)
    assert tokenizer.encode("a<|end|>b") == [97, 259, 98]
    assert shown(tokenizer, [97, 259, 98]) == "ab"


def test_beginning_of_text() -> None:
    """The token at the beginning is put before a plain text once, and never before what a template made."""
    tokenizer = Tokenizer(replace(BYTES, bos_id=258, add_bos=True), size=300)
    assert tokenizer.encode("a") == [258, 97]
    assert tokenizer.encode("<|system|>a") == [258, 97]
    assert tokenizer.encode("a", template=True) == [97]


def test_pieces_equal_the_full_decode() -> None:
    """For every single byte, and for tokens without a logit, the pieces together are the library's own decode."""
    tokenizer = Tokenizer(BYTES, size=300)
    tokenizer._inner.decoder = decoders.ByteLevel()
    for ids in ([*range(256)], [*range(255, -1, -1)], [0xF0, 0x9F, 259, 0x98, 0x80], [0xE6, 0x97]):
        assert shown(tokenizer, ids) == tokenizer._inner.decode(ids, skip_special_tokens=True)
    assert shown(tokenizer, [299]) == ""


def test_token_written_out() -> None:
    """A token that its author wrote as plain text, not in the alphabet of bytes, is shown as it is written."""
    vocabulary = replace(BYTES, tokens=[*BYTES.tokens, "a b"], kinds=[*BYTES.kinds, TokenKind.USER_DEFINED])
    tokenizer = Tokenizer(vocabulary, size=300)
    assert tokenizer.encode("xa by") == [120, 260, 121]
    assert shown(tokenizer, [120, 260, 121]) == "xa by"


def test_merge_of_unknown_tokens_is_an_error() -> None:
    """A merge of tokens that the vocabulary does not have fails the load with the cause."""
    with pytest.raises(ModelLoadError, match="cannot be built from the model's vocabulary"):
        Tokenizer(replace(BYTES, merges=["x yz"]), size=300)


def sentencepiece(**changes: Any) -> Vocabulary:
    """Three control tokens, the bytes, and some pieces with scores: later is worse."""
    pieces = ["▁", "a", "b", "c", "▁a", "bc", "abc"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    plain = Vocabulary(
        algorithm="spm",
        tokens=tokens,
        kinds=[UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces)],
        scores=[0.0] * 259 + [-9, -9, -9, -9, -2, -1, -3],
        bos_id=1,
        eos_ids=(2,),
        add_bos=True,
    )
    return replace(plain, **changes)


def test_sentencepiece_merges_by_score() -> None:
    """Pairs merge in the order of their scores; a space is put in front; the text is the same again afterwards."""
    vocabulary = sentencepiece()
    tokenizer = Tokenizer(vocabulary, size=300)
    ids = tokenizer.encode("abc bca")
    assert [vocabulary.tokens[n] for n in ids] == ["<s>", "▁a", "bc", "▁", "bc", "a"]
    assert shown(tokenizer, ids) == " abc bca"


def test_sentencepiece_without_prefix() -> None:
    """Without the space in front, words merge from their first letter."""
    vocabulary = sentencepiece(add_space_prefix=False)
    tokenizer = Tokenizer(vocabulary, size=300)
    assert [vocabulary.tokens[n] for n in tokenizer.encode("abc")] == ["<s>", "abc"]


def test_sentencepiece_falls_back_to_bytes() -> None:
    """A character that has no piece is written in its bytes, and is whole again in the text."""
    tokenizer = Tokenizer(sentencepiece(add_space_prefix=False, add_bos=False), size=300)
    ids = tokenizer.encode("a😀")
    assert ids == [260, *(3 + byte for byte in "😀".encode())]
    assert shown(tokenizer, ids) == "a😀"


def test_sentencepiece_with_an_endless_piece() -> None:
    """A piece of a wild length fails the load with both numbers, before memory is taken for its parts."""
    tokens = [*sentencepiece().tokens[:-1], "x" * 10**6]
    with pytest.raises(ModelLoadError, match="1000000 characters, over the limit of 1024"):
        Tokenizer(sentencepiece(tokens=tokens), size=300)


def definition(*, decoder: Any) -> Vocabulary:
    """A `tokenizer.json` with the bytes, one control token that is put in front, and this decoder."""
    library = Library(models.BPE(vocab={token: n for n, token in enumerate(BYTES.tokens[:256])}, merges=[]))
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens([AddedToken("<s>")])
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    library.decoder = decoder
    library.enable_truncation(3)
    return Vocabulary(algorithm="json", definition=library.to_str().encode())


def test_definition() -> None:
    """A `tokenizer.json` says itself what is put around a plain text; a bound on its length in it is not obeyed."""
    tokenizer = Tokenizer(definition(decoder=decoders.ByteLevel()), size=300)
    assert tokenizer.encode("abcd") == [256, 97, 98, 99, 100]
    assert tokenizer.encode("abcd", template=True) == [97, 98, 99, 100]
    assert shown(tokenizer, [256, *"é".encode()]) == "é"


WORDS = ["cat", "<0xC3>", "<0xA9>", "##ing", "ing@@", "cat</w>", ".", "_x", "\u2581x", "\u2581", "a|b", "\u00e9", "n't"]
DECODERS: dict[str, Any] = {
    "none": None,
    "WordPiece": decoders.WordPiece(),
    "WordPiece of another mark": decoders.WordPiece(prefix="ing", cleanup=False),
    "BPEDecoder": decoders.BPEDecoder(suffix="</w>"),
    "Fuse": decoders.Fuse(),
    "Replace": decoders.Replace("@@", " "),
    "Strip": decoders.Strip("_", 1, 0),
    "Metaspace": decoders.Metaspace(),
    "Metaspace of another mark": decoders.Metaspace(replacement="_"),
    "Llama": decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "Llama of another mark": decoders.Sequence([decoders.Replace("_", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "Sequence": decoders.Sequence([decoders.WordPiece(cleanup=False), decoders.Replace("@@", "-"), decoders.Fuse()]),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_decoder_is_followed(name: str) -> None:
    """Whatever decoder a definition names, the pieces of random tokens behind a word go on with it as it does."""
    library = Library(models.WordLevel(vocab={word: n for n, word in enumerate(WORDS)}))
    if DECODERS[name] is not None:
        library.decoder = DECODERS[name]
    library.add_special_tokens([AddedToken("<s>")])
    tokenizer = Tokenizer(Vocabulary(algorithm="json", definition=library.to_str().encode()), size=300)
    generator = random.Random(7)
    for _ in range(300):
        ids = generator.choices(range(2, len(WORDS) + 1), k=generator.randint(1, 8))
        ids = [number for each in ids for number in ((1, 2) if each == 2 else (each,))]  # a whole character in bytes
        expected = library.decode([0, *ids], skip_special_tokens=True)
        assert "cat" + shown(tokenizer, ids).rstrip(" ") == expected.rstrip(" "), [*map(library.id_to_token, ids)]


def test_a_decoder_that_cannot_be_followed() -> None:
    """A decoder for which a token's text depends on its neighbours is named when the model is loaded."""
    with pytest.raises(ModelLoadError, match="CTC drops tokens that come twice"):
        Tokenizer(definition(decoder=decoders.CTC()), size=300)


def test_definition_that_is_none() -> None:
    """Bytes that are no `tokenizer.json` fail the load with the cause."""
    with pytest.raises(ModelLoadError, match="cannot be built"):
        Tokenizer(Vocabulary(algorithm="json", definition=b"{}"), size=300)
