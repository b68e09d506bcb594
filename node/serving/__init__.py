"""Serving models: requests in one neutral form, and the backends that answer them. No wire format is known here."""
