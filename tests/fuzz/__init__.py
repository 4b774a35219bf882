"""Coverage-guided fuzzers of what reads strangers' files: `python -m tests.fuzz.gguf [SECONDS]`."""
