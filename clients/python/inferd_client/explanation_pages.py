"""An explanation as a page for people: one HTML file that needs nothing else, and runs nothing."""

from __future__ import annotations

import math
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Final

from inferd_api.v1.explanation_pb2 import (
    EXPLANATION_METHOD_ATTENTION,
    EXPLANATION_METHOD_EXAMPLES,
    EXPLANATION_METHOD_GRADIENTS,
    EXPLANATION_METHOD_SHAPLEY,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inferd_api.v1.explanation_pb2 import (
        ExplainedExample,
        ExplainedSpan,
        ExplainedText,
        ExplainedToken,
        Explanation,
        Faithfulness,
        SpanScore,
    )

WIDTH, HEIGHT, EDGE = 360, 200, 44  # of a drawing, in pixels
_STYLE: Final = """
body{font:16px/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #ccc;border-radius:6px}
.text{padding:.6rem .8rem;margin:.5rem 0}
.role{color:#666;font-size:.85rem}
.text span{border-radius:3px}
.tokens td,.tokens th{text-align:left;padding:.1rem .8rem .1rem 0;border-bottom:1px solid #eee}
.note{color:#555}svg{margin-right:1rem}
"""


def explanation_page(explanation: Explanation, *, title: str = "") -> str:
    """An explanation as HTML: its texts with what speaks for the answer and against it, and what else was found.

    Args:
        explanation: What `explain` gave.
        title: Of the page; by default the name of the model.
    """
    title = title or f"Why {explanation.model} answered so"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(_method(explanation))}</p>',
        *_texts(explanation),
        *_answer(explanation),
    ]
    if explanation.tokens:
        parts += ["<h2>Tokens of the answer</h2>", _tokens(explanation.tokens)]
    else:
        parts += _labels(explanation)
    if explanation.against_tokens:
        parts += ["<h2>Tokens of the other answer</h2>", _tokens(explanation.against_tokens)]
    if explanation.HasField("faithfulness"):
        parts += ["<h2>Do the scores say what matters?</h2>", *_curves(explanation.faithfulness)]
    if explanation.examples:
        parts += ["<h2>Examples near to it</h2>", _examples(explanation.examples)]
    cost = explanation.cost
    parts.append(
        f'<p class="note">{cost.sequences} sequences, {cost.computed_tokens} of their {cost.tokens} tokens computed '
        f"({explanation.planned.computed_tokens} were stated before).</p>"
    )
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    return f"<!doctype html><html><head>{policy}{head}</head><body>{''.join(parts)}</body></html>\n"


def _answer(explanation: Explanation) -> Iterator[str]:
    """What is explained, and how likely it is; nothing where examples alone were asked for."""
    for target in explanation.targets[:1]:
        told = (
            f"<p><b>{escape(explanation.answer)}</b>"
            + (f" and not <b>{escape(explanation.against)}</b>" if explanation.against else "")
            + f": {escape(target.name)} is {target.value:.3f} nats with all of the input, {target.baseline:.3f} "
            "without any of its parts"
        )
        if target.HasField("replaced"):
            total = sum(span.scores[0].score for span in explanation.spans)
            told += (
                f", {target.replaced:.3f} with line feeds in their place: the scores add up to {total:.3f} of"
                f" {target.value - target.replaced:.3f}"
            )
        yield told + ".</p>"


def _method(explanation: Explanation) -> str:
    if explanation.method == EXPLANATION_METHOD_SHAPLEY:
        return f"Shapley values of {explanation.samples} random orders, seed {explanation.seed}; in nats."
    if explanation.method == EXPLANATION_METHOD_GRADIENTS:
        return f"Integrated gradients of {explanation.steps} steps, from line feeds to the input; in nats."
    if explanation.method == EXPLANATION_METHOD_ATTENTION:
        return "How much of the attention with which the answer is chosen comes from each part, through all layers."
    if explanation.method == EXPLANATION_METHOD_EXAMPLES:
        return "Examples whose vectors are near to that of the input."
    return "How much less likely the answer is without each part alone (leave-one-out); in nats."


def _labels(explanation: Explanation) -> Iterator[str]:
    """Of a classifier: how likely each label is, and what of the text speaks for it."""
    for target, each in enumerate(explanation.targets):
        if target:
            yield f"<h2>{escape(each.name)}: {each.value:.3f} nats, {each.baseline:.3f} without any part</h2>"
            yield from _texts(explanation, target)


def _texts(explanation: Explanation, target: int = 0) -> Iterator[str]:
    largest = max((abs(span.scores[target].score) for span in explanation.spans), default=0.0) or 1.0
    shares = explanation.method == EXPLANATION_METHOD_ATTENTION
    of = {
        place: list(spans)
        for place, spans in groupby(explanation.spans, key=lambda each: (each.span.message, each.span.part))
    }
    for text in explanation.texts:
        role = f'<div class="role">{escape(text.role)}</div>' if text.role else ""
        marked = _marked(text, of.get((text.message, text.part), []), largest, target, shares=shares)
        yield f'{role}<div class="text">{marked}</div>'


def _marked(text: ExplainedText, spans: Sequence[ExplainedSpan], largest: float, target: int, *, shares: bool) -> str:
    data, at, written = text.text.encode(), 0, []
    for each in spans:
        begin, end = each.span.begin, each.span.end
        written += [
            escape(data[at:begin].decode()),
            _mark(data[begin:end].decode(), each.scores[target], largest, shares=shares),
        ]
        at = end
    return "".join([*written, escape(data[at:].decode())])


def _mark(text: str, score: SpanScore, largest: float, *, shares: bool) -> str:
    color = "34,139,80" if score.score >= 0 else "200,60,50"
    strength = min(1.0, abs(score.score) / largest) * 0.75
    error = f" ± {score.standard_error:.3f}" if score.HasField("standard_error") else ""
    says = f"{score.score:.1%} of attention" if shares else f"{score.score:+.3f} nats{error}"
    lead = text[: len(text) - len(text.lstrip())]  # white space has no colour
    style = f"background:rgba({color},{strength:.3f})"
    return f'{escape(lead)}<span style="{style}" title="{says}">{escape(text[len(lead) :])}</span>'


def _examples(examples: Sequence[ExplainedExample]) -> str:
    rows = "".join(
        f"<tr><td>{each.distance:.3f}</td><td>{escape(each.title or each.id)}</td><td>{escape(each.text)}</td>"
        f"<td>{escape(each.metadata_json)}</td></tr>"
        for each in examples
    )
    head = "<tr><th>distance</th><th>example</th><th>text</th><th>also known</th></tr>"
    return f'<table class="tokens">{head}{rows}</table>'


def _tokens(tokens: Sequence[ExplainedToken]) -> str:
    rows = []
    for token in tokens:
        others = ", ".join(
            f"{_piece(other.piece)} {math.exp(other.logprob):.1%}"
            for other in token.alternatives
            if other.token_id != token.token_id
        )
        rows.append(
            f"<tr><td>{_piece(token.piece)}</td><td>{math.exp(token.logprob):.1%}</td><td>{token.entropy:.2f}</td>"
            f"<td>{others}</td></tr>"
        )
    head = "<tr><th>token</th><th>probability</th><th>entropy, nats</th><th>instead</th></tr>"
    return f'<table class="tokens">{head}{"".join(rows)}</table>'


def _piece(piece: bytes) -> str:
    return f"<code>{escape(piece.decode(errors='replace').replace(' ', '␣').replace(chr(10), '⏎'))}</code>"


def _curves(found: Faithfulness) -> Iterator[str]:
    for name, curve, others, area, better in (
        (
            "Deletion: the highest scores taken out first; it should fall at once",
            found.ranked.deletion,
            [each.deletion for each in found.random],
            found.ranked.deletion_area,
            sum(found.ranked.deletion_area < each.deletion_area for each in found.random),
        ),
        (
            "Insertion: the highest scores put in first; it should rise at once",
            found.ranked.insertion,
            [each.insertion for each in found.random],
            found.ranked.insertion_area,
            sum(found.ranked.insertion_area > each.insertion_area for each in found.random),
        ),
    ):
        yield f"<p>{name}. Mean {area:.3f} nats: better than {better} of {len(found.random)} random orders (grey).</p>"
        yield _drawing(list(found.spans), curve, others)


def _drawing(spans: Sequence[int], curve: Sequence[float], others: Sequence[Sequence[float]]) -> str:
    values = [value for each in (curve, *others) for value in each]
    low, high = min(values), max(values)
    reach = (high - low) or 1.0

    def line(each: Sequence[float], style: str) -> str:
        points = " ".join(
            f"{EDGE + (WIDTH - 2 * EDGE) * size / (spans[-1] or 1):.1f},"
            f"{HEIGHT - EDGE / 2 - (HEIGHT - EDGE) * (value - low) / reach:.1f}"
            for size, value in zip(spans, each, strict=True)
        )
        return f'<polyline points="{points}" fill="none" {style}/>'

    drawn = "".join(line(each, 'stroke="#bbb"') for each in others) + line(curve, 'stroke="#1b6e3c" stroke-width="2.5"')
    labels = (
        f'<text x="0" y="{EDGE / 2:.0f}" font-size="11">{high:.2f}</text>'
        f'<text x="0" y="{HEIGHT - EDGE / 2:.0f}" font-size="11">{low:.2f}</text>'
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 4}" font-size="11">{spans[-1]} spans</text>'
    )
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{labels}{drawn}</svg>'
