"""What a whole command costs: import, start of a loop, a server until its first answer."""
