"""`node demo`: the main job between real node processes on loopback, with attackers, measured at every step.

A parent for `en/finance`; three children with real rows of their own (banking77, which the base has never seen), one of
which, top-up, only pulls; and an enrolled liar. Everything is done through the commands that a person would type.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.cli.output import Output
from node.demo.attacks import Attack, forge, poison, poison_outcome, replay
from node.demo.measure import Figures, Question, measure_all
from node.demo.processes import DemoNode, free_port, together
from node.demo.report import BEFORE, Facts, conclude, table
from registry.errors import LocalFailure

ROWS = Path(__file__).parent / "rows"
PARENT_PATH = "en/finance"
SENDERS = ("cards", "transfers")
SIBLING = "top-up"
CHILDREN = (*SENDERS, SIBLING)
LIAR = "rogue"
LIAR_PATH = f"{PARENT_PATH}/{LIAR}"
FINETUNE_FLAGS = (
    "--epochs",
    "3",
    "--learning-rate",
    "3e-3",
    "--batch-tokens",
    "2048",
    "--threads",
    "1",
    "--score-rows",
    "150",
)
TRANSFER_ROWS = {"cards": "850", "transfers": "770"}
RELEASE_TIMEOUT_S = 900.0
POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a demo: everything as data, the table for people, and whether it did what it should."""

    data: dict[str, Any]
    table: str
    passed: bool


class Steps:
    """Says what is being done, and how long it took."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        self.output.note(f"… {name}")
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        self.output.note(f"✓ {name}: {self.seconds[name]:.1f} s")


def run(keep: Path | None, output: Output) -> Report:
    """Run the demo in a temporary folder, or in `keep`. Raises LocalFailure when a step fails or takes too long."""
    root = keep or Path(tempfile.mkdtemp(prefix="banyan-demo-"))
    if keep and keep.exists() and any(keep.iterdir()):
        raise LocalFailure(f"{keep} is not empty", "name a new folder, or leave --keep out")
    demo = Demo(root, Steps(output))
    try:
        return demo.run()
    finally:
        demo.stop()
        if keep is None:
            shutil.rmtree(root, ignore_errors=True)


class Demo:
    """The nodes of the demo and what is done with them."""

    def __init__(self, root: Path, steps: Steps) -> None:
        self.steps = steps
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.parent = DemoNode(root / "parent")
        self.children = {name: DemoNode(root / name) for name in CHILDREN}
        self.liar = DemoNode(root / LIAR)

    def stop(self) -> None:
        """End the processes."""
        self.parent.stop()

    def run(self) -> Report:
        """Every step in order."""
        step = self.steps.step
        with step("start a parent for en/finance, enrol three children and a liar"):
            self.start()
        with step("clone en/finance and fine-tune: cards, transfers, top-up (and the liar, on false labels)"):
            self.fine_tune()
        with step("measure before and after"):
            figures = self.measure_first()
        with step("publish cards and transfers; the liar sends a forged and a poisoned update"):
            updates, forged = self.publish()
        with step("the parent checks, merges, consolidates, judges and releases"):
            self.wait_for_release()
        with step("the liar replays; the sibling top-up pulls the release and rebases"):
            replayed = replay(self.liar, self.url, LIAR_PATH)
            rebased = self.children[SIBLING].call("pull")
        with step("measure the parent and the sibling"):
            figures |= self.measure_last()
        shown = {name: self.parent.call("updates", "show", digest) for name, digest in updates.items()}
        facts = Facts(
            figures=figures,
            checks={name: shown[name] for name in SENDERS},
            attacks=[forged, poison_outcome(shown[LIAR]), replayed],
            rebased=rebased,
            seconds=self.steps.seconds,
            moved_bytes=self.moved(shown),
            other_paths_untouched=self.other_paths_untouched(),
        )
        verdicts = conclude(facts, SENDERS, SIBLING)
        passed = all(verdict.held for verdict in verdicts)
        return Report(facts.as_data(verdicts), table(facts, verdicts), passed)

    def start(self) -> None:
        """Homes, keys, the parent's daemon, enrolments on both sides."""
        settings = {"policy_every": 2, "poll_interval_s": 1, "consolidate_epochs": 4}
        self.parent.call("init", "--name", "parent", "--port", str(self.port))
        for key, value in settings.items():
            self.parent.call("config", "set", key, str(value))
        self.parent.start()
        self.parent.wait_until_up(self.url)
        fingerprint = self.parent.call("keys")["fingerprint"]
        everybody = {**self.children, LIAR: self.liar}

        def join(name: str, node: DemoNode) -> None:
            path = f"{PARENT_PATH}/{name}"
            node.call("init", "--name", name, "--path", path, "--parent", self.url)
            node.call("enrol", self.url, "--path", path, "--fingerprint", fingerprint)
            self.parent.call("enrol", "accept", node.call("keys")["id"])
            node.call("enrol", self.url, "--path", path, "--fingerprint", fingerprint)
            node.call("pull")

        together(*[lambda name=name, node=node: join(name, node) for name, node in everybody.items()])

    def fine_tune(self) -> None:
        """Every child on its own rows, at the same time."""
        self.children["cards"].call("clone", PARENT_PATH, "--out", str(self.children["cards"].home.parent / "clone"))

        def tune(name: str, node: DemoNode, *flags: str) -> None:
            rows = ROWS / f"{name}.train.jsonl"
            node.call("finetune", f"{PARENT_PATH}/{name}", "--data", str(rows), *FINETUNE_FLAGS, *flags)

        jobs = [lambda name=name, node=node: tune(name, node) for name, node in self.children.items()]
        together(*jobs, lambda: tune(LIAR, self.liar, "--replay", "0", "--epochs", "2"))

    def publish(self) -> tuple[dict[str, str], Attack]:
        """The honest updates first, then the lies; the updates by who sent them."""
        updates = {}
        for name in SENDERS:
            flags = ("--transfer-rows", TRANSFER_ROWS[name], "--yes")
            updates[name] = self.children[name].call("publish", f"{PARENT_PATH}/{name}", *flags)["digest"]
        victim = self.parent.call("updates", "show", updates["cards"])
        forged = forge(self.liar, self.url, LIAR_PATH, victim)
        updates[LIAR] = poison(self.liar, LIAR_PATH)
        return updates, forged

    def wait_for_release(self) -> None:
        """Until the parent serves version 2 and has decided about every update."""
        deadline = time.monotonic() + RELEASE_TIMEOUT_S
        while time.monotonic() < deadline:
            states = {one["state"] for one in self.parent.call("updates", "in")["updates"]}
            if states <= {"announced", "rejected", "quarantined"}:
                if self.parent.call("show", PARENT_PATH)["version"] < 2:
                    raise LocalFailure("the parent made no release: its gate refused the candidate", "see its log")
                return
            self.parent.must_be_up()
            time.sleep(POLL_S)  # each look is a process that takes time from the parent
        raise LocalFailure(f"the parent made no release within {RELEASE_TIMEOUT_S:.0f} s", "see its log")

    def measure_first(self) -> Figures:
        """Everybody before (the release that all of them cloned), the children after their fine-tuning."""
        sets = (*CHILDREN, "known")
        questions = [Question(BEFORE, self.parent.home, f"{PARENT_PATH}@v1", sets)]
        for name, node in self.children.items():
            asked = sets if name == SIBLING else CHILDREN
            questions.append(Question(f"{name} after", node.home, f"{PARENT_PATH}/{name}", asked))
        return measure_all(questions, ROWS)

    def measure_last(self) -> Figures:
        """The parent after its release, the sibling after its rebase."""
        return measure_all(
            [
                Question("parent after", self.parent.home, PARENT_PATH, (*CHILDREN, "known")),
                Question(
                    "top-up pulled", self.children[SIBLING].home, f"{PARENT_PATH}/{SIBLING}", (*CHILDREN, "known")
                ),
            ],
            ROWS,
        )

    def moved(self, shown: dict[str, dict[str, Any]]) -> dict[str, int]:
        """Bytes of the files of every honest update, and of the release that was pulled."""
        sent = {}
        for name in SENDERS:
            update = shown[name]["update"]
            files = [update["adapter"]["file"], *([update["transfer"]] if update["transfer"] else [])]
            sent[f"update from {name}"] = sum(file["size"] for file in files)
        release = self.parent.call("show", PARENT_PATH)
        files = [release["adapter"]["file"], release["anchors"], release["card"]]
        return sent | {"release en/finance@v2": sum(file["size"] for file in files)}

    def other_paths_untouched(self) -> bool:
        """Whether every other path of the parent still serves its first release."""
        places = self.parent.call("tree")["places"]
        return all(place["version"] == 1 for place in places if place["path"] != PARENT_PATH)
