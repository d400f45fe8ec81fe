"""Two workers against one: handlers.py is the work, loads.py runs it, child.py measures, run.py asks."""
