"""One model is loaded at a time in a process.

transformers swaps functions of its own and of torch while it loads (`PreTrainedModel.tie_weights`, the initialisers,
torch's default dtype) and then puts back what it found. Two threads at once put back what the other one had swapped,
for good: every later model of the process lacks its output matrix (huggingface/transformers pull request 44940), and
later adapters are of the other model's dtype. Float32 is what is asked for, so that the default stays meanwhile, too.
"""

from __future__ import annotations

import threading

LOADING = threading.RLock()
"""Held by whoever lets transformers, sentence-transformers or peft make a model."""
