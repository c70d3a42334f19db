"""One language model: what it reads, and how."""
