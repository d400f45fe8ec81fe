"""Both backends over a range of connections: the evidence for what `auto` chooses."""
