"""`dro-trl run`: public files to an evaluated pair, in stages that are not run twice.

plan     a recipe's sections as stages
stage    a command with what it reads and makes
digests  what has changed since
running  stages one after the other
"""
