"""Chat templates in the styles that models come with, conversations for them, and oracles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from open_llm_server.core import Message
from open_llm_server.engine.prompts import Segment, TemplateFormat

BOS, EOS = "<s>", "</s>"

CHATML = """
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
LLAMA_2 = """
{%- if messages[0].role == 'system' %}
    {%- set rest = messages[1:] %}{% set system = messages[0].content %}
{%- else %}
    {%- set rest = messages %}{% set system = false %}
{%- endif %}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate: user, assistant, user, ...') }}
    {%- endif %}
    {%- if loop.index0 == 0 and system is not false %}
        {%- set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message.content %}
    {%- else %}
        {%- set content = message.content %}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""
LLAMA_3 = """{% set loop_messages = messages %}{% for message in loop_messages %}
{%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
    + message['content'] | trim + '<|eot_id|>' %}
{%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
MISTRAL = """{{ bos_token }}{% set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = message.content %}{% continue %}
    {%- elif message.role == 'user' %}
        {{- '[INST] ' }}{% if loop.last and ns.system %}{{ ns.system + '\\n\\n' }}{% endif %}
        {{- message.content + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
    {% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
    {% endif %}
{% endfor %}
"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}
{%- for message in messages %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + (message['content'] | trim) + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
FEATURES = """
{%- macro show(message, last=false) %}
    {%- generation %}{{ message | tojson }}{{ '!' if last }}{% endgeneration %}
{%- endmacro %}
{%- if tools is defined and tools %}tools{% endif %}{{ strftime_now('%Y') | length }}
{%- for message in messages if message.content is string %}
    {%- if loop.index > 3 %}{% break %}{% endif %}
    {{- show(message, last=loop.last) }}{{ [message.role] | tojson(indent=2) }}
    {{- dict(a=message.tool_calls is defined) | tojson }}{{ unknown_token }}
{%- endfor %}
{#- a comment -#}
    {% if documents is none %} documents {% endif %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}
"""
CUTTING = """{%- for message in messages %}
    {%- if message.role == 'assistant' and '</think>' in message.content %}
        {{- '<|im_start|>assistant\\n' + message.content.split('</think>')[-1] + '<|im_end|>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}{{ '<|im_start|>assistant\\n' }}"""

TEMPLATES = {
    "chatml": CHATML,
    "llama-2": LLAMA_2,
    "llama-3": LLAMA_3,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
    "gemma": GEMMA,
    "features": FEATURES,
    "cutting": CUTTING,
}
CONTROLS = frozenset(
    {BOS, EOS, "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>"}
    | {"<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"}
    | {"<|user|>", "<|system|>", "<|assistant|>"}
)


def oracle(template: str, messages: Sequence[Message]) -> str:
    """transformers' own rendering."""
    answer: Any = render_jinja_template(
        [[message.model_dump() for message in messages]],
        chat_template=template,
        add_generation_prompt=True,
        bos_token=BOS,
        eos_token=EOS,
    )
    texts, _ = answer
    return str(texts[0])


def controls_in(text: str) -> list[str]:
    return re.findall("|".join(sorted(map(re.escape, CONTROLS), key=len, reverse=True)), text)


def joined(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


async def load(template: str, control_texts: frozenset[str] = CONTROLS) -> TemplateFormat:
    return await TemplateFormat.load(template, bos=BOS, eos=EOS, control_texts=control_texts)


def conversations(contents: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    def turns(texts: list[str], system: str | None) -> list[Message]:
        messages = [
            Message(role="assistant" if place % 2 else "user", content=text)
            for place, text in enumerate(texts)
        ]
        return messages if system is None else [Message(role="system", content=system), *messages]

    return st.builds(turns, st.lists(contents, min_size=1, max_size=5), st.none() | contents)


TEXTS = st.text(max_size=20)
HOSTILE = st.lists(
    st.sampled_from(
        [*sorted(CONTROLS), "<", ">", "|", "im_", "s", "[INST", "]", "start>", " ", "\n", "é", "a"]
    ),
    max_size=5,
).map("".join)
