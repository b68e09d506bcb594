"""Attacks on what children send: on their rows, and on the adapters of a cohort."""
