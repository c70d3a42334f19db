"""The pair of models: what they may be, how they are read, written whole or not at all, and merged."""
