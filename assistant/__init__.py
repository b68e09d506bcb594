"""The conversation that finds a model: not built yet. Will hold understanding, questions, explanations and tools."""
