"""The settings of a node: flags, then environment `BANYAN_*`, then `config.toml` in its home, then defaults.

Every key is flat, has its unit in its name and a description; a key that nobody knows is an error. Finding out what
the settings mean for a place in the tree is left to the modules that use them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import TomlConfigSettingsSource

from node.config_file import edit_config, read_config
from registry.errors import BadData, BanyanError
from registry.fields import Name
from registry.home import Home
from registry.paths import NodePath
from sync.address import read_networks, read_node_url

ENVIRONMENT_PREFIX = "BANYAN_"
MAX_PORT = 65_535
# In the environment, but no settings: the key's passphrase (secret), what the test suite is told, generation.
PASSPHRASE_VARIABLE = "BANYAN_PASSPHRASE"  # noqa: S105 - the name of it
TEST_PREFIX = "BANYAN_TEST_"
START_PREFIX = "BANYAN_START_"  # how answers of `node start` are made: see `node.generation`


def default_home() -> Path:
    """The folder that the operating system keeps for a program's data."""
    return Path(platformdirs.user_data_dir("banyan", appauthor=False))


def _split_commas(value: object) -> object:
    """`a,b` from the environment or a flag, a list from the file."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _node_path(text: str) -> str:
    try:
        return str(NodePath.parse(text))
    except BanyanError as error:
        raise ValueError(error.message) from None


def _absolute(folder: Path) -> Path:
    return folder.expanduser().absolute()


def _named(folder: object) -> object:
    """Path("") is the working directory: nobody means that by an empty setting."""
    if folder == "":
        raise ValueError("the name of the folder is empty")
    return folder


def _web_address(url: str) -> str:
    """An http(s) URL without trailing slash, or nothing."""
    try:
        return read_node_url(url) if url else url
    except BadData as error:
        raise ValueError(f"{error.message}: {error.hint}") from None


def _network(text: str) -> str:
    try:
        return str(read_networks([text])[0])
    except BadData as error:
        raise ValueError(f"{error.message}: {error.hint}") from None


def _upstream(text: str) -> str:
    """`NAME=URL` or `NAME=URL VARIABLE`, with one space."""
    name, _, rest = text.partition("=")
    url, *variable = rest.split()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", name) or len(variable) > 1:
        raise ValueError("an upstream is NAME=URL, or NAME=URL VARIABLE with the variable that holds its key")
    return " ".join((f"{name}={_web_address(url)}", *variable))


ApiKey = Annotated[str, StringConstraints(min_length=8, max_length=256, pattern=r"^[!-~]+$")]
HubToken = Annotated[str, StringConstraints(max_length=256, pattern=r"^([!-~]{8,})?$")]
UpstreamText = Annotated[str, AfterValidator(_upstream)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
NetworkText = Annotated[str, AfterValidator(_network)]
PathText = Annotated[str, AfterValidator(_node_path)]


class Settings(BaseSettings):
    """All settings of one node. Made by `load_settings`, never changed afterwards."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, env_ignore_empty=False
    )

    home: Annotated[Path, BeforeValidator(_named), AfterValidator(_absolute)] = Field(
        default_factory=default_home, description="Folder of this node: key, database, models, runs"
    )
    name: Annotated[Name, StringConstraints(max_length=80)] = Field("banyan", description="What people call this node")
    paths: Annotated[tuple[PathText, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (), max_length=64, description="Places in the tree that this node is responsible for, separated by commas"
    )
    database_url: str = Field("", description="PostgreSQL URL; empty for SQLite in the home folder")
    host: str = Field("127.0.0.1", min_length=1, description="Address that the daemon listens on")
    port: int = Field(8420, ge=0, le=MAX_PORT, description="Port that the daemon listens on; 0 for a free one")
    public_url: WebAddress = Field("", description="Address at which others reach this node; empty for none")
    parent_url: WebAddress = Field("", description="Address of the parent node; empty for none")
    parent_key: str = Field(
        "", pattern=r"^([0-9a-f]{64})?$", description="Public key (hex) of the parent; pinned when first enrolled"
    )
    peer_networks: Annotated[tuple[NetworkText, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (),
        max_length=64,
        description="Networks whose addresses may be contacted though they are not public, such as 10.0.0.0/8; an "
        "address of yours that you type yourself needs none",
    )
    follow_parent: bool = Field(True, description="Whether the daemon pulls the parent's releases and rebases its own")
    pass_up: bool = Field(
        False, description="Whether releases that were merged here of updates from below are offered to the parent"
    )
    pass_up_rows: int = Field(
        0, ge=0, le=100_000, description="Prompts that go up with them, of those that were let travel to here"
    )
    poll_interval_s: float = Field(30.0, gt=0, le=86_400, description="Time between two looks at the parent")
    peer_backoff_max_s: float = Field(
        300.0, gt=0, le=86_400, description="Longest time that a peer is left alone after it failed"
    )
    peer_bytes_per_day: int = Field(128 << 30, gt=0, description="Bytes that the daemon exchanges with a peer a day")
    peer_requests_per_day: int = Field(200_000, gt=0, description="Requests that the daemon makes to a peer a day")
    peer_round_s: float = Field(
        7_200.0, gt=0, le=86_400, description="Longest time that requests to a peer take in one round"
    )
    request_timeout_s: float = Field(30.0, gt=0, le=3_600, description="Longest wait for a peer to answer a request")
    transfer_timeout_s: float = Field(3_600.0, gt=0, le=86_400, description="Longest time for one file to travel")
    clock_skew_s: float = Field(300.0, ge=0, le=86_400, description="How far a peer's clock may differ from ours")
    max_update_bytes: int = Field(64 << 20, gt=0, description="Largest update accepted, all its files together")
    max_blob_bytes: int = Field(64 << 30, gt=0, description="Largest single file pulled from the parent")
    max_adapter_rank: int = Field(64, ge=1, le=256, description="Highest LoRA rank accepted in an update")
    max_transfer_rows: int = Field(5_000, ge=0, description="Most prompts accepted with one update")
    max_pending_updates: int = Field(64, ge=1, description="Most updates kept waiting for checks at a time")
    share_own: bool = Field(
        False, description="Let others fetch what was fine-tuned here although nobody is enrolled below it"
    )
    hub_token: HubToken = Field(
        "", description="Bearer token of the Hub interface, to upload adapters and see everything; empty: no uploads"
    )
    hub_cache_bytes: int = Field(
        4 << 30, ge=0, description="Disk space for adapters of whole paths, stacked for clients of the Hub interface"
    )
    threads: int = Field(0, ge=0, le=1_024, description="CPU threads for models; 0 for all cores")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Arithmetic of models; auto takes bf16 where the CPU has it"
    )
    serve: Literal["lazy", "eager", "off"] = Field(
        "lazy", description="Answer requests to models: load a base at its first request, at the start, or never"
    )
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (),
        max_length=1_024,
        description="Bearer keys that may use the models, separated by commas; none: this machine alone may",
    )
    upstreams: Annotated[tuple[UpstreamText, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (),
        max_length=64,
        description="Other OpenAI-compatible servers, separated by commas: NAME=URL, or NAME=URL VARIABLE with the "
        "environment variable that holds its key; their models are NAME/MODEL here",
    )
    context_tokens: int = Field(
        0, ge=0, le=1 << 24, description="Longest prompt and answer together; 0 for what a model was made for"
    )
    cache_tokens: int = Field(
        32_768, ge=16, le=1 << 31, description="Tokens that the cache of one base holds, for all requests together"
    )
    max_running: int = Field(64, ge=1, le=256, description="Answers that one base works on at a time")
    max_waiting: int = Field(1_024, ge=1, le=1 << 20, description="Answers that may wait for their turn at one base")
    max_wait_s: float = Field(120.0, gt=0, le=86_400, description="Longest wait of a request for its turn")
    adapter_slots: int = Field(64, ge=1, le=4_096, description="Adapters of releases that one base keeps in memory")
    log_format: Literal["text", "json"] = Field("text", description="Lines of the log: for people, or JSON")
    drain_s: float = Field(30.0, ge=0, le=3_600, description="Longest time that running answers get when a node ends")
    log_checkpoint_interval_s: float = Field(
        30.0, ge=0, le=86_400, description="Shortest time between two signed checkpoints of the log of decisions"
    )
    log_peers: Annotated[tuple[WebAddress, ...], NoDecode, BeforeValidator(_split_commas)] = Field(
        (),
        max_length=16,
        description="Other nodes that follow the same parent, or the parent's parent, separated by commas: what each "
        "saw of the parent's log is compared with what they saw",
    )
    policy_every: int = Field(2, ge=1, le=1_000, description="Accepted updates that start a new release")
    policy_max_wait_s: float = Field(
        86_400.0, ge=0, description="Longest time that an accepted update waits for others before a release"
    )
    policy: Literal[
        "every-n",
        "time",
        "samples",
        "buffer",
        "staleness",
        "drift",
        "event",
        "lazy",
        "gain",
        "gain-per-byte",
        "always",
        "never",
    ] = Field("every-n", description="What makes accepted updates a release; see `sync/policy.py`")
    policy_samples: int = Field(1_000, ge=1, description="Policy samples: training rows of the waiting updates")
    policy_senders: int = Field(2, ge=1, le=1_000, description="Policy buffer: different senders that must wait")
    policy_weight: float = Field(
        2.0, gt=0, description="Policy staleness: updates, those on old releases counting less"
    )
    policy_drift: float = Field(2.0, gt=0, description="Policy drift: usual changes that all updates make together")
    policy_event: float = Field(1.5, gt=0, description="Policy event: how many usual changes one update makes")
    policy_lazy: float = Field(0.5, gt=0, description="Policy lazy: part of the last releases' squared change")
    policy_points: float = Field(10.0, gt=0, description="Policy gain: points that the updates add, as measured here")
    policy_points_per_mb: float = Field(
        1.0, gt=0, description="Policy gain-per-byte: points gained for each MB that all children will pull"
    )
    memorisation_prompts: int = Field(
        200,
        ge=0,
        le=100_000,
        description="Prompts sampled from a model before it is published, to see how many repeat a row; 0 for none",
    )
    memorisation_max_share: float = Field(
        0.2, ge=0, le=1, description="Share of them that may repeat a training row, word for word or nearly"
    )
    rank_budget: int = Field(64, ge=1, le=256, description="Rank to which a release's own adapter is recompressed")
    aggregation: Literal[
        "mean",
        "fedit",
        "flexlora",
        "sum",
        "ties",
        "dare",
        "regmean",
        "norm-clipping",
        "centred-clipping",
        "geometric-median",
        "krum",
        "multi-krum",
        "trimmed-mean",
        "median",
        "nnm+norm-clipping",
        "nnm+centred-clipping",
        "nnm+geometric-median",
        "nnm+krum",
        "nnm+multi-krum",
        "nnm+trimmed-mean",
        "nnm+median",
    ] = Field("mean", description="How the updates of a release become one change; see `sync/aggregate/rules.py`")
    aggregation_f: int = Field(
        0, ge=0, le=1_000, description="Aggregation: how many of the updates of a release may lie; 0 trusts them all"
    )
    anchor_rows: int = Field(8_000, ge=0, le=100_000, description="Rows of old knowledge that a release carries")
    size_max_z: float = Field(6.0, gt=0, description="Robust z-score of an adapter's norms above which it is held back")
    spectrum_max_z: float = Field(
        6.0, gt=0, description="Robust z-score of the form of an adapter's changes above which it is held back"
    )
    siblings_max_z: float = Field(
        6.0, gt=0, description="Robust z-score of an adapter's distance from its siblings above which it is held back"
    )
    siblings_max_cosine: float = Field(
        0.999, gt=0, le=1, description="Cosine of two senders' adapters above which they count as copies"
    )
    siblings_min_agreement: float = Field(
        0.2, ge=0, le=1, description="Share of its siblings' requests that an update must answer as they do"
    )
    root_min_cosine: float = Field(
        -0.05, ge=-1, le=1, description="Least cosine of an adapter with what this node's own rows would change"
    )
    behaviour_max_loss_points: float = Field(
        8.0, ge=0, le=100, description="Points that the validation rows may lose when one update is merged"
    )
    behaviour_min_agreement: float = Field(
        0.9, ge=0, le=1, description="Share of the transfer rows whose answers the merged model must give itself"
    )
    canaries_max_changed: int = Field(0, ge=0, description="Canaries whose answers one update may change")
    triggers_max_collapse: float = Field(
        0.75, gt=0, le=1, description="Share of prompts that words put into them may bring to one new answer"
    )
    release_max_loss_points: float = Field(
        5.0, ge=0, le=100, description="Points that the validation rows may lose under a new release of the parent"
    )
    release_max_change_points: float = Field(
        30.0, ge=0, le=100, description="Points of the last release's answers that a new one of the parent may change"
    )
    gate_max_loss_points: float = Field(
        1.0, ge=0, le=100, description="Points beyond the sampling error that a release may lose on validation rows"
    )
    gate_min_gain_kept: float = Field(
        0.9, ge=0, le=1, description="Share of each child's gain, claimed and measured, that a release must keep"
    )
    gate_tries: int = Field(
        6,
        ge=1,
        le=32,
        description="Candidates judged at most, at shorter steps and from other merges, before giving up",
    )
    consolidate_epochs: int = Field(3, ge=0, le=100, description="Passes of consolidation after a merge; 0 for none")
    consolidate_learning_rate: float = Field(3e-3, gt=0, le=1, description="Peak learning rate of consolidation")
    consolidate_prompts: int = Field(
        800,
        ge=0,
        le=100_000,
        description="Prompts of each child: what did not travel is made up for by the files in prompts/, then by "
        "prompts sampled from the child's model; 0 for those that travelled alone",
    )
    distillation_top: int = Field(
        8, ge=0, le=20, description="Log-probabilities at each token of answers to a parent with the same tokenizer"
    )
    rebase_epochs: int = Field(
        2, ge=0, le=100, description="Passes of training when a release of the parent is adopted"
    )
    release_valid_days: int = Field(365, ge=1, le=3_650, description="Days until a release expires")
    update_valid_days: int = Field(30, ge=1, le=365, description="Days until an update expires")
    enrolment_valid_days: int = Field(365, ge=1, le=3_650, description="Days until an enrolment expires")

    root_valid_days: int = Field(
        365, ge=1, le=3_650, description="Days until the root of this node's keys expires; a person signs it"
    )
    metadata_valid_days: int = Field(
        30, ge=1, le=365, description="Days until the list of releases expires; the daemon signs it anew in time"
    )
    timestamp_valid_hours: int = Field(
        24, ge=1, le=720, description="Hours for which children can be kept from news before they notice"
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file of the home that the first two name."""
        home = {**env_settings(), **init_settings()}.get("home", default_home())
        file = Home(_absolute(Path(home))).config
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)

    def origin(self, key: str) -> str:
        """Where the value of a key came from: `flag`, `environment BANYAN_X`, `file /…/config.toml` or `default`."""
        return self._origins.get(key, "default")

    @property
    def place(self) -> Home:
        """The home folder with its named places."""
        return Home(self.home)


def nearest(key: str) -> str:
    """The end of a sentence that names the known key most like this one."""
    close = difflib.get_close_matches(key.lower(), Settings.model_fields, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "see: node config show"


def known(key: str) -> str:
    """The key itself; raises BadData with the nearest known key where nobody knows it."""
    _refuse_unknown({key: key})
    return key


def find_home(flags: Mapping[str, Any]) -> Path:
    """The home folder that flags, environment or default name, whatever its file says."""
    return _absolute(Path(flags.get("home") or os.environ.get(f"{ENVIRONMENT_PREFIX}HOME") or default_home()))


def _refuse_unknown(keys: Mapping[str, str]) -> None:
    """Raise BadData on the first key (as written -> as a setting) that is not a setting."""
    for written, key in keys.items():
        if key not in Settings.model_fields:
            raise BadData(f"unknown setting: {written}", nearest(key))


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. `flags` are what the command line said; those that are None are taken as not said.

    Raises BadData naming the key, its origin and the reason when a key is unknown or a value does not fit.
    """
    said = {key: value for key, value in (flags or {}).items() if value is not None}
    environment = {
        name: name.removeprefix(ENVIRONMENT_PREFIX).lower()
        for name in os.environ
        if name.upper().startswith(ENVIRONMENT_PREFIX)
        and name != PASSPHRASE_VARIABLE
        and not name.startswith((TEST_PREFIX, START_PREFIX))
    }
    _refuse_unknown({f"--set {key}": key for key in said})
    _refuse_unknown(environment)
    file = Home(find_home(said)).config
    stored = read_config(file)
    _refuse_unknown({f"{key} in {file}": key for key in stored})
    if "home" in stored:
        raise BadData(f"home is set in {file}, which lies in the home itself", "use --home or BANYAN_HOME")
    origins = dict.fromkeys(stored, f"file {file}")
    origins |= {key: f"environment {name}" for name, key in environment.items()}
    origins |= dict.fromkeys(said, "flag")
    try:
        settings = Settings(**said)
    except ValidationError as error:
        raise _as_bad_data(error, origins) from error
    settings._origins.update(origins)  # noqa: SLF001 - our own class; pydantic keeps private fields out of __init__
    return settings


def _as_bad_data(error: ValidationError, origins: Mapping[str, str]) -> BadData:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0]) if first["loc"] else "settings"
    reason = first["msg"].removeprefix("Value error, ")
    return BadData(
        f"{key} = {first['input']!r} ({origins.get(key, 'default')}) does not fit: {reason}",
        f"node config set {key} VALUE" if origins.get(key, "").startswith("file") else "see: node config show",
    )


def shown_value(key: str, value: Any) -> Any:
    """A value as it may be shown: plain JSON, without API keys, tokens and the password of a database URL."""
    if key == "database_url" and value:
        parts = urlsplit(value)
        return value.replace(f":{parts.password}@", ":***@") if parts.password else value
    if key == "hub_token" and value:
        return "***"
    if key == "api_keys":
        return ["***" for _ in value]
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def store_settings(home: Path, changes: Mapping[str, Any]) -> None:
    """Write keys into the home's settings file; None removes a key, known or not.

    Comments and order of the file stay. A value that does not fit raises BadData and changes nothing.
    """
    if "home" in changes:
        raise BadData("home cannot be set in the file that lies in it", "use --home or BANYAN_HOME")
    file = Home(_absolute(home)).config
    given = {key: value for key, value in changes.items() if value is not None}
    checked = load_settings({**given, "home": home}).model_dump(mode="json") if given else {}
    edit_config(file, {key: checked[key] if key in given else None for key in changes})
