"""`node finetune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from node.cli.group import Call, command
from node.cli.output import DONE, LOCAL_FAILURE, REFUSED, OnProgress, Output, Result, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from node.datasets import Format
    from node.finetune import FinetuneResult
    from node.preparation import Prepared
    from node.training import Progress
    from sync.continual import Method

FORMATS = ("messages", "sharegpt", "alpaca", "input-output", "prompt-completion", "text")
SHOWN_CHARS = 600
METHODS = ("replay", "orthogonal", "osf", "plain")
DEFAULT_METHOD: Final = "replay"
SAID_BY_MANIFEST = (
    *("form", "replay", "go_on", "method", "score_rows", "rank", "alpha", "targets", "epochs", "patience"),
    *("learning_rate", "prompt_loss", "batch_tokens", "max_tokens", "seed", "threads", "precision"),
)


@command("node finetune en/finance/cards --data rows.jsonl --dry-run")
@click.argument("path", required=False)
@click.option(
    "--data", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSONL, JSON, CSV, TSV or Parquet."
)
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Repeat the run of this manifest (runs/RUN/manifest.json) on its data, and compare the adapters.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="Layout of the rows; detected if not given.")
@click.option("--dry-run", is_flag=True, help="Show examples, plan and memory, and stop there.")
@click.option("--replay", type=click.FloatRange(0, 0.9), default=0.5, show_default=True, help="Share of old knowledge.")
@click.option(
    "--continue", "go_on", is_flag=True, help="Go on beside the path's own adapter and measure what it forgets."
)
@click.option("--method", type=click.Choice(METHODS), help=f"How --continue keeps what was learned: {DEFAULT_METHOD}.")
@click.option("--score-rows", type=click.IntRange(1), default=500, show_default=True, help="Held-out rows scored.")
@click.option("--rank", type=click.IntRange(1, 256), help="Rank of the adapter.")
@click.option("--alpha", type=click.FloatRange(0, min_open=True), help="Scale of the adapter; its rank if not given.")
@click.option("--targets", help="Modules to adapt, separated by commas.")
@click.option("--epochs", type=click.IntRange(1, 1000), help="Passes over the rows at most.")
@click.option("--patience", type=click.IntRange(1), help="Epochs without a better validation before it stops.")
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True), help="Peak learning rate.")
@click.option(
    "--prompt-loss", type=click.FloatRange(0, 10), help="Weight of your rows' prompts in the loss; 0: answers alone."
)
@click.option("--batch-tokens", type=click.IntRange(16), help="Tokens in one step.")
@click.option("--max-tokens", type=click.IntRange(16), help="Longer rows are cut.")
@click.option("--seed", type=int, help="Same seed, same data, same machine: same adapter.")
@click.option("--threads", type=int, help="CPU threads; 0 for all cores.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), help="Arithmetic of the model.")
def finetune(
    call: Call,
    path: str | None,
    *,
    data: Path,
    manifest: Path | None,
    form: Format | None,
    dry_run: bool,
    replay: float,
    go_on: bool,
    method: Method | None,
    score_rows: int,
    threads: int | None,
    precision: str | None,
    **plan: Any,
) -> Result:
    """Fine-tune the model of a path on your rows, which stay on this machine.

    Three examples are shown as the model sees them, then the run starts; it is evaluated before and after on the same
    held-out rows. A run that was interrupted goes on where it was when the same command is given again.

    With --continue the adapter of the path stays as it is and new factors are trained beside it; then both become one.
    The held-out rows of every earlier run are scored before and after. --method says how they are kept: replay (their
    rows are rehearsed), orthogonal (O-LoRA), osf (outside the strongest directions of the weights), plain (not at all).

    With --manifest a run is repeated: the same data, releases, flags and seed give the same adapter on one machine. It
    changes nothing; what is not as it was (versions, machine) is named, and exit code 5 says that the adapters differ.
    """
    from registry.paths import NodePath

    if manifest is not None:
        _refuse_other_flags(call, path)
        return _repeat(call, manifest, data, dry_run=dry_run)
    if path is None:
        raise click.UsageError("Missing argument 'PATH': name the path to fine-tune, or a run with --manifest FILE")
    if method is not None and not go_on:
        raise click.UsageError("--method says how to go on: give --continue with it")
    if go_on:
        method = method or DEFAULT_METHOD
    place = NodePath.parse(path)
    with call.node(threads=threads, precision=precision) as node:
        from node.finetune import FinetuneRequest, default_plan
        from node.finetune import finetune as run

        said = _plan_flags(plan)
        chosen = replace(default_plan(node, place), **said) if said else None
        request = FinetuneRequest(data, form, chosen, replay, score_rows, dry_run=True, continuing=method)
        planned = run(node, place, request)
        call.output.draw(_preview(planned.prepared))
        if dry_run:
            return Result(_described(planned), _view, LOCAL_FAILURE if planned.prepared.refusal else DONE)
        with call.output.progress("Fine-tuning") as bar:
            done = run(node, place, replace(request, dry_run=False), _watch(call.output, bar))
    return Result(_described(done), _view)


def _refuse_other_flags(call: Call, path: str | None) -> None:
    """Raise UsageError for whatever the manifest says itself."""
    context = click.get_current_context()
    said = [name for name in SAID_BY_MANIFEST if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    flags = [option.opts[0] for option in context.command.params if option.name in said]
    flags += [f"--set {key}" for key in ("threads", "precision") if key in call.flags]
    if path is not None:
        flags.append("PATH")
    if flags:
        raise click.UsageError(f"the manifest says what the run is: leave out {', '.join(flags)}")


def _repeat(call: Call, file: Path, data: Path, *, dry_run: bool) -> Result:
    from node.repeat import prepare_repeat, read_manifest

    manifest = read_manifest(file)
    with call.node() as node:
        repetition = prepare_repeat(node, manifest, data)
        prepared = repetition.prepared
        call.output.draw(_preview(prepared))
        for difference in repetition.differences:
            call.output.note(f"warning: not as in the manifest: {difference} now")
        facts: dict[str, Any] = {
            "state": "planned",
            "run": manifest.run_id,
            "path": manifest.path,
            "differences": list(repetition.differences),
            "refusal": str(prepared.refusal) if prepared.refusal else None,
            "hint": prepared.refusal.hint if prepared.refusal else "",
            "adapter": None,
            "expected": None,
            "same": None,
        }
        if dry_run:
            return Result(facts, _repeated_view, LOCAL_FAILURE if prepared.refusal else DONE)
        with call.output.progress("Repeating") as bar:
            done = repetition.run(_watch(call.output, bar))
    same = done.adapter == done.expected if done.expected else None
    facts |= {"state": "repeated", "adapter": done.adapter, "expected": done.expected, "same": same}
    return Result(facts, _repeated_view, REFUSED if same is False else DONE)


def _repeated_view(data: dict[str, Any]) -> str:
    if data["state"] == "planned":
        if data["refusal"]:
            return f"planned, but it would not start: {data['refusal']}\nnext:  {data['hint']}"
        return f"planned: run {data['run']} once more; nothing was changed\nnext:  the same command without --dry-run"
    made = f"repeated: run {data['run']} came to the adapter {data['adapter']}"
    if data["expected"] is None:
        return f"{made}; what it came to the first time is not known here\nnext:  compare it where the run was"
    if data["same"]:
        return f"{made}, as the first time\nnext:  node show {data['path']}"
    reason = "the differences above" if data["differences"] else "nothing that the manifest names"
    return f"{made}, not to {data['expected']} as the first time; what differs: {reason}\nnext:  node doctor"


def _plan_flags(plan: dict[str, Any]) -> dict[str, Any]:
    """What was said of the plan; alpha follows the rank unless it was said as well."""
    said = {name: value for name, value in plan.items() if value is not None}
    if "targets" in said:
        said["targets"] = tuple(name.strip() for name in said["targets"].split(",") if name.strip())
        if not said["targets"]:
            raise click.BadParameter("name at least one module", param_hint="--targets")
    if "rank" in said:
        said.setdefault("alpha", float(said["rank"]))
    return said


def _watch(output: Output, bar: OnProgress) -> Any:
    """Feed the bar, and say a line for every epoch where no bar is drawn."""

    def on_progress(progress: Progress) -> None:
        step = progress.step
        if step is None:
            bar(progress.done, progress.total, progress.stage)
            return
        bar(progress.done, progress.total, f"loss {step.loss:.3f}, {step.tokens_per_s:,.0f} tokens/s")
        if step.validation is not None and not output.draws:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in step.validation.items() if name != "epoch")
            output.note(f"epoch {step.epoch + 1}: {figures or 'no validation rows'}; {step.seconds_left:.0f} s left")

    return on_progress


def _preview(prepared: Prepared) -> RenderableType:
    """Three rows as the model sees them, the plan, the memory, what is worth knowing."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for number, example in enumerate(prepared.examples, 1):
        shown = Text(f"example {number}  ", style="bold")
        shown.append(plain_text(example.prompt[:SHOWN_CHARS]), style="dim")
        shown.append(plain_text(example.answer[:SHOWN_CHARS]), style="green")
        parts.append(shown)
    manifest = prepared.manifest
    rows = manifest.data.rows
    parts.append(
        Text(
            f"{rows['train']} rows to train on, {rows['validation']} to validate, {rows['test']} to test, "
            f"{manifest.replay_rows} of old knowledge; format {manifest.data.format}"
        )
    )
    memory, free = prepared.memory.total / 2**30, prepared.free_bytes / 2**30
    parts.append(Text(f"memory: about {memory:.2f} GiB of the {free:.1f} GiB that are free"))
    parts += [Text(f"note: {note}", style="yellow") for note in prepared.notes]
    return Group(*parts)


def _described(result: FinetuneResult) -> dict[str, Any]:
    prepared, outcome = result.prepared, result.outcome
    data: dict[str, Any] = {
        "state": result.state,
        "run": result.run,
        "folder": result.folder,
        "path": prepared.manifest.path,
        "manifest": prepared.manifest.model_dump(mode="json"),
        "manifest_digest": prepared.manifest.digest,
        "memory_bytes": prepared.memory.total,
        "free_bytes": prepared.free_bytes,
        "refusal": str(prepared.refusal) if prepared.refusal else None,
        "hint": prepared.refusal.hint if prepared.refusal else "",
        "notes": list(prepared.notes),
        "examples": [{"prompt": one.prompt, "answer": one.answer} for one in prepared.examples],
        "outcome": None,
    }
    if outcome is not None:
        gain, forgotten = outcome.gain_points, outcome.forgotten_points
        data["outcome"] = {
            **outcome.model_dump(mode="json"),
            "gain_points": gain,
            "forgotten_points": forgotten,
            "earlier_forgotten_points": outcome.earlier_forgotten_points,
        }
    return data


def _view(data: dict[str, Any]) -> RenderableType:
    outcome = data["outcome"]
    if outcome is None:
        if data["refusal"]:
            return f"planned, but it would not start: {data['refusal']}\nnext:  {data['hint']}"
        return f"planned: run {data['run']}; nothing was changed\nnext:  the same command without --dry-run"
    release = f"{outcome['release']['path']}@v{outcome['release']['version']}"
    lines = [f"{data['state']}: {release}, run {data['run']}, {outcome['steps']} steps, {outcome['seconds']:.0f} s"]
    earlier = (data["manifest"].get("continuing") or {}).get("earlier", [])
    was, now = outcome["before"], outcome["after"]
    scored = [("your rows", was["own"], now["own"]), ("old knowledge", was["anchors"], now["anchors"])]
    runs = [f"rows of run {one['run']}" for one in earlier]
    for title, before, after in [*scored, *zip(runs, was["earlier"], now["earlier"], strict=True)]:
        if before and after:
            change = f"exact match {before['exact_match']:.1%} -> {after['exact_match']:.1%} on {after['rows']} rows"
            lines.append(f"{title}: {change}")
    lines.append(f"curve, metrics and manifest: {data['folder']}")
    return "\n".join([*lines, f"next:  node publish {data['path']}"])
