"""Messages without content, as those that call tools are: templates get what transformers would give them."""

import json
from typing import Any

import pytest
from shared_templates import reference, render

from inferd.engine.work import ChatInput, Message

LOOKS_FOR_NONE = (
    "{% for m in messages %}{% if m.role=='assistant' and m.content is none %}{{ m.tool_calls[0].function.name }}"
    "{% elif m.content is not none %}[{{ m.content }}]{% endif %}{% endfor %}"
)
# In the manner of DeepSeek-R1 and what is distilled from it.
REASONER = (
    "{% set s = namespace(first=false, tool=false, output=true) %}{{ bos_token }}{%- for m in messages %}"
    "{%- if m['role'] == 'user' %}{%- set s.tool = false -%}{{ '<User>' + m['content'] }}{%- endif %}"
    "{%- if m['role'] == 'assistant' and m['content'] is none %}{%- set s.tool = false -%}"
    "{%- for call in m['tool_calls'] %}{%- if not s.first %}{{ '<Assistant><calls><call>' + call['type'] + '<sep>'"
    " + call['function']['name'] + '\n```json\n' + call['function']['arguments'] + '\n```</call>' }}"
    "{%- set s.first = true -%}{%- else %}{{ '\n<call>' + call['type'] + '<sep>' + call['function']['name']"
    " + '\n```json\n' + call['function']['arguments'] + '\n```</call>' }}{{ '</calls>' + eos_token }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{%- if m['role'] == 'assistant' and m['content'] is not none %}{%- if s.tool %}"
    "{{ '</outputs>' + m['content'] + eos_token }}{%- set s.tool = false -%}{%- else %}{% set said = m['content'] %}"
    "{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{{ '<Assistant>' + said + eos_token }}{%- endif %}{%- endif %}"
    "{%- if m['role'] == 'tool' %}{%- set s.tool = true -%}{{ '<outputs>' if s.output }}"
    "{{ '<output>' + m['content'] + '</output>' }}{%- set s.output = false %}{%- endif %}{%- endfor -%}"
    "{% if s.tool %}{{ '</outputs>' }}{% endif %}{% if add_generation_prompt and not s.tool %}{{ '<Assistant>' }}"
    "{% endif %}"
)
CALLS = "{% for c in m.tool_calls or [] %}<{{ c.function.name }}>{% endfor %}"
WRITES = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + CALLS + "{% endfor %}"
ADDS = "{% for m in messages %}{{ m.role + ': ' + m.content }}" + CALLS + "{% endfor %}"
ASKS = (
    "{% for m in messages %}{% if m.content is defined %}({{ m.content }}){% else %}"
    + CALLS
    + "{% endif %}{% endfor %}"
)
BRANCHES = (
    "{% for m in messages %}{% if m.tool_calls %}{% if m.content is none %}none{% else %}{{ m.content + '+' }}"
    "{% endif %}" + CALLS + "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{% for p in m.content or [] %}{{ p.text if p.type == 'text' }}{% endfor %}"
    + CALLS
    + "{% endfor %}"
)

NAMED = {"type": "function", "id": "a1b2c3d4e", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
TEXT = NAMED | {"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def talk(*calls: dict[str, Any], output: str = "sunny", **more: Any) -> ChatInput:
    """A question, an answer without words, and what the tools said."""
    called = Message("assistant", "", tool_calls_json=json.dumps(calls) if calls else "", **more)
    results = [Message("tool", output, tool_call_id="a1b2c3d4e") for _ in calls]
    return ChatInput((Message("user", "Sun?"), called, *results))


def expected(source: str, *calls: dict[str, Any], output: str = "sunny", **said: Any) -> str:
    """What transformers gives for it, with the content of the answer in `said`."""
    answer = {"role": "assistant", **said} | ({"tool_calls": list(calls)} if calls else {})

    def say(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if source == PARTS else text}

    results = [say("tool", output) | {"tool_call_id": "a1b2c3d4e"} for _ in calls]
    return reference(source, [say("user", "Sun?"), answer, *results])


@pytest.mark.parametrize("calls", [[TEXT], [TEXT, TEXT], [NAMED], [NAMED, TEXT]])
@pytest.mark.parametrize("output", ["sunny", ""])
def test_calls_show_where_a_template_looks_for_none(calls: list[dict[str, Any]], output: str) -> None:
    """Templates that look for content that is none get it, and the text of arguments that they write."""
    written = [TEXT for _ in calls]
    shown = render(LOOKS_FOR_NONE, talk(*calls, output=output))
    assert shown == expected(LOOKS_FOR_NONE, *written, output=output, content=None)
    assert shown == "[Sun?]weather" + f"[{output}]" * len(calls)
    shown = render(REASONER, talk(*calls, output=output))
    assert shown == expected(REASONER, *written, output=output, content=None)
    assert shown.count('weather\n```json\n{"city": "Paris"}') == len(calls)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (WRITES, {"content": ""}),
        (ADDS, {"content": ""}),
        (ASKS, {}),
        (BRANCHES, {"content": None}),
        (PARTS, {"content": None}),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", {"content": ""}),
    ],
    ids=["writes", "adds", "asks", "branches", "parts", "hides"],
)
def test_each_template_gets_the_absence_that_it_can_show(source: str, said: dict[str, Any]) -> None:
    """None where it shows the calls and is not written as a word, else an empty text or nothing at all."""
    shown = render(source, talk(TEXT))
    assert shown == expected(source, TEXT, **said)
    assert "None" not in shown
    assert CALLS not in source or "<weather>" in shown


THINKS = "{% for m in messages %}{{ '<think>' + m.reasoning_content + '</think>' if m.reasoning_content }}WORDS" + CALLS
THINKS += "{% endfor %}"


@pytest.mark.parametrize("calls", [[], [TEXT]])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{{ m.content }}", {"content": ""}),
        ("{{ m.content + '.' }}", {"content": ""}),
        ("{% if m.content is none %}!{% else %}[{{ m.content }}]{% endif %}", {"content": None}),
    ],
)
def test_reasoning_without_words(words: str, said: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    """Reasoning shows, with calls and without, where nothing was said behind it."""
    source = THINKS.replace("WORDS", words)
    shown = render(source, talk(*calls, reasoning_content="because"))
    assert shown == expected(source, *calls, **said, reasoning_content="because", thinking="because")
    assert "<think>because</think>" in shown
    assert "None" not in shown


def test_words_beside_calls_and_empty_words_stay() -> None:
    """Content that is there stays as it is beside calls, and a message that has neither says an empty text."""
    said = Message("assistant", "I look.", tool_calls_json=json.dumps([TEXT]))
    assert render(BRANCHES, ChatInput((Message("user", "Sun?"), said))) == "Sun?I look.+<weather>"
    assert render(LOOKS_FOR_NONE, ChatInput((Message("user", ""), Message("assistant", "")))) == "[][]"


def test_the_real_conversation_decides() -> None:
    """Where a template refuses content that is none at another place than it was tried, it gets an empty text."""
    source = BRANCHES + "{{ messages[3].content + '' if messages | length > 4 }}"
    call = Message("assistant", "", tool_calls_json=json.dumps([TEXT]))
    chat = ChatInput((Message("user", "a"), call, Message("tool", "b"), call, Message("tool", "c")))
    assert render(source, chat) == "a+<weather>b+<weather>c"
