"""Synthetic patients for the demo, load tests and anyone without recordings. Plausible, not clinical evidence."""
