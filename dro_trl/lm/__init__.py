"""One language model: what it reads, where and how."""
