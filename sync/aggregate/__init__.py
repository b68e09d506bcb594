"""From many deltas to one: averages, robust rules and mergers, all on ΔW, and what each of them needs."""
