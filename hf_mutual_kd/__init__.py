"""Pretrained models that teach each other. The names in `__init__.pyi` load on first use; importing loads no torch."""

import logging

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name):
    # transformers imports bitsandbytes wherever peft is installed, and that misses a kernel for bases in 4 bits.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_no_missing_kernel)
    try:
        return _load(name)
    finally:
        logger.removeFilter(_is_no_missing_kernel)


def _is_no_missing_kernel(record):
    return "gemm_4bit" not in record.getMessage()
