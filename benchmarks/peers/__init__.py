"""Servers to compare with: each as fast as its plain, idiomatic form allows."""
