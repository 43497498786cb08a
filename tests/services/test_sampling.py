"""Sampling through the whole kernel, from the wire to the engine and back."""

import math
from typing import Any

import grpc
import pytest
from connection import Connection, read_all, read_failing, reason_of, text_of

from inferd.testing.fake import VOCABULARY
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1.task_service_pb2 import RunTaskRequest

PEAK = 20.0  # of the FakeBackend: logit of the token that it predicts, the others are 0
LIKELY = PEAK - math.log(math.exp(PEAK) + len(VOCABULARY.tokens) - 1)


def run(connection: Connection, text: str = "la", **sampling: Any) -> Any:
    """Continue a text, which the FakeBackend repeats over and over."""
    params = sp.SamplingParams(**({"temperature": 0, "max_tokens": 6} | sampling))
    return connection.tasks.RunTask(RunTaskRequest(spec=tp.TaskSpec(model="fake", prompt=text, sampling=params)))


async def outputs(connection: Connection, text: str = "la", **sampling: Any) -> list[Any]:
    events = await read_all(run(connection, text, **sampling))
    return [event.output for event in events if event.HasField("output")]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("temperature", {"temperature": 101}, "temperature is 101; it must be from 0 to 100"),
    ("temperature", {"temperature": math.nan}, "temperature is nan"),
    ("top_p", {"top_p": 0}, "top_p is 0; it must be above 0 and at most 1"),
    ("top_p", {"top_p": 1.5}, "top_p is 1.5"),
    ("min_p", {"min_p": -0.5}, "min_p is -0.5; it must be from 0 to 1"),
    ("repetition_penalty", {"repetition_penalty": 0}, "repetition_penalty is 0; it must be from 0.01 to 10"),
    ("repetition_penalty", {"repetition_penalty": 1e-30}, "repetition_penalty is 1e-30; it must be from 0.01 to 10"),
    ("frequency_penalty", {"frequency_penalty": 11}, "frequency_penalty is 11; it must be from -10 to 10"),
    ("presence_penalty", {"presence_penalty": -11}, "presence_penalty is -11; it must be from -10 to 10"),
    ("penalty_window", {"penalty_window": 2**31}, "penalty_window is 2.14748e+09; it must be from 0 to 2147483647"),
    ("dry_multiplier", {"dry_multiplier": -1}, "dry_multiplier is -1; it must be from 0 to 100"),
    ("dry_base", {"dry_base": 0.5}, "dry_base is 0.5; it must be from 1 to 10"),
    ("dry_allowed_length", {"dry_allowed_length": 513}, "dry_allowed_length is 513; it must be from 1 to 512"),
    ("dry_window", {"dry_window": 32769}, "dry_window is 32769; it must be from 1 to 32768"),
    ("dry_sequence_breakers", {"dry_sequence_breakers": ["a"] * 17}, "17 sequence breakers; at most 16"),
    ("dry_sequence_breakers[0]", {"dry_sequence_breakers": ["a" * 41]}, "has 41 characters; it must have 1 to 40"),
    ("top_n_sigma", {"top_n_sigma": 101}, "top_n_sigma is 101; it must be from 0 to 100"),
    ("typical_p", {"typical_p": 0}, "typical_p is 0; it must be above 0 and at most 1"),
    ("xtc_probability", {"xtc_probability": 1.5}, "xtc_probability is 1.5; it must be from 0 to 1"),
    ("mirostat_tau", {"mirostat_tau": 101}, "mirostat_tau is 101; it must be from 0 to 100"),
    ("mirostat_eta", {"mirostat_eta": 2}, "mirostat_eta is 2; it must be from 0 to 1"),
    ("mirostat_tau", {"mirostat_tau": 5, "grammar": sp.Grammar(regex="a")}, "mirostat_tau is 5; with a grammar"),
    ("xtc_threshold", {"xtc_threshold": math.nan}, "xtc_threshold is nan; it must be from 0 to 1"),
    ("logit_bias", {"logit_bias": {3: 101}}, "logit_bias of token 3 is 101; it must be from -100 to 100"),
    ("logit_bias", {"logit_bias": dict.fromkeys(range(1025), 1)}, "1025 tokens in logit_bias; at most 1024"),
    ("logit_bias", {"logit_bias": {100_000: 1}}, "token id 100000 is outside the model's vocabulary"),
    ("bad_words", {"bad_words": ["a"] * 65}, "65 bad words; at most 64"),
    ("bad_words[1]", {"bad_words": ["a", ""]}, "bad word 1 has 0 characters; it must have 1 to 256"),
    ("n", {"n": 0}, "n is 0; it must be from 1 to 64"),
    ("n", {"n": 65}, "n is 65"),
    ("logprobs", {"logprobs": 21}, "logprobs is 21; it must be from 0 to 20"),
    ("prompt_logprobs", {"prompt_logprobs": 21}, "prompt_logprobs is 21; it must be from 0 to 20"),
    ("min_tokens", {"min_tokens": 7}, "min_tokens is 7; it must be at most max_tokens, 6"),
    ("stop_token_ids", {"stop_token_ids": [1] * 65}, "65 stop tokens; at most 64"),
    ("stop_token_ids", {"stop_token_ids": [100_000]}, "token id 100000 is outside"),
    ("stop", {"stop": ["a"] * 17}, "17 stop strings; at most 16"),
    ("stop[0]", {"stop": ["a" * 257]}, "stop string 0 has 257 characters; it must have 1 to 256"),
    ("grammar", {"grammar": sp.Grammar()}, "grammar is empty"),
    ("grammar.regex", {"grammar": sp.Grammar(regex="a" * 65537)}, "regex has 65537 characters; at most 65536"),
    ("grammar.choice", {"grammar": sp.Grammar(choice=sp.Choice())}, "choice has 0 texts; it must have 1 to 1024"),
]


async def test_bad_fields(connection: Connection) -> None:
    """A value outside its bounds is INVALID_ARGUMENT with the field's name and both numbers, for every field."""
    await connection.create()
    for field, sampling, message in BAD:
        _, error = await read_failing(run(connection, **sampling))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert message in str(error.details()), field
        reason, metadata = reason_of(error)
        assert (reason, metadata.get("field")) in {
            ("INVALID_FIELD", f"spec.sampling.{field}"),
            ("INVALID_FIELD", None),
        }


async def test_logprobs(connection: Connection) -> None:
    """Each output token comes with its log probability and the likeliest tokens beside it, outputs merged or not."""
    await connection.create()
    told = await outputs(connection, logprobs=2, temperature=0, logit_bias={ord("x"): 30})
    ids = [token_id for output in told for token_id in output.token_ids]
    logprobs = [each for output in told for each in output.logprobs]
    assert ids == [ord("x")] * 6
    assert [each.token_id for each in logprobs] == ids
    assert all(each.logprob == pytest.approx(LIKELY - PEAK, abs=1e-4) for each in logprobs)  # the bias does not count
    assert all(len(each.top) == 2 for each in logprobs)
    assert logprobs[0].top[0].token_id == ord("l")
    assert logprobs[0].top[0].logprob == pytest.approx(LIKELY, abs=1e-4)


async def test_logprobs_of_the_chosen_token_only(connection: Connection) -> None:
    """`logprobs` 0 tells of the tokens themselves and of no others; unset it tells nothing."""
    await connection.create()
    told = [each for output in await outputs(connection, logprobs=0) for each in output.logprobs]
    assert len(told) == 6
    assert not any(each.top for each in told)
    assert not any(output.logprobs for output in await outputs(connection))


@pytest.mark.parametrize("words", [5, 400])
async def test_prompt_logprobs_and_echo(connection: Connection, words: int) -> None:
    """The prompt comes first, in one output: its text, its tokens, how likely each but the first was; however long."""
    await connection.create()
    prompt = "la" * words
    first, *rest = await outputs(connection, prompt, echo=True, prompt_logprobs=1, logprobs=0)
    assert first.text == prompt
    assert list(first.token_ids) == list(prompt.encode())
    assert [each.token_id for each in first.prompt_logprobs] == list(prompt.encode())[1:]
    likely = [each.top[0].token_id == each.token_id for each in first.prompt_logprobs]
    assert all(likely[2:])  # from the third token on it repeats itself
    assert first.prompt_logprobs[-1].logprob == pytest.approx(LIKELY, abs=1e-4)
    assert not first.logprobs
    assert "".join(output.text for output in rest) == "lalala"
    assert sum(len(output.logprobs) for output in rest) == 6
    assert not any(output.prompt_logprobs for output in rest)


async def test_prompt_logprobs_do_not_depend_on_the_prefix_cache(connection: Connection) -> None:
    """A prompt whose KV is cached already is told of as a whole all the same."""
    await connection.create()
    first, *_ = await outputs(connection, "la" * 60)
    again, *_ = await outputs(connection, "la" * 60, prompt_logprobs=0)
    assert not first.prompt_logprobs
    assert len(again.prompt_logprobs) == 119


async def test_echo_is_not_output(connection: Connection) -> None:
    """The prompt that is told of counts as no output, and stop strings are not looked for in it."""
    await connection.create()
    events = await read_all(run(connection, echo=True, stop=["la"]))
    finished = events[-1].finished
    assert text_of(events) == "la"
    assert finished.reason == tp.FINISH_REASON_STOP_STRING
    assert finished.usage.output_tokens == 2


async def test_penalties(connection: Connection) -> None:
    """A strong penalty keeps the model from repeating itself, which is all that it does without."""
    await connection.create()
    plain = text_of(await read_all(run(connection)))
    assert plain == "lalala"
    punished = await outputs(connection, repetition_penalty=10, frequency_penalty=10, presence_penalty=10)
    ids = [token_id for output in punished for token_id in output.token_ids]
    assert ids != list(plain.encode())


async def test_a_prompt_that_is_only_read(connection: Connection) -> None:
    """With `max_tokens` 0 the prompt is told of, nothing is written of any sample, and the end says why."""
    await connection.create()
    events = await read_all(run(connection, "lala", max_tokens=0, prompt_logprobs=1, logprobs=1, echo=True, n=2))
    told = [event.output for event in events if event.HasField("output")]
    assert [len(output.prompt_logprobs) for output in told if output.prompt_logprobs] == [3]
    assert told[0].text == "lala"
    assert not any(output.logprobs for output in told)
    finished = events[-1].finished
    assert finished.reason == tp.FINISH_REASON_MAX_TOKENS
    assert (finished.usage.prompt_tokens, finished.usage.output_tokens) == (4, 0)


async def test_a_prompt_of_a_grammar_that_is_only_read(connection: Connection) -> None:
    """What the output would have to be is no matter where there is none."""
    await connection.create()
    grammar = sp.Grammar(choice=sp.Choice(texts=["no"]))
    events = await read_all(run(connection, max_tokens=0, grammar=grammar, bad_words=["no"]))
    assert text_of(events) == ""
    assert events[-1].finished.reason == tp.FINISH_REASON_MAX_TOKENS


async def test_dry(connection: Connection) -> None:
    """DRY keeps the model from going on with what was there, but for what breaks stand between."""
    await connection.create()
    assert "lala" not in text_of(await read_all(run(connection, "lalala", dry_multiplier=100)))
    broken = run(connection, "lalala", dry_multiplier=100, dry_sequence_breakers=["a", "l"])
    assert text_of(await read_all(broken)) == "lalala"


async def test_bad_words(connection: Connection) -> None:
    """The last token of a bad word is not chosen behind the ones before it."""
    await connection.create()
    assert "la" not in text_of(await read_all(run(connection, "a", bad_words=["la"])))
    text = text_of(await read_all(run(connection, "ab", bad_words=["ba"])))
    assert "ba" not in text


async def test_least_tokens_and_stop_tokens(connection: Connection) -> None:
    """A stop token ends the text as end-of-text does, gives no text itself, and does not come before `min_tokens`."""
    await connection.create()
    stop = [ord("l")]
    events = await read_all(run(connection, "la", stop_token_ids=stop))
    assert text_of(events) == ""
    assert events[-1].finished.reason == tp.FINISH_REASON_END_OF_TEXT
    assert events[-1].finished.usage.output_tokens == 1
    events = await read_all(run(connection, "la", stop_token_ids=stop, min_tokens=4))
    assert events[-1].finished.usage.output_tokens >= 4
    assert "l" not in text_of(events)


async def test_samples(connection: Connection) -> None:
    """Several samples of a prompt come marked, each with its own text, its probabilities and why it ended."""
    await connection.create()
    told = await outputs(connection, n=3, logprobs=1, temperature=50, seed=4)
    by_sample = {number: [o for o in told if o.sample == number] for number in range(3)}
    for mine in by_sample.values():
        assert sum(len(output.token_ids) for output in mine) == 6
        assert [each.token_id for o in mine for each in o.logprobs] == [i for o in mine for i in o.token_ids]
        assert [o.finish_reason for o in mine][-1] == tp.FINISH_REASON_MAX_TOKENS
        assert not any(o.finish_reason for o in mine[:-1])
    assert len({tuple(i for o in mine for i in o.token_ids) for mine in by_sample.values()}) == 3


async def test_nothing_left(connection: Connection) -> None:
    """A task that forbids every token that it allows fails with the cause, and its neighbours do not notice."""
    await connection.create()
    beside = run(connection, max_tokens=50)
    grammar = sp.Grammar(choice=sp.Choice(texts=["no"]))
    _, error = await read_failing(run(connection, grammar=grammar, bad_words=["no"]))
    assert reason_of(error)[0] == "BACKEND_FAILED"
    assert "bad words" in str(error.details())
    assert text_of(await read_all(beside)) == "la" * 25


async def test_the_least_repetition_penalty(connection: Connection) -> None:
    """The least that is allowed is taken as it is written, and the logits that it makes are finite."""
    await connection.create()
    assert await outputs(connection, repetition_penalty=0.01)
