"""TCP echo on each loop: run.py measures, server.py is measured."""
