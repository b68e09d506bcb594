"""The log of a node's decisions: a Merkle tree that only grows, signed checkpoints, proofs."""
