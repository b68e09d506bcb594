"""A node that can really be trained: a random Llama of two layers with a byte-level tokenizer, at master and en."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from node.bundled.build import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from node.context import Node
from registry.documents import BaseManifest, Release, ReleasePin
from registry.rows import Row, write_rows
from sync.chain import serve, signed_link
from tests.world import make_node, put, put_base, utc_now

COLOURS = ("red", "green", "blue", "white", "black")


def anchor_rows(count: int, path: str = "en") -> list[Row]:
    """Old knowledge: what colour number n has."""
    return [Row(f"colour {n}", COLOURS[n % 5], task="colour", lang=path) for n in range(count)]


def own_rows(count: int) -> list[Row]:
    """New knowledge: whether a number is even."""
    return [Row(f"is {n} even", "yes" if n % 2 == 0 else "no") for n in range(count)]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: 32 hidden units, 2 layers, one token per byte."""
    folder = tmp_path_factory.mktemp("tiny")
    bytes_as_text = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL_TOKENS, *bytes_as_text]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[PAD],
        eos_token=SPECIAL_TOKENS[END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_node(tmp_path: Path, tiny_base: Path) -> Iterator[Node]:
    """An open node with releases at master and en on the tiny base, each with an anchor set."""
    node = make_node(tmp_path / "home", "master", threads=1, precision="fp32")
    base = put_base(node, {file.name: file.read_bytes() for file in tiny_base.iterdir()})
    master = put_anchored(node, "master", base, None, anchor_rows(60))
    put_anchored(node, "en", base, master, anchor_rows(60))
    yield node
    node.close()


def put_anchored(
    node: Node, path: str, base: BaseManifest, above: ReleasePin | None, anchors: Sequence[Row]
) -> ReleasePin:
    """Sign and store a release without an adapter as the head of its path."""
    file = node.home.partial / "anchors.jsonl"
    write_rows(anchors, file)
    release = Release(
        path=path,
        version=1,
        base=base.digest,
        base_name=base.name,
        adapter=None,
        above=above,
        previous=None,
        anchors=put(node, "anchors.jsonl", file.read_bytes()),
        card=put(node, "README.md", f"# {path}\n".encode()),
        evaluations=(),
        contributions=(),
        recompression_error=None,
        created=utc_now(),
        expires=utc_now() + timedelta(days=30),
    )
    link = signed_link(release, node.key)
    with node.store.transaction() as session:
        serve(session, link, utc_now())
    return link.pin
