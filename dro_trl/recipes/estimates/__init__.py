"""`dro-trl estimate`: memory and time before anything is run.

estimate                 a recipe's estimate
memory, flops            the formulas
model_shapes, lengths    what they are given; known_models: sizes without files
quantities               the values that they speak of
"""
