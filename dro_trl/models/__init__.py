"""The pair of models: what they may be, and what they start from."""
