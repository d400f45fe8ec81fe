"""One Python worker with an I/O worker beside it, against all of it in one thread."""
