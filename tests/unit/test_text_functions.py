# ruff: noqa: RUF001 - letters of many languages look like others
"""The functions for texts that come with inferd: real texts with what is known of them, schemas, and bad inputs."""

import errno
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rights import RIGHTS

from inferd.engine.function.offered import collect
from inferd.plugin import functions
from inferd_functions import languages, tokens
from inferd_functions.conversion import CONVERSIONS, convert
from inferd_functions.duplicates import deduplicate
from inferd_functions.languages import detect_language
from inferd_functions.libraries import Missing
from inferd_functions.parts import chunk, split
from inferd_functions.repair import _mend, clean, ftfy

OFFERED = collect("inferd_functions.plugin")
MENDED = (
    "plain",
    "a & b",
    "&amp;",
    "&lt;b&gt;",
    "<b>",
    "\n",
    "\n",
    "sch\xc3\xb6n",
    "\u201cq\u201d",
    "\r\n",
    "\r",
    "\u2028",
)
MENDED += (
    "\ufb01",
    "\uff06amp;",
    "\x1b[1m",
    "\x00",
    "\x0b",
    "\x85",
    "\xe9",
    "e\u0301",
    "\xbd",
    " \t",
    "\xe2\u20ac\u0153x",
)


def test_each_function_has_its_schema() -> None:
    """What each takes and gives is said by its annotations: what must be given, ranges, words to choose from."""
    assert {name for name, _ in OFFERED} == {
        *("chunk", "clean", "convert", "convert_in_parts", "deduplicate", "detect_language", "split", "tokenise"),
        "dataset_lines",
    }
    required = {"deduplicate": ["texts"], "convert": ["content", "source", "target"]}
    required["convert_in_parts"] = required["convert"]
    required["tokenise"], required["dataset_lines"] = ["text", "tokenizer"], []
    for (name, _), each in OFFERED.items():
        schema = json.loads(each.shape.input_schema)
        assert schema.get("required", []) == required.get(name, ["text"])
        assert each.mark.description
        assert schema["additionalProperties"] is False
    assert OFFERED["chunk", 1].shape.streams
    told = json.loads(OFFERED["deduplicate", 1].shape.input_schema)["properties"]["similarity"]
    assert told == {"default": 0.8, "maximum": 1, "minimum": 0.5, "title": "Similarity", "type": "number"}


@pytest.mark.parametrize(
    ("damaged", "mended"),
    [
        ("schÃ¶n", "schön"),
        ("âœ” No problems", "✔ No problems"),
        ("LÃ¶we &amp; BÃ¤r", "Löwe & Bär"),
        ("doesnâ€™t", "doesn’t"),
        ("ﬂuﬃest", "fluffiest"),
        ("e\u0301tude", "étude"),
        ("a\u0000b\ufeffc", "abc"),
        ("\x1b[36;44mblue", "blue"),
        ("ＬＯＵＤ　ＮＯＩＳＥＳ", "LOUD NOISES"),
        ("Ünïcödé is fine", "Ünïcödé is fine"),
        ("naïve café – “quoted”", "naïve café – “quoted”"),
        ("", ""),
    ],
)
def test_damage_is_mended_and_nothing_else(damaged: str, mended: str) -> None:
    """What was decoded wrongly, entities, control characters and ligatures are mended; a sound text stays as it is."""
    assert clean(damaged) == mended
    assert clean(mended) == mended


def test_a_long_line_is_mended_as_ftfy_does() -> None:
    """Of a line that is longer than what ftfy looks at it takes parts, and entities stay only behind one with a tag."""
    how: dict[str, Any] = {"normalization": "NFC", "max_decode_length": 8}
    text = "a &amp; b &amp; <i> &amp;\n&amp;"
    assert _mend(text, **how) == ftfy.fix_text(text, **how)
    assert _mend(text, **how).startswith("a & b")


def test_a_file_that_nobody_may_look_at_keeps_no_other_tokenizer_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out of what is read before calls; a call that names it is told why."""
    shut, good = tmp_path / "shut", tmp_path / tokens.FILE
    good.write_text("{}", encoding="utf-8")
    is_there = Path.is_dir

    def is_dir(path: Path) -> bool:
        if path == shut:
            raise PermissionError(errno.EACCES, "Permission denied")
        return is_there(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    monkeypatch.setattr(functions, "_files", {"shut": str(shut), "good": str(good)})
    read: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(tokens, "_tokenizer", read.append)
        tokens.prepare()
    assert read == ["good"]
    with pytest.raises(ValueError, match="tokenizer 'shut' cannot be read: Permission denied"):
        tokens.tokenise("x", "shut")


def test_what_else_clean_does_is_asked_for() -> None:
    """Quotation marks and white space are changed for who wants that."""
    assert clean("“x”", quotes="straight") == '"x"'
    assert clean(" a \t b \n \n\n\n c\nd ", spaces="collapse") == "a b\n\nc\nd"
    assert clean("①", unicode="NFKC") == "1"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith came at 5 p.m. on Monday. Why?", ["Mr. Smith came at 5 p.m. on Monday.", "Why?"]),
        ("It costs $3.50, e.g. in the U.S. alone. Really!", ["It costs $3.50, e.g. in the U.S. alone.", "Really!"]),
        ("One.\n\nTwo", ["One.", "Two"]),
        ("   ", []),
    ],
)  # fmt: skip
def test_sentences_end_where_they_end(text: str, sentences: list[str]) -> None:
    """Abbreviations, numbers and times end no sentence; empty lines do."""
    assert split(text) == sentences


def test_lines_and_paragraphs() -> None:
    """Lines and paragraphs are parts too, empty ones left out; other languages end sentences otherwise."""
    text = "a\nb\n \nc d\r\n\n\ne"
    assert split(text, "line") == ["a", "b", "c d", "e"]
    assert split("a\nb\n \nc d\n\n\ne", "paragraph") == ["a\nb", "c d", "e"]
    assert split("これは文です。二つ目です。", language="ja") == ["これは文です。", "二つ目です。"]


def test_chunks_are_parts_of_the_text() -> None:
    """Each chunk is no longer than it may be and stands where it says; nothing is lost but white space."""
    text = "\n\n".join(" ".join(RIGHTS.values()) for _ in range(3))
    chunks = list(chunk(text, 120))
    assert max(len(each.text) for each in chunks) <= 120
    assert all(text[each.start : each.end] == each.text for each in chunks)
    assert "".join("".join(each.text.split()) for each in chunks) == "".join(text.split())
    overlapping = list(chunk("One two three. " * 20, 40, 20))
    assert len(overlapping) > len(list(chunk("One two three. " * 20, 40)))
    assert any(later.start < earlier.end for earlier, later in pairwise(overlapping))
    with pytest.raises(ValueError, match="overlap is 9 and size is 9"):
        list(chunk(text, 9, 9))


def test_duplicates_are_found_and_others_are_not() -> None:
    """Of texts that are the same but for case and space, or by a word or two, the first is kept; different ones all."""
    long = "The quick brown fox jumps over the lazy dog while the cat sleeps on the warm roof of the old red barn today"
    texts = [
        *RIGHTS.values(),
        long,
        RIGHTS["en"].upper() + "  ",
        long.replace("today", "now"),
        long + " again",
        "",
        " ",
    ]
    found = deduplicate(texts)
    count = len(RIGHTS)
    assert found.kept == [*range(count + 1), count + 4]
    told = {each.index: (each.of, each.similarity == 1.0) for each in found.duplicates}
    assert told == {
        count + 1: (0, True),
        count + 2: (count, False),
        count + 3: (count, False),
        count + 5: (count + 4, True),
    }
    assert [each.index for each in deduplicate(texts, 1.0).duplicates] == [count + 1, count + 5]
    assert deduplicate([]).kept == []


def test_languages_are_told_apart() -> None:
    """The language of a sentence is found among all that are known, or that are named; what is none is refused."""
    try:
        right = [code for code, text in RIGHTS.items() if detect_language(text).language == code]
        assert len(right) >= 0.95 * len(RIGHTS)  # the most frequent one alone is right once
        assert detect_language(RIGHTS["de"]).confidence > 0.9
        with pytest.raises(ValueError, match="among has 'xx'"):
            detect_language("text", ["de", "xx"])
        with pytest.raises(ValueError, match="nothing but white space"):
            detect_language(" \n")
        with pytest.raises(ValueError, match="among is empty"):
            detect_language("text", [])
        assert detect_language(RIGHTS["nl"], ["de", "fr"]).language == "de"
    finally:
        languages.identifier.cache_clear()  # `among` stays in a process, which in a kernel has one call


PAGE = """<!doctype html><html><head><title>T</title><style>p {}</style></head><body><h1>Cats &amp; dogs</h1>
<p>One <b>bold</b>
  line.<p>Another<br>broken</p><script>alert(1)</script><ul><li>a</li><li>b</li></ul>
<table><tr><th>x</th><td>1</td></tr></table></body></html>"""


@pytest.mark.parametrize(
    ("source", "target", "given", "made"),
    [
        ("html", "text", PAGE, "Cats & dogs\nOne bold line.\nAnother\nbroken\na\nb\nx 1"),
        ("html", "text", "<p>unclosed <i>tags<pre>a  b\nc</pre>", "unclosed tags\na b\nc"),
        ("html", "text", "", ""),
        ("markdown", "html", "# A\n\n*b* <u>x</u>", "<h1>A</h1>\n<p><em>b</em> &lt;u&gt;x&lt;/u&gt;</p>\n"),
        ("markdown", "text", "# A\n\n- *b*\n- [c](http://d)\n\n|x|y|\n|-|-|\n|1|2|", "A\nb\nc\nx y\n1 2"),
        ("csv", "jsonl", 'a,b\n1,"x, ""y""\nz"\n\n2,ü\n', '{"a": "1", "b": "x, \\"y\\"\\nz"}\n{"a": "2", "b": "ü"}\n'),
        ("csv", "jsonl", "", ""),
        ("jsonl", "csv", '{"a": 1, "b": null}\n\n{"c": ["x"], "a": "ü,"}', 'a,b,c\n1,,\n"ü,",,"[""x""]"\n'),
    ],
)  # fmt: skip
def test_documents_are_converted(source: Any, target: Any, given: str, made: str) -> None:
    """HTML becomes what a reader sees of it, Markdown is rendered without foreign tags, tables change their form."""
    assert convert(given, source, target) == made


@pytest.mark.parametrize(
    ("source", "target", "given", "words"),
    [
        ("text", "csv", "a", "text is not converted to csv; there are html to text"),
        ("csv", "jsonl", "a,b\n1\n", "line 2 has 1 fields and the first one 2 names"),
        ("csv", "jsonl", "a,a\n", "each once"),
        ("csv", "jsonl", 'a\n"b', "line 2 is no CSV"),
        ("jsonl", "csv", "[1]", "line 1 is list"),
        ("jsonl", "csv", '{"a": 1}\n{', "line 2 is no JSON"),
    ],
)
def test_what_cannot_be_converted_is_refused(source: Any, target: Any, given: str, words: str) -> None:
    """What is wrong is said with its line and both numbers."""
    with pytest.raises(ValueError, match=words):
        convert(given, source, target)
    empty = [make("") for (form, _), make in CONVERSIONS.items() if form not in {"pdf", "parquet"}]
    assert all(isinstance(each, str) for each in empty)


def test_a_library_that_is_missing_is_named_when_it_is_needed() -> None:
    """Without a library its functions are offered all the same, and say how to install it when they are called."""
    missing: Any = Missing("ftfy")
    assert not missing
    with pytest.raises(RuntimeError, match=r'ftfy is not installed.*pip install "inferd\[functions\]"'):
        missing.fix_text("x")


def test_cleaning_asks_for_lines_that_may_be_wrong_alone_and_gives_the_same() -> None:
    """What is mended line by line, plain ones left out, is what ftfy makes of the whole text."""
    dice = random.Random(5)
    for _ in range(2000):
        text = "".join(dice.choices(MENDED, k=dice.randrange(1, 20)))
        assert clean(text) == ftfy.fix_text(text, normalization="NFC", uncurl_quotes=False)
        straight = clean(text, unicode="NFKC", quotes="straight")
        assert straight == ftfy.fix_text(text, normalization="NFKC", uncurl_quotes=True)
