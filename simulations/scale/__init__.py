"""Trees of up to a million nodes without training: events whose costs were measured on real nodes."""
