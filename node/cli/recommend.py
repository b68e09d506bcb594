"""`node recommend`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from node.cli.group import Call, command
from node.cli.output import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

TASKS = (
    *("text-generation", "text-classification", "token-classification", "question-answering", "summarization"),
    *("translation", "feature-extraction"),
)
FLAGS = {"language": "languages", "min_context": "min_context_tokens"}  # where a flag is not called as its slot is


@command("node recommend 'summarise German letters of patients, for a product' --memory-gb 8")
@click.argument("text", default="")
@click.option("--task", type=click.Choice(TASKS), help="What it is for.")
@click.option("--language", multiple=True, metavar="CODE", help="Language that it knows, such as de; repeatable.")
@click.option("--domain", help="Field, such as health.")
@click.option("--subdomain", help="Part of the field, such as pediatrics.")
@click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), help="Where it runs.")
@click.option("--memory-gb", type=float, help="Most memory that it may take: of the GPU, else of the machine.")
@click.option("--max-parameters-b", type=float, help="Most parameters, in billions.")
@click.option("--min-context", type=int, help="Least context, in tokens.")
@click.option("--min-tokens-per-s", type=float, help="Least speed.")
@click.option("--license", help="An SPDX identifier, or: commercial.")
@click.option("--local-only/--rented-too", default=None, help="Whether rented models are left out.")
@click.option("--finetune", is_flag=True, default=None, help="It is to be fine-tuned here.")
@click.option("--max-usd-per-mtok", type=float, help="Most that a rented model may cost.")
@click.option("--wish", "wishes", multiple=True, metavar="NAME", help="Take this one as a wish, such as memory_gb.")
@click.option("--machine", default="", metavar="NAME", help="Another machine than this one, such as 'RTX 3060 12 GB'.")
@click.option("--tree", "tree_only", is_flag=True, help="Only models that this node has, none of the shipped tables.")
@click.option("--count", type=click.IntRange(1, 100), default=5, show_default=True, help="How many answers.")
def recommend(
    call: Call, text: str, *, wishes: tuple[str, ...], machine: str, tree_only: bool, count: int, **said: Any
) -> Result:
    """Recommend models that meet every rule, best first, with reasons; or say what stands in the way.

    The need is said in TEXT, or with the options, which win over it.
    """
    from datetime import UTC, datetime

    from node.recommending import Shelf, as_data, machine_of, need_of

    values = {FLAGS.get(name, name): value for name, value in said.items()}
    with call.node() as node:
        need = need_of(text, {**values, "languages": tuple(sorted(values["languages"]))}, wishes)
        where = machine_of(text, machine, need)
        found = Shelf(node).recommend(need, where, count, datetime.now(UTC), tree_only=tree_only)
    return Result(as_data(need, found), _view)


def _view(data: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    where = data["machine"]
    said = f"{where['name']}: {where['memory_gb']:.1f} GB for a model, {where['bandwidth_gb_s']:.0f} GB/s"
    asked = Text(f"asked: {'; '.join(data['asked']) or 'nothing'}")
    head = Text(f"on {said}", style="dim")
    return Group(asked, head, "", *(_answers(data) if data["answers"] else _nothing(data)))


def _answers(data: dict[str, Any]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "model", "quality", "memory", "tokens/s", "licence", "evidence", box=None, header_style="bold")
    for place, answer in enumerate(data["answers"], start=1):
        form = "" if answer["form"] == "as stored" else f" {answer['form']}"
        name = Text.assemble((answer["model"], "bold"), (form, "dim"), ("" if answer["on_front"] else " *", "dim"))
        table.add_row(str(place), name, *(Text(cell) for cell in _cells(answer)))
    lines: list[RenderableType] = [table, ""]
    lines += [Text(line) for line in data["why"]]
    first = data["answers"][0]
    for label, said in (("missed by the first", first["missed"]), ("nobody said of the first", first["unknown"])):
        lines += [Text(f"{label}: {'; '.join(said)}")] if said else []
    if not all(answer["on_front"] for answer in data["answers"]):
        lines.append(Text("* another one is better in everything", style="dim"))
    return [*lines, *_left_out(data)]


def _cells(answer: dict[str, Any]) -> list[str]:
    known = answer["quality"] is not None
    quality = f"{answer['quality']:.1f} ({answer['low']:.0f}-{answer['high']:.0f})" if known else "unknown"
    memory = f"{answer['memory_gb']:.1f} GB" if answer["memory_gb"] is not None else "-"
    speed = f"{answer['tokens_per_s']:.0f}" if answer["tokens_per_s"] is not None else "-"
    return [quality, memory, speed, answer["license"] or "unknown", answer["grade"] or "none"]


def _nothing(data: dict[str, Any]) -> list[RenderableType]:
    from rich.text import Text

    if not data["considered"]:
        return [Text("this node knows no model yet\nnext:  node init, or: node import FOLDER_OR_HUB_ID --path en")]
    lines: list[RenderableType] = [Text(f"none of {data['considered']:,} models meets every rule", style="bold")]
    lines += [Text(f"  {_conflict(conflict)}") for conflict in data["conflicts"]]
    lines += ["", Text("what would help", style="bold")]
    return lines + [Text(f"  {line}") for way in data["ways_out"] for line in _way(way)]


def _conflict(rules: tuple[str, ...]) -> str:
    return f"{'cannot be met together' if len(rules) > 1 else 'met by none'}: {'; '.join(rules)}"


def _way(way: dict[str, Any]) -> list[str]:
    quality = f" (quality {way['best_quality']:.1f})" if way["best_quality"] is not None else ""
    models = f"{way['models']:,} model{'' if way['models'] == 1 else 's'}"
    lines = [f"{'; '.join(way['takes'])}: {models}, the best {way['best']}{quality}"]
    return lines + ([f"  that one takes {'; '.join(way['best_takes'])}"] if way["best_takes"] != way["takes"] else [])


def _left_out(data: dict[str, Any]) -> list[RenderableType]:
    from rich.text import Text

    lines = [f"{data['survivors']:,} of {data['considered']:,} models meet every rule"]
    for one in data["left_out"]:
        unknown = f", of {one['unknown']:,} nobody said" if one["unknown"] else ""
        lines.append(f"  {one['rule']}: {one['models']:,} do not{unknown}; {one['alone']:,} fail only there")
    return [Text(line, style="dim") for line in lines]
