"""`node start`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.group import SHARED_NAMES, Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from node.engine.config import Device
    from node.perplexity import Predicted


class StartCommand(click.Command):
    """A command with a flag for each generation setting, made when they are wanted: their model is slow to import."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The flags of the command, then those of generation, then those that all commands share."""
        from node.generation import GenerationSettings, is_many
        from node.settings import START_PREFIX

        found = super().get_params(ctx)
        own = [
            click.Option(
                [f"--{key.replace('_', '-')}"],
                multiple=is_many(key),
                metavar="VALUE",
                help=f"{setting.description}. [{START_PREFIX}{key.upper()}]",
            )
            for key, setting in GenerationSettings.model_fields.items()
        ]
        shared = [one for one in found if one.name in SHARED_NAMES or "--help" in one.opts]
        return [*(one for one in found if one not in shared), *own, *shared]


@command("node start en/finance,./my-model --lora ./my-adapter --port 9000 --temperature 0")
@click.argument("models", metavar="MODEL[,MODEL...]")
@click.option(
    "--lora", multiple=True, metavar="[NAME=]FOLDER|PATH", help="An adapter over MODEL, as a further model; repeatable."
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where models run."
)
@click.option("--dtype", type=click.Choice(["auto", "bf16", "fp32"]), help="Arithmetic; auto: bf16 where it is quick.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on; 0 for a free one.")
@click.option(
    "--grpc", "grpc_port", type=click.IntRange(0, 65_535), help="Port of the gRPC interface, 0 for a free one."
)
@click.option("--threads", type=int, help="CPU threads for models; 0 for all cores.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="TOML file with generation settings.")
@click.option(
    "--perplexity",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Print how well the models predict a text, or the texts of a JSONL file, and end.",
)
def start(
    call: Call,
    models: str,
    *,
    lora: tuple[str, ...],
    device: Device,
    dtype: str | None,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    threads: int | None,
    config: Path | None,
    perplexity: Path | None,
    **generation: Any,
) -> Result:
    """Serve these models alone: places of the tree, versions of them, folders of Hugging Face models (./FOLDER).

    POST /chat, /chat-sse, /complete and /embed, and the OpenAI API below /v1, without the interface for other nodes.
    The flags from --max-tokens to --ignore-eos hold where a request says nothing else. Each may stand in the
    environment under the name in brackets, or as a key in the file of --config; without any, what the model's own
    generation_config.json says holds, then what its family is known for.
    """
    from node.generation import said_by
    from node.logs import set_up_logs
    from node.start import Start, loaded, measure, run

    said = said_by(generation, file=config)
    settings = call.settings(host=host, port=port, threads=threads, precision=dtype)
    asked = Start(tuple(models.split(",")), lora, device, said, grpc_port)
    passphrase = partial(call.passphrase, settings)
    if perplexity is not None:
        with loaded(asked, settings, passphrase) as found, call.output.progress("Reading") as on_progress:
            return Result(_figures(measure(found, perplexity, on_progress)), _table)
    set_up_logs(settings.log_format)
    with loaded(asked, settings, passphrase) as found:
        call.output.note(f"serving {', '.join(found.names)}")
        run(found, settings, grpc_port)
        names = found.names
    return Result({"state": "stopped", "models": names}, lambda data: f"stopped: {', '.join(data['models'])}")


def _figures(found: Mapping[str, Predicted]) -> dict[str, Any]:
    return {
        name: {
            "documents": one.documents,
            "tokens": one.tokens,
            "bytes": one.bytes,
            "perplexity": one.perplexity,
            "bits_per_byte": one.bits_per_byte,
        }
        for name, one in found.items()
    }


def _table(data: dict[str, dict[str, float]]) -> RenderableType:
    from rich.table import Table

    table = Table("model", "documents", "tokens", "bytes", "perplexity", "bits per byte", box=None, pad_edge=False)
    for name, one in data.items():
        counts = (f"{one[key]:,}" for key in ("documents", "tokens", "bytes"))
        table.add_row(name, *counts, f"{one['perplexity']:.4g}", f"{one['bits_per_byte']:.4g}")
    return table


start = StartCommand(start.name, callback=start.callback, params=start.params, help=start.help, epilog=start.epilog)
