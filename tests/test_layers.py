"""The shape of the code, enforced on its syntax: directions of imports, homes of packages, what must not exist.

A failure here is a question about design, not about a typo: move the import to its home, or change the tables below
and say in ARCHITECTURE.md why.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Package of ours -> the packages of ours that it may import.
DIRECTIONS: dict[str, set[str]] = {
    "registry": set(),
    "recommender": {"registry"},
    "assistant": {"recommender", "registry"},
    "sync": {"registry"},
    "simulations": {"sync", "registry", "recommender"},
    "node": {"registry", "recommender", "assistant", "sync", "simulations"},
}

# Third-party package -> the files that may import it, also inside a function. Tests may import anything.
HOMES: dict[str, tuple[str, ...]] = {
    # the command line and settings
    "click": ("node/cli/*",),
    "rich": ("node/cli/*",),
    "platformdirs": ("node/settings.py",),
    "pydantic_settings": ("node/settings.py",),
    "tomlkit": ("node/config_file.py",),
    # the wire
    "fastapi": ("node/api/*",),
    "starlette": ("node/api/*", "node/mcp.py"),
    "uvicorn": ("node/api/server.py",),
    "prometheus_client": ("node/api/metrics.py",),
    "httpx": (
        "sync/transport.py",
        "sync/wire.py",
        "node/parent_probe.py",
        "node/serving/upstream*.py",
        "node/client*.py",
        "sync/federation/grid.py",  # what Flower's clients raise
        "sync/federation/runtime.py",
        "node/api/fleet.py",
        "node/federation/serving.py",
        "node/federation/joining.py",
    ),
    "httpx_sse": ("node/serving/upstream.py", "sync/transport.py"),
    "httpcore": ("sync/transport.py", "sync/wire.py", "node/parent_probe.py"),
    "stamina": ("registry/trust/files.py", "sync/transport.py", "node/serving/upstream.py"),
    "grpc": ("node/grpc/*",),
    "mcp": ("node/mcp.py",),
    "grpc_reflection": ("node/grpc/server.py",),
    "google": ("node/grpc/*",),
    "flwr": ("sync/federation/*", "simulations/flower/*"),
    "gguf": ("node/gguf.py", "node/gguf_tokenizer.py"),
    # what is stored and signed
    "sqlalchemy": ("registry/store.py", "registry/tables.py", "registry/migrations/*"),
    "alembic": ("registry/store.py", "registry/migrations/*"),
    "securesystemslib": ("registry/envelope.py",),
    "tuf": ("registry/trust/*", "sync/tuf_fetcher.py"),
    "cryptography": ("registry/keys.py", "node/federation/certificates.py"),
    "langcodes": ("registry/paths.py", "registry/cards.py", "assistant/languages.py", "recommender/snapshot/mteb.py"),
    "boolean": ("registry/cards.py",),  # what license_expression raises
    "license_expression": ("registry/cards.py", "assistant/licences.py"),
    "rapidfuzz": ("assistant/spelling.py",),
    "yaml": ("registry/cards.py",),
    "huggingface_hub": ("registry/cards.py", "node/hub.py", "node/engine/outline.py"),
    # weights
    "torch": (
        "simulations/learning/base.py",
        "simulations/learning/trained.py",
        "simulations/learning/world.py",
        "simulations/poison/*",
        "simulations/reproduction/*",
        "sync/aggregate/*",
        "sync/checks/siblings.py",
        "sync/checks/spectrum.py",
        "sync/checks/suspects.py",
        "sync/model.py",
        "sync/answers.py",
        "sync/growing_cache.py",
        "sync/score.py",
        "sync/tokens.py",
        "sync/train.py",
        "sync/delta.py",
        "sync/continual.py",
        "sync/distil.py",
        "sync/aggregate/*",
        "sync/input_grams.py",
        "sync/federation/arrays.py",
        "sync/federation/inspection.py",
        "node/models.py",
        "node/export.py",
        "node/gguf.py",
        "node/manifest.py",
        "node/merged.py",
        "node/bundled/*",
        "node/engine/attention.py",
        "node/engine/embeddings.py",
        "node/engine/forward.py",
        "node/engine/grammar.py",
        "node/engine/loop.py",
        "node/engine/lora.py",
        "node/engine/mix.py",
        "node/engine/outline.py",
        "node/engine/rows.py",
        "node/engine/runner.py",
        "node/engine/sampler.py",
        "node/engine/turns.py",
        "node/engine/weights.py",
    ),
    "transformers": (
        "sync/model.py",
        "sync/answers.py",
        "sync/growing_cache.py",
        "node/model_outline.py",
        "node/bundled/build.py",
        "simulations/learning/base.py",
        "node/engine/engine.py",
        "node/engine/grammar.py",
        "node/engine/outline.py",
        "node/engine/speech.py",
        "node/engine/text.py",
        "recommender/embed.py",
    ),
    "tokenizers": ("node/bundled/build.py", "simulations/reproduction/rows.py"),
    "peft": ("sync/train.py",),
    "safetensors": (
        "simulations/learning/trained.py",
        "simulations/reproduction/classifier.py",
        "sync/delta.py",
        "sync/train.py",
        "node/bundled/package.py",
        "node/engine/lora.py",
        "node/engine/weights.py",
    ),
    "numpy": (
        "sync/checks/tensors.py",
        "sync/federation/arrays.py",
        "node/engine/sampler.py",
        "recommender/*",
        "assistant/meaning.py",
        "simulations/scale/study.py",
    ),
    "sentence_transformers": ("recommender/embed.py",),
    "llguidance": ("node/engine/grammar.py",),
    # data, pictures, the machine
    "pyarrow": ("node/datasets/records.py", "recommender/snapshot/files.py"),
    "matplotlib": (
        "node/curve.py",
        "simulations/learning/plots.py",
        "simulations/reproduction/plot.py",
        "simulations/scale/pictures.py",
    ),
    "psutil": ("recommender/hardware.py", "node/folders.py"),
    # documents and settings are models of it everywhere
    "pydantic": ("*",),
    "pydantic_core": ("*",),
}

# These start in a blink: nothing that they import, directly or through others, brings one of the slow packages.
QUICK = ("node/cli/*", "node/settings.py", "registry/*")
SLOW = {"flwr", "torch", "transformers", "peft", "safetensors", "matplotlib", "pyarrow", "fastapi", "uvicorn"}

NEVER_IMPORTED = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NEVER_CALLED = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "torch.jit.load"}
NEVER_TRUE = {"trust_remote_code", "shell", "allow_pickle"}
OWN_CHECKPOINT = "node/bundled/build.py"  # resumes from a file that it wrote itself, with weights_only=True
NAMES_THAT_SAY_NOTHING = {"util", "utils", "common", "helper", "helpers", "misc", "base_classes"}


def sources(*tops: str) -> dict[str, ast.Module]:
    """Every Python file below these folders, by its path in the project, parsed."""
    files = sorted(file for top in tops for file in (ROOT / top).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_bytes(), str(file)) for file in files}


OURS = sources(*DIRECTIONS)
EVERYTHING = OURS | sources("tests")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported anywhere in a file; `from a import b` gives a.b, which may be a module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imports_at_start(tree: ast.Module) -> Iterator[str]:
    """Dotted names that are imported when the file itself is: not those in functions or for type checkers alone."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        waiting += ast.iter_child_nodes(node)


def top_of(name: str) -> str:
    return name.partition(".")[0]


def files_of(name: str) -> list[str]:
    """The files of ours that run when this dotted name is imported: the module and the packages around it."""
    parts = name.split(".")
    stems = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return [file for stem in stems for file in (f"{stem}.py", f"{stem}/__init__.py") if file in OURS]


def at_home(file: str, homes: tuple[str, ...]) -> bool:
    return any(fnmatch(file, home) for home in homes)


def forbidden(file: str, tree: ast.Module) -> Iterator[str]:
    """What in this file must not exist."""
    for name in imports(tree):
        if top_of(name) in NEVER_IMPORTED or name in NEVER_CALLED:
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in NEVER_CALLED:
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if not (file == OWN_CHECKPOINT and called == "torch.load" and given.get("weights_only") == "True"):
                yield f"calls {called} in line {node.lineno}"
        if file.startswith("tests/"):
            continue  # a test may write such a word into a bad config
        if isinstance(node, ast.keyword) and node.arg in NEVER_TRUE and ast.unparse(node.value) != "False":
            yield f"passes {node.arg}={ast.unparse(node.value)} in line {node.lineno}"


def test_every_folder_of_code_has_a_direction() -> None:
    with_code = {file.relative_to(ROOT).parts[0] for file in ROOT.glob("[a-z]*/**/*.py")}
    assert with_code - {"tests", "build", "dist"} == set(DIRECTIONS)


@pytest.mark.parametrize("package", DIRECTIONS)
def test_imports_point_in_the_allowed_direction(package: str) -> None:
    wrong = [
        f"{file} imports {name}"
        for file, tree in OURS.items()
        if top_of(file.replace("/", ".")) == package
        for name in imports(tree)
        if top_of(name) in DIRECTIONS.keys() | {"tests"}
        if top_of(name) != package and top_of(name) not in DIRECTIONS[package]
    ]
    assert wrong == []


def strays(file: str, tree: ast.Module) -> Iterator[str]:
    """What a file of the engine imports of ours from outside it: the engine could stand in a package of its own."""
    if file.startswith("node/engine/"):
        ours = (name for name in imports(tree) if top_of(name) in DIRECTIONS)
        yield from (f"{file} imports {name}" for name in ours if not name.startswith("node.engine."))


def test_the_engine_imports_nothing_of_ours_from_outside_it() -> None:
    assert [stray for file, tree in OURS.items() for stray in strays(file, tree)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import registry.errors",
        "from node.machine import cores",
        "from node import engine",
        "from node.engineering import f",
        "def f():\n    from sync.model import load",
    ],
)
def test_a_stray_import_of_the_engine_is_found(text: str) -> None:
    tree = ast.parse(text)
    assert list(strays("node/engine/runner.py", tree))
    assert not list(strays("node/runner.py", tree))
    assert not list(strays("node/engine/runner.py", ast.parse("from node.engine import blocks\nimport torch")))


def test_imports_are_absolute() -> None:
    wrong = [f"{file}: {name}" for file, tree in EVERYTHING.items() for name in imports(tree) if name.startswith(".")]
    assert wrong == []


def third_party() -> Iterator[tuple[str, str]]:
    """(file, top-level package) for every import of what is neither ours nor Python's."""
    for file, tree in OURS.items():
        for package in {top_of(name) for name in imports(tree)} - DIRECTIONS.keys() - sys.stdlib_module_names:
            yield file, package


def test_every_package_is_imported_in_its_home_only() -> None:
    assert [f"{file} imports {package}" for file, package in third_party() if not at_home(file, HOMES[package])] == []


def test_every_package_has_a_home() -> None:
    assert {package for _, package in third_party()} - HOMES.keys() == set()


def test_no_home_stands_empty() -> None:
    lived_in = set(third_party())
    empty = [
        f"{package}: {home}"
        for package, homes in HOMES.items()
        for home in homes
        if not any(package == other and fnmatch(file, home) for file, other in lived_in)
    ]
    assert empty == []


@pytest.mark.parametrize("start", [file for file in OURS if at_home(file, QUICK)])
def test_quick_modules_bring_nothing_slow(start: str) -> None:
    """Follow the imports that run at start, so that `node --help` and every refusal of a flag stay quick."""
    came_from: dict[str, str] = {start: ""}
    waiting = [start]
    while waiting:
        file = waiting.pop()
        for name in imports_at_start(OURS[file]):
            assert top_of(name) not in SLOW, f"{name} comes with {file} {came_from[file]}"
            for other in files_of(name):
                if other not in came_from:
                    came_from[other] = f"<- {file} {came_from[file]}"
                    waiting.append(other)


@pytest.mark.parametrize("file", EVERYTHING)
def test_nothing_is_unpickled_evaluated_or_run_through_a_shell(file: str) -> None:
    """T10."""
    assert list(forbidden(file, EVERYTHING[file])) == []


def test_no_file_is_named_for_nothing() -> None:
    assert [file for file in EVERYTHING if NAMES_THAT_SAY_NOTHING & set(file.removesuffix(".py").split("/"))] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "from torch import load",
        "torch.load(f)",
        "torch.load(f, weights_only=True)",
        "eval('1')",
        "exec(code)",
        "os.system('ls')",
        "AutoModel.from_pretrained(d, trust_remote_code=True)",
        "AutoModel.from_pretrained(d, trust_remote_code=flag)",
        "subprocess.run('ls', shell=True)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_forbidden_code_is_found(text: str) -> None:
    """The rules above see what they are for."""
    assert list(forbidden("sync/model.py", ast.parse(text)))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (OWN_CHECKPOINT, "torch.load(f, weights_only=True)"),
        ("sync/model.py", "model.eval()"),
        ("sync/model.py", "f(trust_remote_code=False)"),
        ("sync/model.py", "load(f)"),
    ],
)
def test_harmless_code_is_let_be(file: str, text: str) -> None:
    assert list(forbidden(file, ast.parse(text))) == []
    assert list(forbidden(OWN_CHECKPOINT, ast.parse("torch.load(f, weights_only=False)")))


def test_imports_at_start_are_told_from_late_ones() -> None:
    tree = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\nelse:\n    import c\n"
        "try:\n    import d\nexcept ImportError:\n    pass\n"
        "class K:\n    import e\n    def f(self):\n        import g\n"
    )
    assert set(imports_at_start(tree)) == {"a", "c", "d", "e"}
    assert set(imports(tree)) == {"a", "b", "c", "d", "e", "g"}
