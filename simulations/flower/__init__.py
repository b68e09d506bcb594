"""Federated rounds in Flower's simulation: the apps of `sync.federation` with many children on one machine.

    python -m simulations.flower --base node/bundled/model --rows node/bundled/validation.jsonl --clients 100
    flwr run simulations/flower/app --stream

Ray runs the children, each in turn on one core; nothing of the rounds is another than over processes, but keys and the
clock follow from the seed, so the same call makes the same release to the bit.
"""
