"""Releases as a TUF repository: what a node publishes, which keys may sign it, and how a child follows it.

TUF (theupdateframework.github.io, through python-tuf) adds what a signature alone lacks: protection against rollback,
freezing, mixing and endless data, and a way to change keys.
"""
