"""A tree that learns: the network in memory with nodes that train, check, merge and judge real adapters on real rows.

`scenario` says who is there and what happens to them when, `rows` what they learn from, `base` on what. `genesis` makes
the nodes, `inner` and `client` are what they do, `cell` plays one tree from its first day to its last. `grid` plays
many, `findings` and `report` say what came of them. Checks, rules of aggregation, gate, policies and log are `sync`'s.
"""
