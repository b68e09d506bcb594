"""The network in memory: nodes with real databases, keys, documents and rules, over a network that fails and lies.

`clock` and `network` are the world, `member` an honest node of it with `server` and `rounds`, `liars` the others.
`trial` plays one seed, `faults` many (`python -m simulations.faults --seeds 0:10000`).
"""
