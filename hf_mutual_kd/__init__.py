"""Pretrained models that teach each other. The names in `__init__.pyi` load on first use; importing loads no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
