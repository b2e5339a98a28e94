"""Servers that speak SSH and TLS and install nothing, for machines that cannot have real ones and for tests."""
