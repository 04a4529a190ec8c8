"""Syntaxes whose calls have a tag for each argument, and those whose answers are messages with recipients."""

from __future__ import annotations

from workers.calls.channels import Channels
from workers.calls.syntax import Form, Syntax, Thoughts
from workers.calls.tagged_calls import NestedTags, Tags

_THINK = Thoughts("<think>", "</think>")
_DSML = "｜DSML｜"
_NEXT = "]<]minimax[>["


def _form(tags: Tags, begin: str = "", end: str = "", *, line: str = "\n", kinds: tuple[str, str] = ("", "")) -> Form:
    """`kinds` are the attributes that tell a string, and any other value. Where the name is an attribute its quotation
    mark ends it."""
    quote = '"' if tags.before_name.endswith('"') else ""
    return Form(
        tags.before_name,
        f"{quote}{tags.tag_end}{line}",
        f"{tags.end}{line}",
        begin,
        end,
        "",
        "tagged",
        tags.before_key,
        f"{tags.after_key}{kinds[0]}{tags.before_value}",
        f"{tags.after_key}{kinds[1]}{tags.before_value}",
        f"{tags.after_value}{line}",
    )


def _dsml(name: str, section: str) -> Syntax:
    begin, end = f"<{_DSML}{section}>", f"</{_DSML}{section}>"
    tags = Tags(
        before_name=f'<{_DSML}invoke name="',
        tag_end=">",
        before_key=f'<{_DSML}parameter name="',
        after_key='"',
        before_value=">",
        after_value=f"</{_DSML}parameter>",
        end=f"</{_DSML}invoke>",
        section_ends=(end,),
    )
    form = _form(tags, begin + "\n", end, kinds=(' string="true"', ' string="false"'))
    return Syntax(name, tags, (begin,), form, calls_end_thoughts=True, thoughts=_THINK)


def _glm(name: str, suffix: str = "") -> Syntax:
    """`suffix` stands in every mark of Hunyuan 3, whose calls are in a section."""
    start = f"<tool_call{suffix}>"
    tags = Tags(
        before_key=f"<arg_key{suffix}>",
        after_key=f"</arg_key{suffix}>",
        before_value=f"<arg_value{suffix}>",
        after_value=f"</arg_value{suffix}>",
        end=f"</tool_call{suffix}>",
        begins=start if suffix else "",
        section_ends=(f"</tool_calls{suffix}>",) if suffix else (),
        ignored=(f"<tool_sep{suffix}>",) if suffix else (),
    )
    form = Form(
        start,
        f"<tool_sep{suffix}>\n" if suffix else "\n",
        tags.end,
        f"<tool_calls{suffix}>\n" if suffix else "",
        f"\n</tool_calls{suffix}>" if suffix else "",
        "\n",
        "tagged",
        tags.before_key,
        f"{tags.after_key}\n{tags.before_value}",
        f"{tags.after_key}\n{tags.before_value}",
        f"{tags.after_value}\n",
    )
    return Syntax(
        name,
        tags,
        (start, f"<tool_calls{suffix}>") if suffix else (start,),
        form,
        ignored=("<|role_end|>", "</assistant>"),
        calls_end_thoughts=True,
        thoughts=Thoughts(f"<think{suffix}>", f"</think{suffix}>"),
    )


_SEED = Tags(
    before_name="<function=",
    tag_end=">",
    before_key="<parameter=",
    after_key=">",
    after_value="</parameter>",
    end="</function>",
    section_ends=("</seed:tool_call>",),
)
_MINIMAX_M2 = Tags(
    before_name='<invoke name="',
    tag_end=">",
    before_key='<parameter name="',
    after_key='"',
    before_value=">",
    after_value="</parameter>",
    end="</invoke>",
    section_ends=("</minimax:tool_call>",),
)
_MINICPM = Tags(
    before_name='<function name="',
    tag_end=">",
    before_key='<param name="',
    after_key='"',
    before_value=">",
    after_value="</param>",
    end="</function>",
    cdata=True,
)
_KIMI_K3 = Tags(
    before_name='<|open|>call tool="',
    tag_end="<|sep|>",
    before_key='<|open|>argument key="',
    after_key='"',
    before_value="<|sep|>",
    after_value="<|close|>argument<|sep|>",
    end="<|close|>call<|sep|>",
    section_ends=("<|close|>tools<|sep|>",),
)
_ATEM = Tags(
    before_name='<atem:invoke name="',
    tag_end=">",
    before_key='<atem:parameter name="',
    after_key='"',
    before_value=">",
    after_value="</atem:parameter>",
    end="</atem:invoke>",
    section_ends=("</atem:function_calls>",),
)
_GPT_OSS = Channels(("<|end|>", "<|call|>", "<|return|>"), ("user", "assistant"))
_MUSE = Channels(("<|eom|>", "<|eot|>"), ("user",), _ATEM)

TAGGED = (
    Syntax(
        "seed-oss",
        _SEED,
        ("<seed:tool_call>",),
        _form(_SEED, "<seed:tool_call>\n", "</seed:tool_call>"),
        thoughts=Thoughts("<seed:think>", "</seed:think>"),
    ),
    _glm("glm"),
    _glm("hunyuan3", ":opensource"),
    Syntax(
        "minimax-m2",
        _MINIMAX_M2,
        ("<minimax:tool_call>",),
        _form(_MINIMAX_M2, "<minimax:tool_call>\n", "</minimax:tool_call>"),
    ),
    Syntax(
        "minimax-m3",
        NestedTags(_NEXT),
        (f"{_NEXT}<tool_call>",),
        Form(
            f'{_NEXT}<invoke name="',
            '">',
            f"{_NEXT}</invoke>\n",
            f"{_NEXT}<tool_call>\n",
            f"{_NEXT}</tool_call>",
            "",
            "nested",
            _NEXT,
        ),
        ignored=("</mm:think>",),
        thoughts=Thoughts("<mm:think>", "</mm:think>"),
    ),
    Syntax("minicpm5", _MINICPM, ('<function name="',), _form(_MINICPM, line="")),
    _dsml("deepseek-v3.2", "function_calls"),
    _dsml("deepseek-v4", "tool_calls"),
    Syntax(
        "kimi-k3",
        _KIMI_K3,
        ("<|open|>tools<|sep|>",),
        Form(
            _KIMI_K3.before_name,
            '" index="1"<|sep|>',
            _KIMI_K3.end,
            "<|open|>tools<|sep|>",
            "<|close|>tools<|sep|>",
            arguments="tagged",
            before_key=_KIMI_K3.before_key,
            before_text='" type="string"<|sep|>',
            before_value='" type="object"<|sep|>',
            after_value=_KIMI_K3.after_value,
        ),
        ignored=(
            "<|open|>response<|sep|>",
            "<|close|>response<|sep|>",
            "<|close|>message<|sep|>",
            "<|end_of_msg|>",
            '<|open|>message role="assistant"<|sep|>',
            "<|close|>think<|sep|>",
        ),
        thoughts=Thoughts("<|open|>think<|sep|>", "<|close|>think<|sep|>", ("<|open|>response<|sep|>",), anywhere=True),
        calls_end_thoughts=True,
    ),
    Syntax(
        "gpt-oss",
        _GPT_OSS,
        ("<|channel|>", "<|start|>"),
        Form("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", ""),
        ignored=_GPT_OSS.ends,
        thoughts=Thoughts(
            "<|channel|>analysis<|message|>",
            "<|end|>",
            anywhere=True,
            answer="<|start|>assistant<|channel|>final<|message|>",
        ),
        whole=_GPT_OSS,
        behind_thought="<|start|>assistant",
    ),
    Syntax(
        "muse",
        _MUSE,
        ("<|start|>",),
        ignored=_MUSE.ends,
        thoughts=Thoughts(
            " to=self<|message|>", "<|eom|>", anywhere=True, answer="<|start|>assistant to=user<|message|>"
        ),
        whole=_MUSE,
    ),
)
