"""What selections weigh and what is descended: pure functions of tensors.

loss_types     `loss_type` to loss; a new loss is a function, a line there and a value in `options`
dro            importance weights and DRO's loss
baselines      GRPO, RLOO, REINFORCE, PPO
without_draws  REPLUG LSR, EMDR², supervision
base, options  what a loss is given
terms          entropy and KL, which several share
"""
