"""Many sequences at once: whatever else a step holds, every sequence gets the tokens that it gets alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from node.engine.adapter_file import AdapterFile
from node.engine.config import EngineConfig
from node.engine.errors import EngineError
from node.engine.rows import LEAST
from node.engine.runner import Runner
from node.engine.scheduler import Piece, Step
from node.engine.sequence import Finish, Sequence, Status
from tests.node.engine.families import (
    FAMILIES,
    Bench,
    expected,
    load_reference,
    merged,
    prompt,
    save_family,
    write_lora,
)

NEW = 12


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("base"), "llama")


def lora(base: Path, folder: Path, seed: int, **how: object) -> AdapterFile:
    return write_lora(load_reference(base), folder / f"{seed}.safetensors", seed=seed, **how)


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_batch_with_adapters_in_odd_chunks(tmp_path: Path, family: str) -> None:
    """Paths of none, one and two adapters, prompts cut at 7, 14, ..., arrivals in the middle of others' answers."""
    base = save_family(tmp_path / "base", family)
    first = lora(base, tmp_path, 1, ranks=(4, 2, 3))
    second = lora(base, tmp_path, 2, targets=("q_proj", "v_proj", "down_proj"), ranks=(5,))
    bench = Bench(base, chunk_tokens=7, max_running=6)
    for adapter in (first, second):
        bench.runner.load_adapter(adapter)
    paths = [(), (first,), (second,), (first, second), (first,)]
    runs = []
    for seed, path in enumerate(paths):
        runs.append((bench.add(prompt(11 + 3 * seed, seed), NEW, path), path))
        for _ in range(3):
            bench.step()
    bench.run()
    for sequence, path in runs:
        assert sequence.output == expected(merged(base, path), sequence.prompt, NEW)


@pytest.mark.parametrize("family", ["llama", "smollm3", "mistral", "qwen3", "gemma2", "gemma3"])
def test_prefix_hit_gives_the_same_tokens(tmp_path: Path, family: str) -> None:
    base = save_family(tmp_path / "base", family)
    bench = Bench(base)
    whole = bench.add(prompt(30), NEW)
    bench.run()
    longer = bench.add((*prompt(30), *whole.output[:3], 9, 8), NEW)
    bench.run()
    assert longer.cached >= 28
    assert longer.output == expected(load_reference(base), longer.prompt, NEW)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_preempted_sequences_start_again_and_answer_the_same(tmp_path: Path, family: str) -> None:
    base = save_family(tmp_path / "base", family)
    bench = Bench(base, cache_tokens=2 * LEAST, max_running=4)
    runs = [bench.add(prompt(110, seed), 40) for seed in range(4)]
    bench.run()
    assert bench.scheduler.preemptions > 0
    reference = load_reference(base)
    for run in runs:
        assert run.output == expected(reference, run.prompt, 40)


def test_fork_in_the_middle_of_a_block(llama: Path) -> None:
    bench = Bench(llama)
    parent = bench.add(prompt(10), NEW)
    for _ in range(4):
        bench.step()
    child = Sequence(99, (*parent.tokens, 5), parent.namespace, (), NEW)
    bench.scheduler.fork(parent, child)
    bench.run()
    reference = load_reference(llama)
    for sequence in (parent, child):
        assert sequence.output == expected(reference, sequence.prompt, sequence.max_new_tokens)


def test_forced_tokens_and_pauses_leave_rows_right(llama: Path) -> None:
    """Several new tokens at once (a grammar) make a piece of several tokens out of a decoding sequence."""
    bench = Bench(llama)
    runs = [bench.add(prompt(9, seed), 40) for seed in range(3)]
    reference = load_reference(llama)
    while runs[0].status is not Status.FINISHED:
        step = bench.scheduler.schedule()
        assert step is not None
        best = iter(bench.runner.run(step).argmax(-1).tolist())
        new = {piece.sequence: [next(best)] for piece in step.pieces if piece.logits}
        if len(runs[0].output) == 5 and runs[0] in new:
            new[runs[0]] += [3, 4, 5]
        bench.scheduler.done(step, new)
        for sequence in new:
            if len(sequence.output) == sequence.max_new_tokens:
                bench.scheduler.finish(sequence, Finish.LENGTH)
    assert runs[0].output[6:9] == [3, 4, 5]
    assert runs[0].output[9:] == expected(reference, (*runs[0].prompt, *runs[0].output[:9]), 31)
    assert runs[1].output == expected(reference, runs[1].prompt, 40)[: len(runs[1].output)]


def test_growing_past_a_row_and_ending_in_any_order(llama: Path) -> None:
    bench = Bench(llama, cache_tokens=4096)
    lengths = [(LEAST - 10, 30), (3, 5), (LEAST - 2, 20), (40, 12), (LEAST + 60, 9)]
    runs = [bench.add(prompt(length, seed), new) for seed, (length, new) in enumerate(lengths)]
    bench.run()
    reference = load_reference(llama)
    for run in runs:
        assert run.output == expected(reference, run.prompt, run.max_new_tokens)
    assert bench.runner.rows.segments(()) == []
    assert bench.runner.rows.tokens == 0


def test_without_room_for_rows_the_pool_is_read(llama: Path) -> None:
    """Shared prefixes: more sequences fit the pool than rows fit beside it."""
    bench = Bench(llama, cache_tokens=2 * LEAST, max_running=8)
    bench.add(prompt(120), 1)
    bench.run()
    runs = [bench.add((*prompt(120), seed + 2), NEW) for seed in range(5)]
    bench.step()
    assert len(bench.scheduler.running) == 5
    assert bench.runner.rows.tokens <= 2 * LEAST
    bench.run()
    reference = load_reference(llama)
    for run in runs:
        assert run.output == expected(reference, run.prompt, NEW)


def test_block_copies_read_all_before_they_write(llama: Path) -> None:
    runner = Bench(llama).runner
    size = runner.pool.block_tokens
    with torch.inference_mode():
        before = runner.pool.tensor.normal_().clone()
        runner.pool.copy([(0, 1), (1, 2)])
    assert torch.equal(runner.pool.tensor[:, size : 2 * size], before[:, :size])
    assert torch.equal(runner.pool.tensor[:, 2 * size : 3 * size], before[:, size : 2 * size])


def test_a_failed_step_can_be_run_again(llama: Path, tmp_path: Path) -> None:
    """An adapter that nobody loaded stops the step before anything is written."""
    bench = Bench(llama)
    adapter = lora(llama, tmp_path, 1)
    sequence = bench.add(prompt(9), 4, (adapter,))
    step = bench.scheduler.schedule()
    assert step is not None
    with pytest.raises(EngineError, match=adapter.id):
        bench.runner.run(step)
    bench.runner.load_adapter(adapter)
    first = int(bench.runner.run(step).argmax())
    assert first == expected(merged(llama, [adapter]), sequence.prompt, 1)[0]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "mistral"])
def test_hidden_means_are_those_of_the_last_states(tmp_path: Path, family: str) -> None:
    """Of texts in one pass as of each alone."""
    base = save_family(tmp_path / "base", family)
    adapter = lora(base, tmp_path, 3)
    bench = Bench(base)
    bench.runner.load_adapter(adapter)
    given = [prompt(21), prompt(4), prompt(21)[::-1], prompt(1)]
    for path in ((), (adapter,)):
        model = merged(base, path).model
        with torch.no_grad():
            wanted = torch.stack([model(torch.tensor([one])).last_hidden_state[0].mean(0) for one in given])
        ids = tuple(each.id for each in path)
        found = bench.runner.hidden_means(given, ids)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        alone = torch.cat([bench.runner.hidden_means([one], ids) for one in given])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_bf16_stays_close_to_float32(llama: Path) -> None:
    """Not equal: close enough that the chosen token is among the best of float32."""
    exact, coarse = Bench(llama), Bench(llama, dtype="bf16")
    for bench in (exact, coarse):
        bench.add(prompt(30), 1)
    wanted, found = (bench.runner.run(bench.scheduler.schedule()) for bench in (exact, coarse))
    assert coarse.runner.dtype is torch.bfloat16
    assert found.dtype is torch.float32
    assert torch.nn.functional.cosine_similarity(found, wanted).item() > 0.995


def test_logits_come_in_the_order_of_the_pieces(llama: Path) -> None:
    """Rows of a step may be computed in another order; who asked for prompt logits gets one for each token."""
    bench = Bench(llama)
    sequences = [Sequence(n, prompt(5 + n, n), b"", (), 4, prompt_logits=n == 1) for n in range(3)]
    pieces = []
    for sequence in sequences:
        assert bench.blocks.admit(sequence)
        pieces.append(Piece(sequence, 0, len(sequence.prompt)))
    together = bench.runner.run(Step(tuple(pieces), ()))
    assert together.shape == (1 + 6 + 1, bench.runner.outline.vocabulary)
    backwards = Bench(llama).runner
    again = backwards.run(Step(tuple(reversed(pieces)), ()))
    torch.testing.assert_close(again[0], together[-1])
    torch.testing.assert_close(again[1:7], together[1:7])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda base: (base / "config.json").unlink(), "config.json"),
        (lambda base: (base / "config.json").write_text("[]"), "not an object"),
        (lambda base: (base / "model.safetensors").unlink(), "model.safetensors"),
        (lambda base: (base / "model.safetensors").write_bytes(b"short"), "cannot be read"),
    ],
)
def test_a_base_that_is_not_whole_is_refused(tmp_path: Path, change: object, words: str) -> None:
    base = save_family(tmp_path / "base", "llama")
    change(base)
    with pytest.raises(EngineError, match=words):
        Runner(base, EngineConfig(device="cpu"))


def test_weights_of_another_form_are_refused(tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", "llama")
    config = (base / "config.json").read_text()
    for old, new, words in (
        ('"intermediate_size": 80', '"intermediate_size": 88', "gate_proj"),
        ('"num_hidden_layers": 4', '"num_hidden_layers": 5', "lacks model.layers.4"),
        ('"num_hidden_layers": 4', '"num_hidden_layers": 3', "do not use"),
    ):
        assert old in config
        (base / "config.json").write_text(config.replace(old, new))
        with pytest.raises(EngineError, match=words):
            Runner(base, EngineConfig(device="cpu", dtype="fp32"))


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", "llama")
    sharded = tmp_path / "sharded"
    load_reference(base).save_pretrained(sharded, max_shard_size="40KB")
    assert not (sharded / "model.safetensors").exists()
    bench = Bench(sharded)
    run = bench.add(prompt(8), 5)
    bench.run()
    assert run.output == expected(load_reference(base), run.prompt, 5)
