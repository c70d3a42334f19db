"""Selection policies: distributions over ordered subsets of the candidates, read off a language model.

base                            what a policy is: subclass `SelectionPolicy`, four methods
item_scores, score_weights      what the score of a passage is read off, and what it is weighed with
plackett_luce                   a score for each passage, and draws by them
conditional_scores              scores of each next passage, behind those chosen before
stochastic_beams, gold          distinct selections; selections of gold passages
autoregressive                  `[3] > [1]`, written token by token
sliding_windows                 more candidates than a prompt holds
randomness                      draws that depend on seed and question alone
"""
