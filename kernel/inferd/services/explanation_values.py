"""What explanations ask for and tell, for the wire."""

from collections.abc import Sequence

from inferd.core.explained_spans import Span, SpanUnit
from inferd.core.explanation import Curves, ExplanationMethod, Faithfulness
from inferd.core.priority import Priority
from inferd.errors import InvalidFieldError
from inferd.explanation_settings import Explanations
from inferd.runtime.explanation_work import Text
from inferd.runtime.front.explained import (
    Cost,
    Explained,
    Plan,
    Progress,
    Target,
    Token,
    Told,
    Wanted,
    WantedExamples,
)
from inferd.services.dataset_values import read_version
from inferd.services.task_values import read_priority
from inferd.services.times import duration
from inferd.services.work_values import check_size, read_input
from inferd_api.v1 import explanation_pb2 as pb
from inferd_api.v1 import explanation_service_pb2 as es
from inferd_api.worker.v1 import task_pb2 as wp

MOST_ORDERS = 64
MOST_ALTERNATIVES = 20
MOST_EXAMPLES = 100
DEFAULTS = {"max_answer_tokens": 32, "samples": 16, "random_orders": 4, "alternatives": 5, "steps": 16}


def read_wanted(spec: pb.ExplanationSpec, limits: Explanations, *, prompt_limit_bytes: int) -> Wanted:
    """What is asked for.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
        LimitExceededError: A text has more than `prompt_limit_bytes`.
    """
    given = wp.Input()
    if spec.WhichOneof("input") is None:
        raise InvalidFieldError("spec has no input; set prompt or chat", field="spec.input")
    read_input(spec, given, prompt_limit_bytes)
    for name in ("answer", "against"):
        check_size(len(getattr(spec, name).encode()), prompt_limit_bytes)
    ranges = {
        "max_answer_tokens": (1, limits.answer_tokens),
        "samples": (2, limits.samples),
        "random_orders": (0, MOST_ORDERS),
        "alternatives": (0, MOST_ALTERNATIVES),
        "steps": (1, limits.steps),
    }
    numbers = {name: _read_number(spec, name, *ranges[name]) for name in ranges}
    if numbers["samples"] % 2:
        raise InvalidFieldError(
            f"samples is {numbers['samples']}; orders come in pairs, so it must be even", field="spec.samples"
        )
    if len(spec.spans) > limits.spans:
        raise InvalidFieldError(
            f"spans has {len(spec.spans)} and explanations.spans is {limits.spans}; name fewer", field="spec.spans"
        )
    method = ExplanationMethod(_read_enum(spec.method, pb.ExplanationMethod, "method") or 1)
    if method is ExplanationMethod.EXAMPLES and not spec.HasField("examples"):
        raise InvalidFieldError(
            "method is EXAMPLES, and spec has no examples; say in which index or dataset they are",
            field="spec.examples",
        )
    return Wanted(
        model=spec.model,
        given=given,
        priority=read_priority(spec.priority) if spec.priority else Priority.LOW,
        answer=spec.answer,
        against=spec.against,
        method=method,
        examples=_read_examples(spec.examples) if spec.HasField("examples") else None,
        unit=SpanUnit(_read_enum(spec.unit, pb.SpanUnit, "unit") or 1),
        spans=[(each.message, each.part, each.begin, each.end) for each in spec.spans],
        seed=spec.seed,
        adapter=spec.adapter,
        **numbers,
    )


def _read_examples(source: pb.ExampleSource) -> WantedExamples:
    """Where examples are looked for."""
    count = source.count if source.HasField("count") else 5
    if not 1 <= count <= MOST_EXAMPLES:
        raise InvalidFieldError(
            f"examples.count is {count}; it must be from 1 to {MOST_EXAMPLES}", field="spec.examples.count"
        )
    match source.WhichOneof("source"):
        case "index":
            if not source.index:
                raise InvalidFieldError("examples.index is empty; name an index", field="spec.examples.index")
            return WantedExamples(index=source.index, count=count)
        case "dataset":
            name, version = read_version(source.dataset)
            if not source.embedding_model:
                raise InvalidFieldError(
                    "examples.embedding_model is empty; name the model that makes vectors of the dataset's texts",
                    field="spec.examples.embedding_model",
                )
            return WantedExamples(
                dataset=name,
                version=version,
                model=source.embedding_model,
                column=source.column or "text",
                count=count,
            )
        case _:
            raise InvalidFieldError(
                "examples has no source; set index, or dataset and embedding_model", field="spec.examples"
            )


def _read_number(spec: pb.ExplanationSpec, name: str, least: int, most: int) -> int:
    if not spec.HasField(name):  # type: ignore[arg-type] # of these names
        return min(DEFAULTS[name], most)
    value: int = getattr(spec, name)
    if not least <= value <= most:
        raise InvalidFieldError(f"{name} is {value}; it must be from {least} to {most}", field=f"spec.{name}")
    return value


def _read_enum(value: int, kind: object, name: str) -> int:
    known = kind.values()  # type: ignore[attr-defined] # an enum of protobuf
    if value not in known:
        raise InvalidFieldError(f"{name} is {value}; it must be from 0 to {max(known)}", field=f"spec.{name}")
    return value


def write_plan(plan: Plan) -> pb.ExplanationPlan:
    """What is going to be computed."""
    return pb.ExplanationPlan(spans=plan.spans, answer_tokens=plan.answer_tokens, cost=_write_cost(plan.cost))


def write_told(told: Told) -> es.ExplainResponse:
    """What there is to tell."""
    match told:
        case Plan():
            return es.ExplainResponse(plan=write_plan(told))
        case Progress(done, sequences):
            progress = pb.ExplanationProgress(sequences_done=done, sequences=sequences)
            return es.ExplainResponse(progress=progress)
        case Explained():
            return es.ExplainResponse(explanation=_write_explained(told))


def _write_explained(found: Explained) -> pb.Explanation:
    wanted, tokens = found.wanted, [[_write_token(each) for each in answer] for answer in found.tokens]
    return pb.Explanation(
        model=wanted.model,
        method=pb.ExplanationMethod.ValueType(wanted.method.value),
        seed=wanted.seed,
        samples=wanted.samples if wanted.method is ExplanationMethod.SHAPLEY else 0,
        texts=[pb.ExplainedText(message=t.message, part=t.part, role=t.role, text=t.text) for t in found.texts],
        answer=found.answer,
        against=wanted.against,
        targets=[
            pb.ExplanationTarget(name=each.name, value=each.value, baseline=each.baseline, replaced=each.replaced)
            for each in found.targets
        ],
        spans=[_write_span(n, span, found.texts, found.targets) for n, span in enumerate(found.spans)],
        tokens=tokens[0],
        against_tokens=tokens[1] if wanted.against else (),
        faithfulness=None if found.faithfulness is None else _write_faithfulness(found.faithfulness),
        planned=_write_cost(found.planned),
        cost=_write_cost(found.cost),
        device_duration=duration(found.cost.device_s),
        steps=wanted.steps if wanted.method is ExplanationMethod.GRADIENTS else 0,
        examples=[
            pb.ExplainedExample(
                id=each.id, title=each.title, text=each.text, distance=each.distance, metadata_json=each.metadata
            )
            for each in found.examples
        ],
    )


def _write_span(number: int, span: Span, texts: Sequence[Text], targets: Sequence[Target]) -> pb.ExplainedSpan:
    text = texts[span.text]
    scores = [each.scores[number] for each in targets]
    return pb.ExplainedSpan(
        span=pb.TextSpan(message=text.message, part=text.part, begin=span.begin, end=span.end),
        text=text.text.encode()[span.begin : span.end].decode(),
        scores=[pb.SpanScore(score=each.value, standard_error=each.error) for each in scores],
    )


def _write_token(token: Token) -> pb.ExplainedToken:
    return pb.ExplainedToken(
        token_id=token.token_id,
        piece=token.piece,
        logprob=token.logprob,
        entropy=token.entropy,
        alternatives=[
            pb.TokenAlternative(token_id=token_id, piece=piece, logprob=logprob)
            for token_id, piece, logprob in token.top
        ],
    )


def _write_faithfulness(found: Faithfulness) -> pb.Faithfulness:
    def write(curves: Curves) -> pb.ExplanationCurves:
        return pb.ExplanationCurves(
            deletion=curves.deletion,
            insertion=curves.insertion,
            deletion_area=found.area(curves.deletion),
            insertion_area=found.area(curves.insertion),
        )

    return pb.Faithfulness(spans=found.sizes, ranked=write(found.ranked), random=map(write, found.random))


def _write_cost(cost: Cost) -> pb.ExplanationCost:
    return pb.ExplanationCost(sequences=cost.sequences, tokens=cost.tokens, computed_tokens=cost.computed_tokens)
