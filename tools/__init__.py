"""What developers and the demo use, not installed: the zoo of real trained models, benchmarks, the conformance runner."""
