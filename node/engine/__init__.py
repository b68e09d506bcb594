"""The engine: many requests for many paths of one tree, answered together from one base in memory.

Scheduling (`scheduler`, `blocks`, `sequence`) knows no tensors; tensors (`runner` and below) know no requests; `engine`
brings them together. Nothing here imports anything of ours from outside this package.
"""
