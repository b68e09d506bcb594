"""Synchronous rounds through Flower: our aggregation, checks and gate as its strategy, our fine-tune as its client.

Only this package and `simulations.flower` import flwr. Starting its processes is left to `node.federation`.
"""
