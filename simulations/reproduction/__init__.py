"""Federated LoRA as its papers compare it: Table 1 of LoRA-A² (arXiv 2410.22815) at a size that two cores play.

`paper` holds the figures of the table, `methods` what each method trains and by which rule of `sync.aggregate` it is
merged, `ranks` what LoRA-A² adds. `rows` shares banking77 among clients, `classifier` is the model, `halves` its
adapter as vectors, `client` one client's work, `cell` one federation from its first round to its last, `grid` many of
them, `study` which and with what learning rates; `findings`, `table` and `plot` are what they say beside the paper.
"""
