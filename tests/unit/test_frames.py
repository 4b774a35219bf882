"""What travels between API and runner survives any cutting, and only that is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_llm_server.core import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    InfoRequest,
    Message,
    Request,
    Sampling,
    Usage,
)
from open_llm_server.errors import InvalidField
from open_llm_server.frames import (
    Alive,
    BrokenFrame,
    Call,
    Delta,
    Embeddings,
    End,
    Failure,
    Frame,
    FrameDecoder,
    Info,
    Queued,
    Start,
    TokenScore,
    decode_call,
    encode,
    encode_call,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LOGPROB = st.floats(-100, 0)
LEAF = st.builds(TokenScore, st.integers(0, 2**31), st.binary(max_size=8), st.none() | LOGPROB)
SCORE = st.builds(
    TokenScore,
    st.integers(0, 2**31),
    st.binary(max_size=8),
    st.none() | LOGPROB,
    st.lists(LEAF, max_size=3).map(tuple),
)
FRAME: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        Delta,
        st.integers(0, 128),
        TEXT,
        st.integers(0, 99),
        st.lists(SCORE, max_size=3).map(tuple),
        st.sampled_from([None, "stop", "length"]),
    ),
    st.just(Alive()),
    st.builds(Queued, st.integers(1, 99), st.none() | st.floats(0, 1e6)),
    st.builds(Start, st.integers(0, 1 << 20)),
    st.builds(
        End,
        st.builds(Usage, prompt_tokens=st.integers(0, 99), completion_tokens=st.integers(0, 99)),
        st.dictionaries(TEXT, st.floats(0, 1e3), max_size=3),
        st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3),
    ),
    st.builds(
        Embeddings,
        st.lists(st.lists(st.floats(-1, 1), max_size=3).map(tuple), max_size=3).map(tuple),
        st.integers(1, 9),
        TEXT,
        TEXT,
    ),
    st.builds(Info, st.dictionaries(TEXT, TEXT, max_size=3)),
    st.builds(Failure, st.dictionaries(TEXT, TEXT, max_size=3)),
)


@given(st.lists(FRAME, max_size=6), st.data())
def test_frames_survive_any_cutting(frames: list[Frame], data: st.DataObject) -> None:
    wire = "".join(map(encode, frames)).encode("ascii")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    decoder = FrameDecoder()
    received: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        received.extend(decoder.push(wire[start:end]))
    assert received == frames


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[]\n", b"nonsense\n", b'{"delta":{}}\n', b'{"unheard":{}}\n', b'"x"\n']
)
def test_what_is_no_frame_is_refused(line: bytes) -> None:
    with pytest.raises(BrokenFrame):
        list(FrameDecoder().push(line))


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest(
            messages=(Message(role="user", content="hi \U0001f600"),),
            sampling=Sampling(temperature=0.5, stop_sequence=("a", "b"), seed=-1),
            n=2,
            logprobs=0,
        ),
        CompletionRequest(prompts=("text", (1, 2, 3)), echo=True, logprobs=5),
        EmbedRequest(inputs=((7,), "seven")),
        InfoRequest(),
    ],
)
def test_calls_come_back_as_they_were(request_: Request) -> None:
    call = Call.of(request_, id="req-1", caller="k", deadline_s=1.5)
    assert decode_call(encode_call(call)) == call


@pytest.mark.parametrize(
    "text",
    [
        *("not JSON", "", "3", "[]", "{}", '{"op":"sing","id":"1"}', '{"op":[],"id":"1"}'),
        *('{"op":"chat","id":"1"}', '{"op":"info"}', '{"op":"info","id":"1","more":1}'),
        *('{"op":"embed","id":"1","request":3}', "[" * 100_000),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_call_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="no call") as refused:
        decode_call(text)
    assert refused.value.param == "call"
