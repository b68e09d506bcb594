from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import BertForSequenceClassification

from registry.errors import BadData, LocalFailure
from simulations.reproduction.classifier import Classifier, padded
from simulations.reproduction.rows import Corpus

TARGETS = ["query", "key", "value", "dense"]


def test_the_logits_are_those_of_transformers_with_peft(classifier: Classifier, corpus: Corpus, model: Path) -> None:
    layout = classifier.layout(3)
    a, _ = layout.vectors(layout.first(1))
    b = torch.randn(layout.vectors(layout.first(1))[1].shape, generator=torch.Generator().manual_seed(1))
    theirs = BertForSequenceClassification.from_pretrained(model, num_labels=len(corpus.labels)).eval()
    config = LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS, exclude_modules=["bert.pooler.dense"])
    inject_adapter_in_model(config, theirs, "default")
    with torch.no_grad():
        theirs.classifier.weight.copy_(classifier.head)
        theirs.classifier.bias.zero_()
        for name, factor in layout.delta(a, b).items():
            module = theirs.get_submodule(f"bert.{name}")
            module.lora_A["default"].weight.copy_(factor.a)
            module.lora_B["default"].weight.copy_(factor.b)
        batch = corpus.encoded(corpus.train[:9])
        ids = padded(batch)
        expected = theirs(input_ids=ids, attention_mask=(ids != 0).long()).logits
        found = classifier.logits(batch, layout.pieces(a, b))
    assert len({len(row.ids) for row in batch}) > 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_residual_is_what_an_adapter_of_that_product_would_be(classifier: Classifier, corpus: Corpus) -> None:
    layout = classifier.layout(2)
    a, b = layout.vectors(layout.first(1))
    moved = torch.randn(b.shape, generator=torch.Generator().manual_seed(2))
    batch = corpus.encoded(corpus.train[:5])
    expected = classifier.logits(batch, layout.pieces(a, moved))
    plain = classifier.logits(batch, layout.pieces(a, b))
    classifier.set_residual({name: factor.product() for name, factor in layout.delta(a, moved).items()})
    torch.testing.assert_close(classifier.logits(batch, layout.pieces(a, b)), expected, rtol=1e-4, atol=1e-5)
    classifier.set_residual({})
    assert torch.equal(classifier.logits(batch, layout.pieces(a, b)), plain)
    assert not torch.allclose(plain, expected)


def test_an_adapter_survives_being_vectors(classifier: Classifier) -> None:
    layout = classifier.layout(4)
    delta = layout.first(3)
    again = layout.delta(*layout.vectors(delta))
    assert all(torch.equal(again[n].a, delta[n].a) and torch.equal(again[n].b, delta[n].b) for n in delta)


def test_what_is_no_bert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="no model") as told:
        Classifier(tmp_path, 4, 1, torch.float32)
    assert "pip install" in told.value.hint
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadData, match="no BERT"):
        Classifier(tmp_path, 4, 1, torch.float32)
