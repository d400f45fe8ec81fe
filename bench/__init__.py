"""The benchmarks of pyloop: ``python -m bench http|echo|micro|all`` (see bench/README.md)."""
