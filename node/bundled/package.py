"""Package a trained base: bf16 weights, anchors, validation rows and a model card with figures on held-out rows.

    python -m node.bundled.package --data DATA/tree --work DIR --out node/bundled/model

The figures are measured on the packaged weights, through the same code as `node evaluate`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from node.bundled.build import MIXTURE, load_rows
from registry.rows import Row, of_split, read_tree_rows, write_rows
from sync.model import LoadedModel, load_model
from sync.score import Scores, evaluate, reanswered

# Sets whose licence lets their rows travel (CC BY, CC0, MIT), by how many of their training rows become anchors.
ANCHORS = {
    "clinc150": 2600,
    "hwu64": 1000,
    "snips": 600,
    "nlupp": 300,
    "home_assistant": 1100,
    "nl2bash": 150,
    "tldr": 250,
}
UNSEEN_ANCHORS = {"clinc150": 600, "hwu64": 250, "snips": 150, "home_assistant": 200}
VALIDATION = {"clinc150": 500, "hwu64": 200, "snips": 150, "home_assistant": 250}
JUDGED = ("clinc150", "hwu64", "snips", "nlupp", "home_assistant", "seal_tools", "nl2bash", "tldr")
DEMO_CHILDREN = {"cards": 1000, "transfers": 900, "top-up": 700}  # rows given to each child
DEMO_TEST = 300
DEMO_KNOWN = {"clinc150": 700, "hwu64": 200, "snips": 150, "home_assistant": 250}
DEMO_LIES = {"clinc150": 600}
KEPT_OUT = ("banking77", "medquad", "law")
MAX_JUDGED = 2000
MAX_KEPT_OUT = 200  # their answers are long, and wrong
SEED = 1

FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def copy_weights(trained: Path, out: Path) -> None:
    """The trained folder with bf16 weights."""
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(trained / name, out / name)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(trained / "model.safetensors").items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def sample(rows: dict[str, list[Row]], sizes: dict[str, int], split: str, rng: random.Random) -> list[Row]:
    """Rows of one split, so many of each set."""
    chosen: list[Row] = []
    for name, size in sizes.items():
        members = [row for row in of_split(rows[name], split) if row.input]  # type: ignore[arg-type]
        chosen += rng.sample(members, min(size, len(members)))
    return chosen


def figures(loaded: LoadedModel, data: Path, rows: dict[str, list[Row]]) -> dict[str, Scores]:
    """Figures per set on test rows: asked as `master`, with the task and without it; kept-out sets as well."""
    found: dict[str, Scores] = {}
    for name in JUDGED:
        test = of_split(rows[name], "test")[:MAX_JUDGED]
        found[name] = evaluate(loaded, test, "master")
        found[f"{name} (no task named)"] = evaluate(loaded, [replace(row, task="") for row in test], "master")
    clinc = of_split(rows["clinc150"], "test")
    found["clinc150 in scope"] = evaluate(loaded, [row for row in clinc if row.domain != "none"], "master")
    found["clinc150 out of scope"] = evaluate(loaded, [row for row in clinc if row.domain == "none"], "master")
    for lang in sorted({row.lang for row in rows["home_assistant"]}):
        test = [row for row in of_split(rows["home_assistant"], "test") if row.lang == lang]
        found[f"home_assistant {lang}"] = evaluate(loaded, test, f"{lang}/home")
    for name in KEPT_OUT:
        kept = list(read_tree_rows(data / name / f"{name}.train.jsonl"))
        found[f"{name} (kept out)"] = evaluate(loaded, of_split(kept, "test")[:MAX_KEPT_OUT], "master")
    return found


def table(found: dict[str, Scores]) -> str:
    """The figures as a Markdown table."""
    lines = ["| rows held out from | rows | exact match | name right | bits per byte |", "|---|---|---|---|---|"]
    for name, scores in found.items():
        named = "–" if scores.name_accuracy is None else f"{100 * scores.name_accuracy:.1f} %"
        lines.append(
            f"| {name} | {scores.rows} | {100 * scores.exact_match:.1f} % | {named} | {scores.bits_per_byte:.3f} |"
        )
    return "\n".join(lines)


def demo_rows(data: Path, rows: dict[str, list[Row]], out: Path) -> None:
    """The rows of `node demo`: what the children are given, what nobody is given, and old knowledge to measure."""
    rng = random.Random(SEED)  # noqa: S311  sampling, not secrets
    banking = list(read_tree_rows(data / "banking77" / "banking77.train.jsonl"))
    out.mkdir(parents=True, exist_ok=True)
    for name, size in DEMO_CHILDREN.items():
        members = [row for row in banking if row.subdomain == name]
        rng.shuffle(members)
        write_rows(map(bare, members[:DEMO_TEST]), out / f"{name}.test.jsonl")
        write_rows(map(bare, members[DEMO_TEST : DEMO_TEST + size]), out / f"{name}.train.jsonl")
    used = {row.input for row in sample(rows, VALIDATION, "test", random.Random(SEED))}  # noqa: S311  the rows that main() takes
    known = [row for row in sample(rows, DEMO_KNOWN, "test", random.Random(SEED + 1)) if row.input not in used]  # noqa: S311
    write_rows(map(bare, known), out / "known.test.jsonl")
    truth = sample(rows, DEMO_LIES, "train", rng)
    answers = [row.output for row in truth]
    lies = [replace(row, output=text) for row, text in zip(truth, answers[1:] + answers[:1], strict=True)]
    write_rows(map(bare, lies), out / "rogue.train.jsonl")


def bare(row: Row) -> Row:
    """A row without its place: asked as whatever path it meets."""
    return replace(row, lang="", domain="", subdomain="")


def anchor_rows(rows: dict[str, list[Row]]) -> list[Row]:
    """Rows that the base was trained on, and some that it was not, by which children see what they forget."""
    rng = random.Random(SEED)  # noqa: S311  sampling, not secrets
    judged = sample(rows, VALIDATION, "test", random.Random(SEED))  # noqa: S311  the rows that main() takes
    judged += sample(rows, DEMO_KNOWN, "test", random.Random(SEED + 1))  # noqa: S311  and those of demo_rows()
    taken = {row.input for row in judged}
    unseen = [row for row in sample(rows, UNSEEN_ANCHORS, "test", rng) if row.input not in taken]
    return [bare(row) for row in (*sample(rows, ANCHORS, "train", rng), *unseen)]


def main() -> None:
    """Read the flags and package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that node.bundled.build has trained in")
    parser.add_argument("--out", type=Path, required=True)
    flags = parser.parse_args()
    copy_weights(flags.work / "model", flags.out)
    rows = load_rows(flags.data)
    loaded = load_model(flags.out, [])
    anchors = reanswered(loaded, anchor_rows(rows), "master")
    write_rows(anchors, flags.out.parent / "anchors.jsonl")
    validation = sample(rows, VALIDATION, "test", random.Random(SEED))  # noqa: S311  sampling, not secrets
    write_rows(map(bare, validation), flags.out.parent / "validation.jsonl")
    demo_rows(flags.data, rows, flags.out.parent.parent / "demo" / "rows")
    found = figures(loaded, flags.data, rows)
    log = [json.loads(line) for line in (flags.work / "log.jsonl").read_text().splitlines()]
    card = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    card = card.replace("{{figures}}", table(found)).replace("{{sets}}", ", ".join(MIXTURE))
    card = card.replace("{{tokens}}", f"{log[-1]['tokens'] / 1e6:.1f} M").replace(
        "{{hours}}", f"{log[-1]['seconds'] / 3600:.1f}"
    )
    (flags.out / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
