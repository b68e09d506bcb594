"""Which model fits: not built yet. Will hold constraints, hardware estimates, score prediction and ranking."""
