import json

import pytest
from shared_cells import fake_cells, make_cells

from inferd.engine.text.rendering import MAX_CHARACTERS
from inferd.engine.text.template import ChatTemplate
from inferd.engine.work import ChatInput, Message
from inferd.errors import ChatTemplateError, InvalidFieldError
from inferd.testing.fake import VOCABULARY

HELLO = ChatInput((Message("user", "Hello <b>&"), Message("assistant", "Hi")))
ONE = ChatInput(HELLO.messages[1:])


def render(source: str, *, timeout_s: float = 60.0) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>", timeout_s=timeout_s, cells=fake_cells()).render(HELLO)


def test_what_a_template_sees() -> None:
    """Messages with role and content, the two special tokens, and that an answer is to follow; nothing is escaped."""
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}:{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt and tools is none and documents is none and not other %}>{% endif %}"
    )
    assert render(source) == "<s>user:Hello <b>&</s>assistant:Hi</s>>"


def test_white_space_of_blocks() -> None:
    """A block takes its own line with it, indentation too, as in transformers."""
    assert render("a\n    {% if true %}\nb\n    {% endif %}\nc") == "a\nb\nc"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'b': '<ü>', 'a': 1} | tojson }}", '{"b": "<ü>", "a": 1}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{% for n in range(9) %}{% if n == 3 %}{% break %}{% endif %}{{ n }}{% endfor %}", "012"),
        ("{% for n in range(3) %}{% if n == 1 %}{% continue %}{% endif %}{{ n }}{% endfor %}", "02"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "Hi"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ '-' * 3 ~ 2 * 3 }}", "---6"),
    ],
)
def test_extensions_of_transformers(source: str, expected: str) -> None:
    """What transformers adds to jinja2 is there."""
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 9 ** 9 ** 9 }}", "powers"),
        ("{{ 'a' * 99999999 }}", "99999999 is over the limit of 4194304"),
        ("{% set n = namespace(x=3) %}{% for _ in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}", "limit of 1024"),
    ],
)
def test_template_that_fails(source: str, message: str) -> None:
    """A template that refuses, is wrong, reaches out of its sandbox, or computes without end is a typed error."""
    with pytest.raises(ChatTemplateError, match=message):
        render(source)


def test_text_without_end() -> None:
    """A text that grows past its limit is an error that names the limit."""
    source = "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match=f"more than {MAX_CHARACTERS} characters"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(64) }}",
        "{% for a in range(99999) %}{% set x = range(9999) | map('string') | join %}{% endfor %}",
    ],
    ids=["loops", "recursion", "filters"],
)
def test_time_limit(source: str) -> None:
    """A template that does not end is ended: the error names the limit."""
    with pytest.raises(ChatTemplateError, match=r"longer than 0\.1 s") as caught:
        render(source, timeout_s=0.1)
    assert caught.value.metadata["bound"] == "workers.template_timeout_s"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a'.center(1500000000) }}",
        "{{ 'a'.ljust(1500000000) }}",
        "{{ 'a' | center(1500000000) }}",
        "{{ '%1500000000d' % 1 }}",
        "{{ '%1500000000d' | format(1) }}",
        "{{ '{:1500000000}'.format(1) }}",
        "{{ messages | tojson(indent=400000000) }}",
        "{{ 'a' | indent(1500000000, true) }}",
        "{{ ('a' * 4000000).replace('a', 'b' * 4000) }}",
        "{{ ('a' * 4000000).encode('utf-32').hex().encode('utf-32').hex().encode('utf-32').hex() }}",
        "{% set n = namespace(x='a') %}{% for _ in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for _ in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    ],
)
def test_single_operations_without_bounds(source: str) -> None:
    """One operation of a template that takes no end of time or memory is ended at its bound, which the error names."""
    small = make_cells(VOCABULARY, memory_bytes=64 << 20)
    template = ChatTemplate(source, bos="", eos="", timeout_s=5, cells=small)
    with pytest.raises(ChatTemplateError, match=r"workers\.(cell_memory_bytes|template_timeout_s)"):
        template.render(HELLO)
    small.close()


def test_a_killed_cell_is_not_noticed() -> None:
    """When the process that renders is killed between two conversations, the second one is rendered by another."""
    template = ChatTemplate("{{ messages[0].content }}", bos="", eos="", timeout_s=60, cells=fake_cells())
    assert template.render(ONE) == "Hi"
    (cell,) = template._pool._idle
    cell.kill()
    assert template.render(ONE) == "Hi"


def test_rendering_after_one_that_was_ended() -> None:
    """A template that ran out of time for one conversation renders the next one."""
    slow_for_two = ChatTemplate(
        "{% if messages | length > 1 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        "{% endif %}{{ messages[0].content }}",
        bos="",
        eos="",
        timeout_s=1,
        cells=fake_cells(),
    )
    assert slow_for_two.render(ONE) == "Hi"
    with pytest.raises(ChatTemplateError, match="longer"):
        slow_for_two.render(HELLO)
    assert slow_for_two.render(ONE) == "Hi"


def test_tools_reach_the_template() -> None:
    """Tools, calls of tools and their answers are there as transformers hands them over; what is missing is not."""
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    chat = ChatInput(
        (
            Message("user", "?"),
            Message("assistant", "", tool_calls_json=json.dumps([call])),
            Message("tool", "sunny", tool_call_id="c1", name="weather"),
        ),
        tools_json=json.dumps([weather]),
    )
    source = "{{ [messages, tools] | tojson }}"
    messages, tools = json.loads(ChatTemplate(source, bos="", eos="", timeout_s=60, cells=fake_cells()).render(chat))
    assert tools == [weather]
    assert messages == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize("text", ["[", "{}", "[1]", "null", "[" * 100_000])
def test_tools_that_are_no_array_of_objects(text: str) -> None:
    """Tools and calls of tools that are wrong JSON are refused by the name of their field."""
    template = ChatTemplate("x", bos="", eos="", timeout_s=60, cells=fake_cells())
    with pytest.raises(InvalidFieldError) as caught:
        template.render(ChatInput(HELLO.messages, tools_json=text))
    assert caught.value.field == "spec.chat.tools_json"
    called = Message("assistant", "", tool_calls_json=text)
    with pytest.raises(InvalidFieldError) as caught:
        template.render(ChatInput((Message("user", "?"), called)))
    assert caught.value.field == "spec.chat.messages[1].tool_calls_json"
