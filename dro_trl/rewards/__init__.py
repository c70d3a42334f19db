"""Rewards: callables with TRL's signature, dataset columns as keyword arguments in, one number per selection out.

calls       checking, calling and adding up several
likelihood  the generator's log-likelihood of the answer, DRO's
answer      exact match and token F1 of the generated answer
evidence    recall of gold passages
"""
