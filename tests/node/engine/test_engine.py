"""The engine as callers see it: right tokens, honest bills, nobody waits for ever, nothing leaks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from node.engine import runner
from node.engine.config import EngineConfig
from node.engine.engine import Engine
from node.engine.errors import EngineError, EngineStopped, Overloaded, RequestRefused
from node.engine.handle import Handle
from node.engine.lora import AdapterFile
from node.engine.requests import Chunk, Generation, GrammarSpec, Usage
from node.engine.sampling import SamplingParams
from node.engine.sequence import Finish
from tests.node.engine.rows import Clock
from tests.node.tiny_models import save_tiny, tokenizer

SMALL = EngineConfig(
    dtype="fp32",
    device="cpu",
    threads=1,
    block_tokens=4,
    cache_tokens=512,
    max_running=8,
    chunk_tokens=32,
    max_waiting=16,
)
PROMPT = tuple(tokenizer()("what is my balance, please open an account")["input_ids"])
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), initializer_range=0.3)


@pytest.fixture
def make(base: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def engine(clock: Callable[[], float] | None = None, **limits: Any) -> Engine:
        more = {} if clock is None else {"clock": clock}
        made.append(Engine(base, replace(SMALL, **limits), entropy=iter(range(1_000)).__next__, **more))
        made[-1].add_model("m")
        return made[-1]

    yield engine
    for one in made:
        one.close()
        check(one)


def check(engine: Engine) -> None:
    """No page, request or adapter is left over."""
    scheduler = engine._loop.scheduler
    scheduler.blocks.check_integrity()
    assert scheduler.blocks.used == 0
    assert not scheduler.running
    assert not scheduler.waiting
    assert not engine._open
    assert not engine._loop._answers
    assert not engine._loop._open


def finish(engine: Engine, *handles: Handle) -> list[list[Chunk]]:
    """Every step until nothing is left; the chunks of each handle."""
    for _ in range(5_000):
        if not engine.step():
            return [handle.take() for handle in handles]
    raise AssertionError("the engine does not come to an end")


def run(engine: Engine, *requests: Generation) -> list[list[Chunk]]:
    return finish(engine, *[engine.submit(request) for request in requests])


def error_of(handle: Handle) -> EngineError:
    """What ended a request, after the chunks that it got."""
    with pytest.raises(EngineError) as raised:
        for _ in range(2):
            handle.take()
    return raised.value


def tokens_of(chunks: list[Chunk], index: int = 0) -> list[int]:
    return [token for chunk in chunks if chunk.index == index for token in chunk.tokens]


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


def ask(sampling: SamplingParams = GREEDY, prompt: tuple[int, ...] = PROMPT, **more: Any) -> Generation:
    return Generation("m", prompt, sampling, **more)


def expected(base: Path, prompt: tuple[int, ...], count: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made = model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=count, eos_token_id=None, pad_token_id=0
    )
    return list(made[0, len(prompt) :].tolist())


def test_greedy_tokens_are_those_of_generate_alone_and_together(make: Callable[..., Engine], base: Path) -> None:
    prompts = [PROMPT, PROMPT[:3], PROMPT[2:], PROMPT * 3, (*PROMPT[:3], 77)]
    wanted = [expected(base, prompt, 12) for prompt in prompts]
    engine = make()
    for found, right in zip(run(engine, *[ask(prompt=prompt) for prompt in prompts]), wanted, strict=True):
        assert tokens_of(found) == right
        assert found[-1].finish is Finish.LENGTH
        assert text_of(found) == tokenizer().decode(right, skip_special_tokens=True)
    [again] = run(engine, ask())
    assert tokens_of(again) == wanted[0]
    assert again[-1].usage == Usage(len(PROMPT), (len(PROMPT) - 1) // 4 * 4, 12)


def test_a_seed_repeats_itself_in_any_company_and_after_preemption(make: Callable[..., Engine]) -> None:
    seeded = ask(SamplingParams(max_tokens=30, seed=7, top_p=0.9, ignore_eos=True), n=2)
    [alone] = run(make(), seeded)
    others = [ask(SamplingParams(max_tokens=40, temperature=1.3, ignore_eos=True), PROMPT[i:]) for i in range(5)]
    roomy = run(make(), others[0], seeded, *others[1:])[1]
    narrow_engine = make(cache_tokens=72)
    narrow = run(narrow_engine, *others[:2], seeded)[-1]
    assert narrow_engine.statistics().num_preemptions > 0
    for index in (0, 1):
        assert tokens_of(alone, index) == tokens_of(roomy, index) == tokens_of(narrow, index)
    assert tokens_of(alone, 0) != tokens_of(alone, 1)
    [other] = run(make(), ask(replace(seeded.sampling, seed=8)))
    assert tokens_of(other) != tokens_of(alone, 0)


def test_answers_to_one_prompt_share_its_pages_and_one_bill(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    real, worked = engine._runner.run, []

    def counting(step: Any) -> torch.Tensor:
        worked.extend(piece.count for piece in step.pieces)
        return real(step)

    monkeypatch.setattr(engine._runner, "run", counting)
    prompt = (*PROMPT * 4, 5)  # ends in a part of a page
    handle = engine.submit(ask(n=4, prompt=prompt))
    blocks = engine._loop.scheduler.blocks
    while len(engine._loop.scheduler.running) < 4:
        assert engine.step()
    prompt_blocks = blocks.blocks_for(len(prompt))
    assert blocks.used <= prompt_blocks + 4 * 2
    [chunks] = finish(engine, handle)
    assert {tuple(tokens_of(chunks, index)) for index in range(4)} == {tuple(tokens_of(chunks))}
    assert sum(worked) == len(prompt) + 4 * 11  # the prompt once, every token but the last of each answer once
    bills = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert bills == [Usage(len(prompt), 0, 48)]
    assert chunks[-1].usage is not None
    assert engine.statistics().prompt_tokens_total == len(prompt)


def test_stop_strings_and_stop_tokens_end_an_answer(make: Callable[..., Engine]) -> None:
    engine = make()
    [plain] = run(engine, ask())
    text, tokens = text_of(plain), tokens_of(plain)
    stop = text[3:6]
    [stopped] = run(engine, ask(replace(GREEDY, stop=(stop,))))
    assert text_of(stopped) == text[: text.index(stop)]
    assert (stopped[-1].finish, stopped[-1].stop_reason) == (Finish.STOP, stop)
    [by_token] = run(engine, ask(replace(GREEDY, stop_token_ids=frozenset({tokens[4]}))))
    assert tokens_of(by_token) == tokens[: tokens.index(tokens[4]) + 1]
    assert by_token[-1].stop_reason == tokens[4]
    [ended] = run(engine, ask(SamplingParams(max_tokens=9, logit_bias={1: 100})))
    assert (tokens_of(ended), text_of(ended)) == ([1], "")
    assert (ended[-1].finish, ended[-1].stop_reason) == (Finish.STOP, None)


def test_an_answer_ends_where_the_context_does(make: Callable[..., Engine]) -> None:
    engine = make(max_context=40)
    assert engine.context == 40
    [chunks] = run(engine, ask(replace(GREEDY, max_tokens=1_000)))
    assert len(tokens_of(chunks)) == 40 - len(PROMPT)
    assert chunks[-1].finish is Finish.LENGTH


def test_logprobs_are_those_of_the_model(make: Callable[..., Engine], base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    sampling = SamplingParams(max_tokens=5, temperature=0.5, seed=1, logprobs=3, prompt_logprobs=True, ignore_eos=True)
    [chunks] = run(make(chunk_tokens=9, max_running=2), ask(sampling, n=2))
    for index in (0, 1):
        made = tokens_of(chunks, index)
        with torch.no_grad():
            right = model(torch.tensor([[*PROMPT, *made]])).logits[0].log_softmax(-1)
        own = [chunk for chunk in chunks if chunk.index == index]
        found = [*own[0].prompt_logprobs, *(one for chunk in own for one in chunk.logprobs)]
        assert [one.token for one in found] == [*PROMPT[1:], *made]
        for place, one in enumerate(found):
            assert one.logprob == pytest.approx(float(right[place, one.token]), abs=1e-4)
            best = right[place].topk(3)
            assert [other.token for other in one.top] == best.indices.tolist()
        assert all(not chunk.prompt_logprobs for chunk in own[1:])


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"account": {"enum": ["balance", "is open"]}},
        "required": ["account"],
        "additionalProperties": False,
    }
)


def test_a_grammar_is_followed_and_what_it_forces_takes_no_steps(make: Callable[..., Engine]) -> None:
    engine = make()
    sampling = SamplingParams(max_tokens=60, seed=3)
    handles = [engine.submit(ask(sampling, n=2, grammar=GrammarSpec("json_schema", SCHEMA))), engine.submit(ask())]
    steps = 0
    while engine.step():
        steps += 1
    [formed, free] = [handle.take() for handle in handles]
    for index in (0, 1):
        assert json.loads(text_of(formed, index))["account"] in ("balance", "is open")
    assert formed[-1].finish is Finish.STOP
    assert len(tokens_of(free)) == 12
    assert any(len(chunk.tokens) > 3 for chunk in formed)
    assert steps <= 14
    [asked] = run(engine, ask(replace(sampling, logprobs=0), grammar=GrammarSpec("json_schema", SCHEMA)))
    assert all(len(chunk.tokens) == len(chunk.logprobs) == 1 for chunk in asked)
    assert json.loads(text_of(asked))


def test_a_grammar_longer_than_max_tokens_ends_by_length(make: Callable[..., Engine]) -> None:
    [chunks] = run(
        make(), ask(replace(GREEDY, max_tokens=7, ignore_eos=False), grammar=GrammarSpec("regex", "open{200}"))
    )
    assert len(tokens_of(chunks)) == 7
    assert chunks[-1].finish is Finish.LENGTH


def test_penalties_see_prompt_and_output(make: Callable[..., Engine]) -> None:
    sampling = SamplingParams(
        max_tokens=40, temperature=0, presence_penalty=2, frequency_penalty=2, repetition_penalty=90
    )
    [chunks] = run(make(), ask(replace(sampling, ignore_eos=True)))
    made = tokens_of(chunks)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (Generation("no such", PROMPT, GREEDY), "model", "no such"),
        (ask(prompt=()), "prompt", "0 tokens"),
        (ask(prompt=(5,) * 200), "prompt", "200 tokens; the context of 128"),
        (ask(prompt=(5, 300)), "prompt", "299"),
        (ask(prompt=(5, -1)), "prompt", "299"),
        (ask(n=0), "n", "0"),
        (ask(n=10**9), "n", "1000000000"),
        (ask(replace(GREEDY, logit_bias={300: 1.0})), "logit_bias", "299"),
        (ask(grammar=GrammarSpec("json_object")), "ignore_eos", "grammar"),
        (ask(replace(GREEDY, ignore_eos=False), grammar=GrammarSpec("regex", "[")), "response_format", "regex"),
    ],
)
def test_the_impossible_is_refused_with_the_numbers(
    make: Callable[..., Engine], request_: Generation, field: str, words: str
) -> None:
    engine = make()
    with pytest.raises(RequestRefused, match=words) as refused:
        engine.submit(request_)
    assert refused.value.field == field
    engine.step()

    async def ask_it() -> None:
        with pytest.raises(RequestRefused):
            async for _ in engine.generate(request_):
                pass

    asyncio.run(ask_it())
    engine.step()
    check(engine)


def test_what_the_pool_cannot_hold_is_no_part_of_the_context(make: Callable[..., Engine]) -> None:
    engine = make(cache_tokens=32)
    assert engine.context == 32
    [chunks] = run(engine, ask(replace(GREEDY, max_tokens=500)))
    assert len(tokens_of(chunks)) == 32 - len(PROMPT)


def test_too_many_and_too_long_waiting_are_told(make: Callable[..., Engine]) -> None:
    clock = Clock()
    engine = make(clock, max_running=1, max_waiting=2, chunk_tokens=16, max_wait_s=10)
    first = engine.submit(ask())
    engine.step()
    others = [engine.submit(ask(prompt=PROMPT[i:])) for i in (1, 2)]
    with pytest.raises(Overloaded):
        engine.submit(ask())
    engine.step()
    clock.now = 11
    finish(engine, first)
    for other in others:
        with pytest.raises(Overloaded, match="10 s"):
            other.take()
    assert first.ended
    check(engine)


@pytest.mark.parametrize("when", [0, 1, 3])
def test_leaving_frees_the_pages_before_the_next_step(make: Callable[..., Engine], when: int) -> None:
    engine = make()
    leaver, stayer = engine.submit(ask(n=3)), engine.submit(ask(prompt=PROMPT[1:]))
    for _ in range(when):
        engine.step()
    engine.cancel(leaver)
    engine.step()
    assert {row.prompt for row in engine._loop.scheduler.running} == {PROMPT[1:]}
    engine._loop.scheduler.blocks.check_integrity()
    [chunks] = finish(engine, stayer)
    assert len(tokens_of(chunks)) == 12
    check(engine)


def test_a_failed_step_ends_its_requests_and_no_others(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(max_running=2, chunk_tokens=16)
    right = run(engine, ask(prompt=PROMPT[3:]))[0]
    handles = [engine.submit(ask(prompt=PROMPT[i:])) for i in range(4)]
    engine.step()
    running = {row.prompt for row in engine._loop.scheduler.running}
    real = engine._runner.run

    def broken(step: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine._runner, "run", broken)
    engine.step()
    monkeypatch.setattr(engine._runner, "run", real)
    finish(engine)
    assert "out of memory" in caplog.text
    for i, handle in enumerate(handles):
        if PROMPT[i:] in running:
            assert "out of memory" in error_of(handle).message
        else:
            assert len(tokens_of(handle.take())) == 12
    assert tokens_of(run(engine, ask(prompt=PROMPT[3:]))[0]) == tokens_of(right)
    assert engine.statistics().request_success_total["error"] == len(running)


def test_broken_numbers_end_one_request_alone(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    bad, good = engine.submit(ask(n=2)), engine.submit(ask(prompt=PROMPT[1:]))
    real = engine._runner.run

    def poisoned(step: Any) -> torch.Tensor:
        logits = real(step).clone()
        wanting = [piece for piece in step.pieces if piece.logits]
        for row, piece in enumerate(wanting):
            if piece.sequence.prompt == PROMPT and len(piece.sequence.output) == 2:
                logits[row] = float("nan")
        return logits

    monkeypatch.setattr(engine._runner, "run", poisoned)
    [chunks] = finish(engine, good)
    assert len(tokens_of(chunks)) == 12
    assert "not finite" in error_of(bad).message
    check(engine)


def test_a_bug_in_the_schedule_hangs_nobody(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    handle = engine.submit(ask())
    engine.step()

    def broken() -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(engine._loop.scheduler, "schedule", broken)
        engine.step()
    assert "a bug" in error_of(handle).message
    assert len(tokens_of(run(engine, ask())[0])) == 12


def test_an_adapter_that_is_lost_ends_its_requests_and_no_others(make: Callable[..., Engine], tmp_path: Path) -> None:
    engine = make()
    with pytest.raises(EngineError):
        engine.add_model("lost", [AdapterFile("f" * 64, tmp_path / "none.safetensors", 1.0)])
    assert set(engine.models) == {"m"}
    assert engine._files == {}
    with pytest.raises(EngineError, match="no model"):
        engine.remove_model("lost")


# With its own thread and event loops.


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110  what is waited for happens in the engine's thread
            await asyncio.sleep(0)


async def collected(engine: Engine, request: Generation) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(request)]


def test_weights_and_adapters_are_read_in_threads_that_end(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A lasting thread that once ran a parallel operation would keep a team of workers beside the engine's."""
    readers: list[threading.Thread] = []
    weights, load = runner.read_weights, runner.Runner.load_adapter

    def read_weights(*given: Any) -> Any:
        readers.append(threading.current_thread())
        return weights(*given)

    def load_adapter(self: runner.Runner, adapter: AdapterFile) -> None:
        readers.append(threading.current_thread())
        load(self, adapter)

    monkeypatch.setattr(runner, "read_weights", read_weights)
    monkeypatch.setattr(runner.Runner, "load_adapter", load_adapter)
    engine = make()
    with pytest.raises(EngineError, match="cannot be read"):
        engine.add_model("lost", [AdapterFile("lost", tmp_path / "lost.safetensors", 1.0)])
    assert len(readers) == 2
    assert not any(thread.is_alive() for thread in readers)


def test_many_readers_of_a_running_engine_get_what_they_get_alone(make: Callable[..., Engine]) -> None:
    requests = [ask(SamplingParams(max_tokens=10 + i, seed=i, ignore_eos=True), PROMPT[i % 5 :]) for i in range(20)]
    alone = [tokens_of(run(make(), request)[0]) for request in requests]
    engine = make(max_waiting=64)
    engine.start()

    async def all_of(part: list[Generation]) -> list[list[Chunk]]:
        return await asyncio.wait_for(asyncio.gather(*[collected(engine, one) for one in part]), LIMIT_S)

    halves: dict[int, list[list[Chunk]]] = {}
    threads = [
        threading.Thread(target=lambda i=i: halves.update({i: asyncio.run(all_of(requests[i::2]))})) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    for i, half in halves.items():
        assert [tokens_of(chunks) for chunks in half] == alone[i::2]
    assert len(halves) == 2


@pytest.mark.parametrize("how", ["aclose", "cancel", "raise"])
def test_a_reader_that_leaves_frees_its_pages(make: Callable[..., Engine], how: str) -> None:
    engine = make()
    engine.start()
    long = ask(SamplingParams(max_tokens=100, ignore_eos=True), n=3)

    async def leave() -> None:
        begun = asyncio.Event()

        async def read() -> None:
            async with aclosing(engine.generate(long)) as chunks:
                async for _ in chunks:
                    begun.set()
                    if how == "raise":
                        raise LookupError
                    if how == "aclose":
                        return

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), LIMIT_S)
        if how == "cancel":
            task.cancel()
        await asyncio.wait([task], timeout=LIMIT_S)
        if how == "raise":
            assert isinstance(task.exception(), LookupError)
        assert await asyncio.wait_for(collected(engine, ask()), LIMIT_S)

    asyncio.run(leave())
    engine._wait_until_empty(LIMIT_S)
    check(engine)
    assert engine.statistics().request_success_total["cancelled"] == 3


def test_a_reader_whose_event_loop_is_gone_is_given_up(make: Callable[..., Engine]) -> None:
    engine = make()
    loop = asyncio.new_event_loop()
    handle = engine._opened(Handle(ask(SamplingParams(max_tokens=100, ignore_eos=True)), loop))
    engine._begin(handle, None)
    loop.close()
    finish(engine)
    check(engine)
    assert engine.statistics().request_success_total["cancelled"] == 1


def test_draining_lets_the_running_end_and_takes_no_new_ones(make: Callable[..., Engine]) -> None:
    engine = make()
    engine.start()

    async def drain() -> None:
        begun = asyncio.create_task(collected(engine, ask(SamplingParams(max_tokens=60, ignore_eos=True))))
        await until(lambda: bool(engine._open))
        draining = asyncio.create_task(engine.drain(LIMIT_S))
        await until(lambda: not engine._accepting)
        with pytest.raises(EngineStopped):
            await collected(engine, ask())
        assert len(tokens_of(await begun)) == 60
        await draining

    asyncio.run(drain())


def test_draining_out_of_time_and_closing_tell_everybody(make: Callable[..., Engine]) -> None:
    for end in ("drain", "close"):
        engine = make(max_running=1, chunk_tokens=16)
        engine.start()

        async def leave(engine: Engine = engine, end: str = end) -> None:
            tasks = [asyncio.create_task(collected(engine, ask(replace(GREEDY, max_tokens=100)))) for _ in range(5)]
            await until(lambda: len(engine._open) == 5)
            if end == "drain":
                await engine.drain(0)
            else:
                await asyncio.to_thread(engine.close)
            ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LIMIT_S)
            assert [type(error) for error in ended].count(EngineStopped) >= 4

        asyncio.run(leave())
        if end == "close":
            with pytest.raises(EngineStopped):
                engine.submit(ask())
            with pytest.raises(EngineStopped):
                engine.start()


def test_a_thread_that_dies_leaves_nobody_waiting(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()

    def broken(*_: object) -> None:
        raise MemoryError

    async def read() -> None:
        engine.start()
        task = asyncio.create_task(collected(engine, ask(SamplingParams(max_tokens=100, ignore_eos=True))))
        await until(lambda: engine.statistics().generation_tokens_total > 0)
        with monkeypatch.context() as patch:
            patch.setattr(engine._loop, "step", broken)
            patch.setattr(engine._loop, "cancel_all", broken)
            with pytest.raises(EngineStopped):
                await asyncio.wait_for(task, LIMIT_S)
        with pytest.raises(EngineStopped):
            await collected(engine, ask())

    asyncio.run(read())
    assert not engine._open
    engine._loop.cancel_all(EngineStopped("cleaned up"))


def test_models_come_and_go_while_it_runs(make: Callable[..., Engine]) -> None:
    engine = make()
    engine.start()

    async def change() -> None:
        stream = engine.generate(ask(SamplingParams(max_tokens=80, ignore_eos=True)))
        await anext(stream)
        await asyncio.to_thread(engine.add_model, "other")
        await asyncio.to_thread(engine.remove_model, "m")
        with pytest.raises(RequestRefused):
            await collected(engine, ask())
        assert len([chunk async for chunk in stream]) == 79
        assert await collected(engine, replace(ask(), model="other"))

    asyncio.run(asyncio.wait_for(change(), LIMIT_S))


def test_embeddings_are_the_mean_state_of_length_one(make: Callable[..., Engine], base: Path) -> None:
    engine = make(chunk_tokens=16)
    engine.start()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompts = [PROMPT[:count] for count in (1, 4, 9)]

    async def embed() -> list[list[float]]:
        beside = asyncio.create_task(collected(engine, ask()))
        found = await asyncio.wait_for(engine.embed("m", prompts), LIMIT_S)
        assert len(await beside) == 12
        for wrong in ([], [()], [(300,)], [(1,) * 129], [(1,)] * 3000):
            with pytest.raises(RequestRefused):
                await engine.embed("m", wrong)
        with pytest.raises(RequestRefused):
            await engine.embed("no", prompts)
        return found

    for prompt, vector in zip(prompts, asyncio.run(embed()), strict=True):
        with torch.no_grad():
            state = model.model(torch.tensor([prompt])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(torch.tensor(vector), state / state.norm(), atol=1e-5, rtol=1e-4)


def test_texts_are_embedded_together_as_far_as_a_step_goes(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(chunk_tokens=16)
    prompts = [(PROMPT * 2)[start : start + count] for start, count in enumerate((5, 5, 5, 5, 1, 1, 17, 2, 1))]
    passes: list[list[int]] = []
    means = engine._runner.hidden_means
    monkeypatch.setattr(
        engine._runner, "hidden_means", lambda given, ids: [passes.append(list(map(len, given))), means(given, ids)][1]
    )
    engine.start()

    async def embed(*groups: list[tuple[int, ...]]) -> list[list[float]]:
        found = await asyncio.gather(*(engine.embed("m", group) for group in groups))
        return [vector for vectors in found for vector in vectors]

    together = asyncio.run(embed(prompts))
    assert passes == [[5, 5, 5], [5, 1, 1], [17], [2, 1]]
    alone = asyncio.run(embed(*([prompt] for prompt in prompts)))
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), rtol=0, atol=1e-5)


def test_everything_is_counted(make: Callable[..., Engine]) -> None:
    clock = Clock()
    engine = make(clock)
    handle = engine.submit(ask())
    clock.now = 2.0
    for _ in range(12):
        engine.step()
        clock.now += 0.5
    assert handle.ended
    run(engine, ask())
    found = engine.statistics()
    assert found.request_success_total == {"stop": 0, "length": 2, "cancelled": 0, "error": 0}
    assert found.prompt_tokens_total == found.prefix_cache_queries == 2 * len(PROMPT)
    assert found.prefix_cache_hits == (len(PROMPT) - 1) // 4 * 4
    assert found.generation_tokens_total == 24
    assert found.request_queue_time_seconds.sum == 2.0
    assert found.time_to_first_token_seconds.sum == 2.0
    assert found.inter_token_latency_seconds.sum == pytest.approx(5.5)
    assert found.inter_token_latency_seconds.count == 22
    assert found.request_decode_time_seconds.sum == pytest.approx(5.5)
    assert found.e2e_request_latency_seconds.count == 2
    assert (found.num_requests_running, found.num_requests_waiting, found.kv_cache_usage_perc) == (0, 0, 0.0)
