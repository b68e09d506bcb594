"""A BERT of two narrow layers with MiniLM's tokenizer, and rows of four labels in the form of banking77."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from recommender.embed import default_folder
from simulations.reproduction.classifier import Classifier
from simulations.reproduction.rows import FILE, Corpus, read_corpus

WORDS = {"card_lost": "card lost stolen", "top_up": "top up money", "exchange": "rate currency", "pin": "pin code"}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    shutil.copy(default_folder() / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("banking77")
    place = {"task": "intent", "lang": "en", "domain": "finance", "subdomain": "cards"}
    lines = [
        json.dumps({"input": f"{words} {number}" + " please" * (number % 4), "output": label, **place})
        for number in range(60)
        for label, words in WORDS.items()
    ]
    (folder / FILE).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def corpus(data: Path, model: Path) -> Corpus:
    return read_corpus(data, model)


@pytest.fixture
def classifier(model: Path, corpus: Corpus) -> Classifier:
    return Classifier(model, len(corpus.labels), 1, torch.float32)
