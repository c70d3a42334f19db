"""A trained pair behind HTTP, for `dro-trl serve`; needs the extra `serve`.

app       the routes, and what each refuses
bodies    what requests hold
batching  requests that arrive together, read together
limits    how much a request may hold
"""
