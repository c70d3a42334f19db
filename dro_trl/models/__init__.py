"""The pair of models: what they may be, how they are read, written whole or not at all, and merged.

selector_generator, answers, value_head  the module that is trained, and its parts
reading, loading, names, causal_lm       a model from a folder or the Hub, and what is refused
adapters, quantised, merging             LoRA on one base or two, four and eight bits, merging
saving, replacing, pair_config, files    a pair on disk
model_card, gemma                        what a pair says of itself; the small model to begin with
"""
