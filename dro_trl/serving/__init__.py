"""A trained pair behind HTTP, for `dro-trl serve` and `dro-trl demo`; needs the extras of these names.

app       the routes, and what each refuses
bodies    what requests hold
batching  requests that arrive together, read together
limits    how much a request may hold
demo      a page to look at a pair
"""
