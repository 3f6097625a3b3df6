"""Other ways to do the same work, to be measured beside Vitalcast: each a program of its own, see `bench_peers.py`."""
