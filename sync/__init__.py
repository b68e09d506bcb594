"""How knowledge moves: transport, pull, push, inbox, checks, deltas, training, consolidation, gate, rebase."""
