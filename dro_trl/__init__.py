"""Direct Retrieval-augmented Optimization (DRO): a passage selector and an answer generator, trained together."""

from importlib.metadata import version

import lazy_loader

# The public names stand in __init__.pyi, each loaded on first use: importing the package costs no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("dro-trl")
