"""Plain forms of what raypro computes fast, written straight from the formulas: for tests and benchmarks only."""
