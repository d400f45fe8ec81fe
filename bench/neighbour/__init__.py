"""A server beside a thread that computes: run.py measures, the others are measured."""
