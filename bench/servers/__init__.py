"""Real servers and clients on the loops; see run.py."""
