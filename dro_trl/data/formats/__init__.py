"""Public datasets as they are distributed, made into rows; a new one is a file here and an entry of `table`.

base, table       what a format tells, and all that there are
converting, hub   files through a format into rows, and from the Hub
with_passages     formats whose rows carry their passages
"""
