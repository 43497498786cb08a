"""Each function for texts on at least fifty real texts of which is known what it should give.

It must be better than something trivial that does the same, by a floor that stands here. The texts are sentences of the
Universal Declaration of Human Rights in 22 languages, and sentences that were written for this.
"""

import base64
import html
import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rights import LABELLED, RIGHTS
from tokenizers import Tokenizer, models, pre_tokenizers

from inferd.engine.function.offered import collect
from inferd.engine.function.shape import RefusedError
from inferd.plugin.functions import offer_files
from inferd_functions.conversion import convert
from inferd_functions.duplicates import deduplicate
from inferd_functions.languages import detect_language
from inferd_functions.parts import chunk, split
from inferd_functions.repair import clean
from inferd_functions.tokens import tokenise

TEXTS = [text for _, text in LABELLED]
SENTENCES = (
    "Dr. Alvarez met Mrs. Lindqvist at 9 a.m. on Jan. 5.",
    "The parcel weighed 3.75 kg, i.e. more than the 2.5 kg that were allowed.",
    "Did Prof. Okafor really say that?",
    "The U.S. delegation arrived at St. Pancras, cf. p. 12 of the report.",
    "Nobody answered!",
    "It costs approx. 4.50 euros, incl. tax.",
    "Mr. and Mrs. Tanaka live on the 3rd floor.",
    "See fig. 4 and eq. 7 for details.",
    "The server at example.org failed twice.",
    "Gen. Ibrahim, Lt. Novak and Capt. Silva signed it.",
    "We use tools such as saws, files, etc. in the workshop.",
    "The Smith vs. Jones case was settled on Oct. 3, 1998.",
)
CASES = 50


def share(right: Sequence[bool]) -> float:
    """Which part of at least fifty cases is right."""
    assert len(right) >= CASES
    return sum(right) / len(right)


def above(found: float, trivial: float, floor: float) -> None:
    """What was found reaches the floor, which is above what something trivial reaches."""
    assert found >= floor > trivial, (found, floor, trivial)


def test_clean_mends_what_was_decoded_wrongly() -> None:
    """UTF-8 read as Latin-1, once and twice, and entities of HTML, of 54 sentences: most become what they were."""
    cases = [(text.encode().decode("latin-1"), text) for text in TEXTS]
    cases += [(html.escape(text.replace(" ", " & ", 1)), text.replace(" ", " & ", 1)) for text in TEXTS]
    cases += [(text, text) for text in TEXTS]
    above(share([clean(damaged) == text for damaged, text in cases]), share([d == t for d, t in cases]), 0.9)


def test_split_finds_sentences() -> None:
    """Sentences full of abbreviations and numbers are parted where they end, which full stops do not tell."""
    rows = [[SENTENCES[(n * step) % 12] for n in range(1, 5)] for step in (1, 5, 7, 11)]
    rows += [[SENTENCES[(first + n * 5) % 12] for n in range(3)] for first in range(12)]
    rows += [
        [SENTENCES[first], SENTENCES[second]] for first in range(12) for second in (1, 4, 8, 10) if first != second
    ]

    def trivial(text: str) -> list[str]:
        return re.split(r"(?<=[.!?]) ", text)

    found = share([split(" ".join(row)) == row for row in rows])
    above(found, share([trivial(" ".join(row)) == row for row in rows]), 0.75)


def test_chunk_cuts_between_words() -> None:
    """Chunks begin and end where words do, which cutting each so many characters does not."""
    latin = [text for text in TEXTS if text.isascii() or text[0].isascii()][:30]
    texts = [f"{one} {other}" for one in latin for other in SENTENCES[:2]]

    def whole(text: str, parts: Sequence[str]) -> bool:
        return [word for part in parts for word in part.split()] == text.split()

    found = share([whole(text, [each.text for each in chunk(text, 40)]) for text in texts])
    above(found, share([whole(text, [text[n : n + 40] for n in range(0, len(text), 40)]) for text in texts]), 0.95)


def test_deduplicate_finds_what_is_nearly_the_same() -> None:
    """Longer texts with a word more or in capitals are duplicates, others are not; equality finds half of that."""
    longer = [" ".join([text, *(SENTENCES[(n + k) % 12] for k in (0, 5, 7))]) for n, text in enumerate(TEXTS[:27])]
    pairs = [(text, f"{text} again", True) for text in longer]
    pairs += [(one, other, False) for one, other in zip(TEXTS[:27], TEXTS[27:], strict=True)]
    found = share([bool(deduplicate([one, other]).duplicates) is same for one, other, same in pairs])
    above(found, share([(one == other) is same for one, other, same in pairs]), 0.95)


def test_detect_language_knows_languages() -> None:
    """The language of 54 sentences is found; always saying one of them is right for one in twenty."""
    found = share([detect_language(text).language == code for code, text in LABELLED])
    above(found, share([code == "en" for code, _ in LABELLED]), 0.85)


def pdf_of(text: str) -> str:
    """A PDF with a text, a line for 60 characters, as base64."""
    lines = [text[n : n + 60] for n in range(0, len(text), 60)]
    shown = ""
    for line in lines:
        escaped = line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        shown += f"({escaped}) Tj T* "
    stream = f"BT /F1 12 Tf 14 TL 40 700 Td {shown}ET".encode("cp1252")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources <</Font <</F1 5 0 R>>>> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    made = b"%PDF-1.4\n"
    places = []
    for number, each in enumerate(objects, start=1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(made)
    made += b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        start,
    )
    return base64.b64encode(made).decode()


WESTERN = [text for code, text in LABELLED if code in {"en", "de", "fr", "es", "it", "pt", "nl", "sv"}]
WEST = [f"{one} {two}"[:200] for one in WESTERN for two in (SENTENCES[1], SENTENCES[3], SENTENCES[7])]


def page_of(text: str) -> str:
    """A page of HTML that shows a text, with markup within it."""
    first, _, rest = html.escape(text).partition(" ")
    return f"<html><head><title>x</title><style>p {{}}</style></head><body><p><b>{first}</b>\n {rest}</p></body></html>"


def parquet_of(text: str) -> str:
    """A Parquet file with a row, as base64."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [text]}), sink)
    return base64.b64encode(sink.getvalue().to_pybytes()).decode()


def stripped(page: str) -> str:
    """The text of a page, as something trivial finds it."""
    return re.sub("<[^>]*>", "", page)


FORMS: dict[str, tuple[Callable[[str], str], Callable[[str], str], Callable[[str], str]]] = {
    "html": (page_of, lambda text: text, stripped),
    "markdown": (lambda text: f"**{text}**", lambda text: text, lambda given: given),
    "pdf": (pdf_of, lambda text: text, lambda given: base64.b64decode(given).decode("latin-1")),
    "csv": (
        lambda text: 'a,b\n"{}",1\n'.format(text.replace('"', '""')),
        lambda text: json.dumps({"a": text, "b": "1"}, ensure_ascii=False),
        lambda given: given,
    ),
    "parquet": (parquet_of, lambda text: json.dumps({"text": text}, ensure_ascii=False), lambda given: given),
}
"""How a document is made of a text, what is to come of it, and something trivial that does the same."""


@pytest.mark.parametrize("form", FORMS)
def test_convert_gives_what_a_document_says(form: str) -> None:
    """Of documents that are made of known texts the texts come out again."""
    make, wanted, trivial = FORMS[form]
    target = "jsonl" if form in {"csv", "parquet"} else "text"
    texts = WEST if form == "pdf" else TEXTS

    def same(found: str, text: str) -> bool:
        return "".join(found.split()) == "".join(wanted(text).split())

    documents = [(make(text), text) for text in texts]
    found = share([same(convert(document, form, target), text) for document, text in documents])  # type: ignore[arg-type]
    above(found, share([same(trivial(document), text) for document, text in documents]), 0.95)


def greedy(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Tokens of words by the longest piece that fits, as WordPiece has them; words of Hindi and Thai end elsewhere."""
    found: list[int] = []
    for word in re.findall(r"\w+|[^\w\s]+", text):
        at, pieces = 0, []
        while at < len(word):
            ends = range(len(word), at, -1)
            piece = next((vocabulary[p] for end in ends if (p := ("##" if at else "") + word[at:end]) in vocabulary), 0)
            if not piece:
                pieces = [0]
                break
            end = next(end for end in ends if ("##" if at else "") + word[at:end] in vocabulary)
            pieces.append(piece)
            at = end
        found += pieces
    return found


def test_tokenise_gives_the_tokens_of_its_tokenizer(tmp_path: Path) -> None:
    """Tokens are those of the file that is named, by an algorithm written down here; whole words alone are too few."""
    words = [word for text in TEXTS for word in re.findall(r"\w+|[^\w\s]+", text)]
    pieces = dict.fromkeys([*(c for w in words for c in w), *(f"##{c}" for w in words for c in w)])
    pieces |= dict.fromkeys([*islice(dict.fromkeys(words), 0, None, 3), *(f"##{w[2:]}" for w in words if len(w) > 4)])
    vocabulary = {piece: number for number, piece in enumerate(["[UNK]", *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    offer_files({"mine": str(tmp_path), "none": str(tmp_path / "x"), "odd": __file__})
    try:
        found = share([tokenise(text, "mine") == greedy(text, vocabulary) for text in TEXTS])
        plain = [[vocabulary.get(word, 0) for word in text.split()] for text in TEXTS]
        above(found, share([one == greedy(text, vocabulary) for one, text in zip(plain, TEXTS, strict=True)]), 0.9)
        for name, why in {
            "theirs": "there are mine, none, odd",
            "none": "No such file",
            "odd": "is no tokenizer",
        }.items():
            with pytest.raises(ValueError, match=why):
                tokenise("a", name)
    finally:
        offer_files({})
    with pytest.raises(ValueError, match="it has none"):
        tokenise("a", "else")


def test_bad_input_is_refused_by_all() -> None:
    """An input without what must be given, with more, or with another type, is refused by the schema of each."""
    for (name, _), each in collect("inferd_functions.plugin").items():
        least = () if name == "dataset_lines" else ("{}",)  # which takes data alone
        for given in ("[]", *least, '{"text": 1, "texts": 1, "content": 1}', "{", '{"text": "\\ud800"}'):
            with pytest.raises(RefusedError):
                each.shape.read(given.encode())
        assert name


@pytest.mark.parametrize(
    ("content", "source", "why"),
    [
        ("no base64!", "pdf", "no base64"),
        (base64.b64encode(b"%PDF-1.4 and no more").decode(), "pdf", "no PDF"),
        (base64.b64encode(b"PAR1 and no more PAR1").decode(), "parquet", "no Parquet"),
        ("", "parquet", "no Parquet"),
    ],
)
def test_documents_that_are_none_are_refused(content: str, source: str, why: str) -> None:
    """What is no base64, no PDF or no Parquet is refused in words."""
    with pytest.raises(ValueError, match=why):
        convert(content, source, "text" if source == "pdf" else "jsonl")  # type: ignore[arg-type]


def test_there_are_as_many_languages_as_are_said() -> None:
    """The texts are of 22 languages."""
    assert len(RIGHTS) == 22
