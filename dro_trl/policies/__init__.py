"""Selection policies: distributions over ordered subsets of the candidates, read off a language model.

base                            what a policy is: subclass `SelectionPolicy`, four methods
plackett_luce, score_weights    a score for each passage, and what it is weighed with
autoregressive                  `[3] > [1]`, written token by token
sliding_windows                 more candidates than a prompt holds
randomness                      draws that depend on seed and question alone
"""
