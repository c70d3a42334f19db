"""Rewards: callables with TRL's signature, dataset columns as keyword arguments in, one number per selection out."""
