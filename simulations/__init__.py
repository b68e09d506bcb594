"""The network in memory: not built yet. Will hold simulated peers, attackers, policy runs and federated rounds."""
