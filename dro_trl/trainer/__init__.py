"""`DROTrainer`, and the warm-up's trainers.

dro_trainer, dro_config            the training loop and its options
building, starts                   from options to the pair that is trained
dataset, sampler                   rows that fit, and the order in which they are visited
pair_trainer, resuming             saving, checkpoints, going on
evaluating, searching              EM and F1 while training, the best model; searches for options
monitoring, selection_table        what is logged; the table of selections
log_table, refused_options         what is printed, what cannot be asked for
trl_adapter, warmup_*              TRL's own trainers on selections; supervised warm-ups
"""
