"""A host with the fake engine: calls in, frames out, nothing of BentoML or HTTP between."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from hosting import FEW, SETTINGS, ask, chat, end, endless_engine, failure, hosting, text

from open_llm_server.core import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    InfoRequest,
    Message,
    Request,
    Sampling,
)
from open_llm_server.engine.fake import FakeEngine
from open_llm_server.frames import Call, Delta, Embeddings, Failure, Info, Start, encode_call
from open_llm_server.prompting import with_preprompt


async def test_a_chat_is_answered_and_accounted_for() -> None:
    async with hosting() as host:
        frames = await ask(host, chat("Hello"))
    assert frames[0] == Start(prompt_tokens=len("U: Hello\nA:"))
    assert len(text(frames).split()) == 6
    assert end(frames).usage.prompt_tokens == len("U: Hello\nA:")
    assert end(frames).usage.completion_tokens == 6
    assert set(end(frames).timings) == {"queued_s", "prompt_s", "generate_s"}


async def test_the_configuration_is_what_was_used_and_repeats_the_answer() -> None:
    async with hosting() as host:
        sampling = Sampling(temperature=0.5, max_tokens=3)
        used = end(await ask(host, chat("Hello", sampling=sampling))).configuration
    assert used["temperature"] == 0.5
    assert used["max_tokens"] == 3
    assert used["top_p"] == 1.0
    assert isinstance(used["seed"], int)


async def test_choices_and_prompts_are_numbered() -> None:
    async with hosting() as host:
        frames = await ask(host, CompletionRequest(prompts=("one", "two", (65, 66)), n=2))
        alone = await ask(host, CompletionRequest(prompts=("two",)))
    assert text(frames, 2) == text(frames, 3) == text(alone)
    last = {f.index: f.reason for f in frames if isinstance(f, Delta) and f.reason}
    assert last == dict.fromkeys(range(6), "length")
    assert end(frames).usage.prompt_tokens == 3 + 3 + 2


async def test_echo_gives_the_prompt_back_with_scores() -> None:
    async with hosting() as host:
        request = CompletionRequest(
            prompts=("abc",), echo=True, logprobs=1, sampling=Sampling(max_tokens=2)
        )
        frames = await ask(host, request)
        scored = await ask(host, request.model_copy(update={"sampling": Sampling(max_tokens=0)}))
    assert text(frames).startswith("abc ")
    scores = [score for f in frames if isinstance(f, Delta) for score in f.scores]
    assert b"".join(score.raw for score in scores).decode() == text(frames)
    assert [score.logprob is None for score in scores] == [True, False, False, False, False]
    assert text(scored) == "abc"
    assert end(scored).usage.completion_tokens == 0


async def test_echo_scores_a_prompt_of_one_token() -> None:
    async with hosting() as host:
        request = CompletionRequest(
            prompts=("a",), echo=True, logprobs=0, sampling=Sampling(max_tokens=1)
        )
        frames = await ask(host, request)
    scores = [score for f in frames if isinstance(f, Delta) for score in f.scores]
    assert [(score.text, score.logprob is None) for score in scores[:1]] == [("a", True)]
    assert len(scores) == 2


async def test_echo_of_token_ids_spells_them() -> None:
    async with hosting() as host:
        frames = await ask(host, CompletionRequest(prompts=((104, 105),), echo=True))
    assert text(frames).startswith("hi ")


async def test_embeddings() -> None:
    engine = FakeEngine(context_length=256)
    async with hosting(engine) as host:
        frames = await ask(host, EmbedRequest(inputs=("abc", (97, 98, 99), "other")))
    (vectors,) = [frame for frame in frames if isinstance(frame, Embeddings)]
    assert vectors.vectors[0] == vectors.vectors[1] != vectors.vectors[2]
    assert vectors.dimension == len(vectors.vectors[0])
    assert vectors.model == "m"
    assert end(frames).usage.prompt_tokens == 3 + 3 + 5


async def test_a_prompt_over_the_context_is_refused_with_both_numbers() -> None:
    async with hosting() as host:
        for request in (chat("x" * 300), CompletionRequest(prompts=("x" * 256,))):
            error = failure(await ask(host, request))
            assert error["code"] == "context_length_exceeded"
            assert error["extra"]["n_ctx"] == 256
            assert error["extra"]["n_prompt_tokens"] >= 256
        fits = await ask(host, CompletionRequest(prompts=("x" * 255,)))
        assert end(fits).usage.completion_tokens == 1


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (CompletionRequest(prompts=("fine", (1, 10**6))), "prompt.1.1"),
        (CompletionRequest(prompts=("",)), "prompt.0"),
        (EmbedRequest(inputs=("fine", "")), "input.1"),
    ],
)
async def test_what_has_no_tokens_is_refused_by_name(request_: Request, param: str) -> None:
    async with hosting() as host:
        error = failure(await ask(host, request_))
    assert error["code"] == "invalid_value"
    assert error["param"] == param


async def test_the_preprompt_comes_first_in_both_kinds() -> None:
    async with hosting(settings=replace(SETTINGS, prompt="Be brief.")) as host, hosting() as plain:
        assert text(await ask(host, chat("Hi"))) == text(
            await ask(
                plain,
                ChatRequest(
                    messages=(
                        Message(role="system", content="Be brief."),
                        Message(role="user", content="Hi"),
                    )
                ),
            )
        )
        assert text(await ask(host, CompletionRequest(prompts=("Hi",)))) == text(
            await ask(plain, CompletionRequest(prompts=("Be brief.Hi",)))
        )


def test_the_preprompt_joins_a_system_message() -> None:
    system = Message(role="system", content="own")
    user = Message(role="user", content="hi")
    assert [m.content for m in with_preprompt([system, user], "pre")] == ["pre\n\nown", "hi"]
    assert [m.content for m in with_preprompt([user], "pre")] == ["pre", "hi"]
    assert with_preprompt([user], None) == [user]


async def test_stop_texts_of_the_card_end_chats_only() -> None:
    async with hosting() as host:
        whole = text(await ask(host, chat("Hello")))
    stop = whole.split()[2]
    async with hosting(stop=(stop,)) as host:
        assert text(await ask(host, chat("Hello"))) == whole[: whole.index(stop)]
        prompt = CompletionRequest(prompts=("U: Hello\nA:",))
        assert text(await ask(host, prompt)) == whole


async def test_closing_the_stream_frees_the_slot() -> None:
    engine = endless_engine()
    async with hosting(engine, SETTINGS) as host:
        call = Call.of(chat("Hi", sampling=Sampling(max_tokens=90_000)), id="r")
        async with aclosing(host.serve(encode_call(call))) as lines:
            async for line in lines:
                if '"delta"' in line:
                    break
        assert text(await ask(host, chat("next")))


async def test_a_deadline_is_an_error_frame() -> None:
    engine = endless_engine()
    async with hosting(engine) as host:
        request = chat("Hi", sampling=Sampling(max_tokens=90_000))
        error = failure(await ask(host, request, deadline_s=0.05))
    assert error["code"] == "deadline_exceeded"


async def test_a_full_queue_is_an_error_frame_with_a_waiting_time() -> None:
    engine = endless_engine()
    async with hosting(engine) as host:
        request = chat("Hi", sampling=Sampling(max_tokens=90_000))
        call = encode_call(Call.of(request, id="r"))
        streams = [host.serve(call) for _ in range(9)]
        for stream in streams:
            first = await anext(stream)
            assert '"start"' in first or '"queued"' in first
        error = failure(await ask(host, request))
        assert error["code"] == "queue_full"
        assert error["retry_after"] >= 1
        for stream in streams:
            await stream.aclose()
        # Whoever leaves is gone at the next step, not before this line.
        while isinstance((last := await ask(host, chat("after", sampling=FEW)))[-1], Failure):
            assert last[-1].error["code"] == "queue_full"
        assert text(last)


async def test_a_deadline_of_several_choices_ends_one_request_only() -> None:
    async with hosting(endless_engine()) as host:
        endless = chat("Hi", sampling=Sampling(max_tokens=90_000), n=3)
        error = failure(await ask(host, endless, deadline_s=0.05))
        assert error["code"] == "deadline_exceeded"
        assert text(await ask(host, chat("next", sampling=FEW)))


async def test_more_choices_than_there_are_places_is_the_callers_fault() -> None:
    async with hosting() as host:
        error = failure(await ask(host, chat("Hi", n=100)))
    assert (error["code"], error["param"]) == ("invalid_value", "n")


async def test_an_echo_leaves_the_operators_words_out() -> None:
    async with hosting(settings=replace(SETTINGS, prompt="SECRET ")) as host:
        for prompt in ("hi", (104, 105)):
            request = CompletionRequest(
                prompts=(prompt,), echo=True, logprobs=0, sampling=Sampling(max_tokens=1)
            )
            frames = await ask(host, request)
            scores = [score for f in frames if isinstance(f, Delta) for score in f.scores]
            assert text(frames).startswith("hi ")
            assert b"".join(score.raw for score in scores).decode() == text(frames)
            assert all(score.logprob is not None for score in scores)


async def test_info_tells_limits_queue_and_values() -> None:
    async with hosting() as host:
        await ask(host, chat("Hello"))
        (frame,) = await ask(host, InfoRequest())
    assert isinstance(frame, Info)
    assert frame.facts["ready"] is True
    assert frame.facts["limits"]["context_length"] == 256
    assert frame.facts["queue"] == {"running": 0, "waiting": 0}
    assert frame.facts["counters"]["completion_tokens"] == 6
    assert frame.facts["configuration"]["max_tokens"] == 6


async def test_what_is_no_call_is_an_error_frame() -> None:
    async with hosting() as host:
        lines = [line async for line in host.serve('{"op": "dance"}')]
    assert len(lines) == 1 and '"invalid_value"' in lines[0]


async def test_callers_do_not_share_prefixes() -> None:
    async with hosting() as host:
        request = chat("a prompt that is long enough to be shared")
        await ask(host, request, caller="a")
        again = end(await ask(host, request, caller="a"))
        other = end(await ask(host, request, caller="b"))
    assert again.usage.cached_tokens > 16
    assert other.usage.cached_tokens == 0


async def test_many_calls_at_once() -> None:
    async with hosting() as host:
        alone = [text(await ask(host, chat(str(n) * 9))) for n in range(8)]
        together = await asyncio.gather(*(ask(host, chat(str(n) * 9)) for n in range(8)))
    assert [text(frames) for frames in together] == alone
