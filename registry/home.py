"""Where a node keeps its things: one folder, its places named once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.durable import make_folder


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one node. Reading or writing what lies in it is left to the modules that own each place."""

    root: Path

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.root / "config.toml"

    @property
    def key_file(self) -> Path:
        """The private key of the node."""
        return self.root / "keys" / "node.pem"

    @property
    def database(self) -> Path:
        """The SQLite file used where no database URL is set."""
        return self.root / "banyan.db"

    @property
    def blobs(self) -> Path:
        """Content-addressed files."""
        return self.root / "blobs"

    @property
    def partial(self) -> Path:
        """Files on their way in."""
        return self.root / "partial"

    @property
    def bases(self) -> Path:
        """Bases laid out as folders that model libraries can load."""
        return self.root / "bases"

    @property
    def stacked(self) -> Path:
        """Adapters of whole paths as others fetch them; made again when one is missing."""
        return self.root / "stacked"

    @property
    def runs(self) -> Path:
        """Work folders of fine-tuning and consolidation."""
        return self.root / "runs"

    @property
    def refused(self) -> Path:
        """Candidates that the gate refused, each with its table."""
        return self.root / "refused"

    @property
    def prompts(self) -> Path:
        """Prompts of this node's own that children answer at consolidation. One file per path ("en.finance.jsonl")."""
        return self.root / "prompts"

    @property
    def validation(self) -> Path:
        """Rows that candidates are judged on; they never leave this node. One file per path ("en.finance.jsonl")."""
        return self.root / "validation"

    @property
    def canaries(self) -> Path:
        """Prompts whose answers must stay, as an operator put them there; named like the rows to judge on."""
        return self.root / "canaries"

    @property
    def repository(self) -> Path:
        """The TUF metadata that this node publishes."""
        return self.root / "repository"

    @property
    def trusted(self) -> Path:
        """The TUF metadata of other nodes that is believed here, in a folder for each by its key id."""
        return self.root / "trusted"

    @property
    def daemon_lock(self) -> Path:
        """Held while a daemon runs on this home."""
        return self.root / "daemon.lock"

    @property
    def data(self) -> Path:
        """Files of rows that jobs may name from outside: what else lies on this machine cannot be asked for."""
        return self.root / "data"

    @property
    def clones(self) -> Path:
        """Where jobs write the models that they clone."""
        return self.root / "clones"

    @property
    def jobs_lock(self) -> Path:
        """Held by what works on the jobs of this home, and by the job that it runs."""
        return self.root / "jobs.lock"

    @property
    def log_checkpoint(self) -> Path:
        """The newest checkpoint of the log that others were given; a restored database is older than it."""
        return self.root / "log-checkpoint"

    @property
    def federation(self) -> Path:
        """What federated rounds need while they are served: short-lived keys, logs of Flower, records of runs."""
        return self.root / "federation"

    def create(self) -> None:
        """Make the folders that are not there yet, readable by their owner only."""
        places = (self.key_file.parent, self.blobs, self.partial, self.bases, self.runs, self.validation, self.data)
        for folder in (self.root, *places):
            make_folder(folder)
