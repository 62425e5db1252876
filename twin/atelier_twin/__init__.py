"""One-shot jobs of the local twin: fresh secrets at the first start, and a first version. Standard library only."""
