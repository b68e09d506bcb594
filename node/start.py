"""`node start` and its two forms in Python: `node.serve(...)` blocks, `node.asgi(...)` is mounted into an application.

    node.serve("./my-model", port=9000, temperature=0)
    app = Starlette(routes=[Mount("/banyan", node.asgi("en/finance", home="~/banyan"))])

Places of the tree need the node of a home; folders do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from node.context import opened_node
from node.generation import Said, said_by
from node.perplexity import Predicted, predict, read_documents
from node.serving.models import engine_config
from node.settings import Settings, load_settings
from node.started import Started, needs_node, started
from registry.errors import BadData

if TYPE_CHECKING:
    from node.api.simple.mountable import Mountable
    from node.engine.config import Device

# Settings of a node that Python callers may give by name; all else that they name is about generation.
NODE_SETTINGS: Final = frozenset(Settings.model_fields)


@dataclass(frozen=True, slots=True)
class Start:
    """What is to be started, apart from the settings of the node."""

    models: tuple[str, ...]
    loras: tuple[str, ...] = ()
    device: Device = "auto"
    said: Said = field(default_factory=Said)
    grpc_port: int | None = None


@contextmanager
def loaded(start: Start, settings: Settings, passphrase: Callable[[], str | None]) -> Iterator[Started]:
    """The models of a start, ready; the `passphrase` of the key is asked for where the node is needed.

    Raises BadData or LocalFailure when a model cannot be taken or loaded.
    """
    config = replace(engine_config(settings), device=start.device)
    with ExitStack() as stack:
        node = None
        if needs_node(start.models, start.loras):
            node = stack.enter_context(opened_node(settings, passphrase()))
        yield stack.enter_context(started(start.models, start.loras, node, config, start.said))


def measure(
    models: Started, file: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Predicted]:
    """How well each model predicts the text of a file. Raises BadData when it holds none."""
    documents = read_documents(file)
    return {name: asyncio.run(predict(models.served(name), documents, on_progress)) for name in models.names}


def run(models: Started, settings: Settings, grpc_port: int | None) -> None:
    """Answer until the process is told to end, then let what runs come to its end."""
    asyncio.run(_run(models, settings, grpc_port))


async def _run(models: Started, settings: Settings, grpc_port: int | None) -> None:
    from node.api.server import make_server, until_told
    from node.api.simple.answers import Answers
    from node.api.simple.app import WithDefaults, create_started_app

    router = WithDefaults(models)
    app = create_started_app(models, router, settings.api_keys)
    async with AsyncExitStack() as stack:
        if grpc_port is not None:
            from node.grpc.server import serving

            door = serving(Answers(router, models.names[0]), settings, grpc_port)
            await stack.enter_async_context(door)
        await until_told(make_server(app, settings.host, settings.port, settings.drain_s))


def serve(
    models: str | Sequence[str],
    *,
    lora: str | Sequence[str] = (),
    device: Device = "auto",
    grpc: int | None = None,
    config: str | Path | None = None,
    passphrase: str | None = None,
    **options: Any,
) -> None:
    """Serve models on one port until the process is told to end (Ctrl-C, SIGTERM).

    `models` and `lora` are places of the tree or folders, as at `node start`; `config` is a TOML file of generation
    settings. `options` are settings of a node (`host`, `port`, `home`, `threads`, `precision`, `api_keys`, ...) and of
    generation (`max_tokens`, `temperature`, ...). Raises BadData when an option is unknown or a model cannot be taken,
    LocalFailure when it cannot be loaded.
    """
    start, settings = _understood(models, lora, device, grpc, config, options)
    with loaded(start, settings, lambda: passphrase) as found:
        run(found, settings, start.grpc_port)


def asgi(
    models: str | Sequence[str],
    *,
    lora: str | Sequence[str] = (),
    device: Device = "auto",
    config: str | Path | None = None,
    passphrase: str | None = None,
    **options: Any,
) -> Mountable:
    """The same as an application for a server of your own, alone or mounted; the models are loaded at once.

    Without `api_keys` it answers to this machine alone, by the address that your server gives. Raises as `serve`.
    """
    from node.api.simple.app import WithDefaults, create_started_app
    from node.api.simple.mountable import Mountable

    start, settings = _understood(models, lora, device, None, config, options)
    with ExitStack() as stack:
        found = stack.enter_context(loaded(start, settings, lambda: passphrase))
        app = create_started_app(found, WithDefaults(found), settings.api_keys)
        return Mountable(app, stack.pop_all().close)


def _understood(
    models: str | Sequence[str],
    lora: str | Sequence[str],
    device: Device,
    grpc: int | None,
    config: str | Path | None,
    options: Mapping[str, Any],
) -> tuple[Start, Settings]:
    """What a call from Python means."""
    of_node = {key: value for key, value in options.items() if key in NODE_SETTINGS}
    of_generation = {key: value for key, value in options.items() if key not in NODE_SETTINGS}
    said = said_by(of_generation, file=Path(config) if config is not None else None)
    start = Start(_many(models), _many(lora), device, said, grpc)
    return start, load_settings(of_node)


def _many(names: str | Sequence[str]) -> tuple[str, ...]:
    found = names.split(",") if isinstance(names, str) else list(names)
    if not all(found):
        raise BadData("the name of a model is empty", 'such as "en/finance", or "./FOLDER"')
    return tuple(found)
