"""What one operation of a loop costs: cases.py does it, child.py runs one case, run.py measures."""
