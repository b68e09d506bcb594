"""Federated rounds at a node: Flower's processes as children of ours, who is let in, the rows to train on."""
