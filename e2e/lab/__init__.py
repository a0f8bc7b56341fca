"""Laboratories of network namespaces, shared by the demo, the benchmarks and the namespace tests."""
