"""The conversation that finds a model: what a user wants, understood. `extract` reads turns and gives constraints."""
